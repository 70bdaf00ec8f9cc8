//! What an allowed name is answered with.
//!
//! Resolve, examine, allocate, record, publish, answer: in this order, for each query; the attempt
//! sees to it that recording and publishing happen once.

use std::net::IpAddr;
use std::time::Duration;

use agentguard_model::{Reason, ReasonCode};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, HTTPS, SVCB};
use hickory_proto::rr::{RData, RecordType};

use super::message::{Reply, type_name};
use super::{Asking, Server, fault, seconds, told};
use crate::names::{Found, Said};
use crate::port::{Addresses, Answer, Port, Published};
use crate::upstream::{Failure, Wanted};
use crate::virtual_addresses::Refused;

impl<P: Port> Server<P> {
    /// The answer for a name that the policy allows.
    pub(super) async fn allowed(&self, asking: &Asking<'_, P::Token>) -> Reply {
        match asking.question.record_type() {
            RecordType::A => self.addresses(asking, Wanted::A).await,
            RecordType::AAAA => self.addresses(asking, Wanted::Aaaa).await,
            RecordType::HTTPS => self.services(asking, Wanted::Https).await,
            RecordType::SVCB => self.services(asking, Wanted::Svcb).await,
            RecordType::ANY => {
                let reason = unsupported("ANY");
                let reply = Reply::any(self.negative_ttl());
                self.refuse(asking, Answer::Denied(reason.clone()), reply, &reason)
                    .await
            }
            RecordType::CNAME
            | RecordType::DNAME
            | RecordType::NS
            | RecordType::SOA
            | RecordType::PTR
            | RecordType::CAA
            | RecordType::DS
            | RecordType::DNSKEY
            | RecordType::RRSIG
            | RecordType::NSEC
            | RecordType::NSEC3
            | RecordType::NSEC3PARAM
            | RecordType::CDS
            | RecordType::CDNSKEY
            | RecordType::CSYNC => match self.settle(asking, Answer::Empty, None).await {
                Ok(_) => Reply::no_data(self.negative_ttl()),
                Err(reason) => fault(&reason),
            },
            other => {
                let reason = unsupported(&type_name(other));
                let reply = Reply::no_data(self.negative_ttl());
                self.refuse(asking, Answer::Denied(reason.clone()), reply, &reason)
                    .await
            }
        }
    }

    async fn addresses(&self, asking: &Asking<'_, P::Token>, wanted: Wanted) -> Reply {
        let found = self.find(asking, Some(wanted)).await;
        let answer = found.answer(asking.name);
        if !matches!(answer, Answer::Addresses(_)) {
            return self.conclude(asking, answer).await;
        }
        let published = match self.published(asking, &found).await {
            Ok(published) => published,
            Err(reason) => {
                return self.conclude(asking, Answer::Denied(reason)).await;
            }
        };
        let id = match self
            .settle(asking, answer, found.unenforced(asking.name))
            .await
        {
            Ok(id) => id,
            Err(reason) => return fault(&reason),
        };
        if let Err(reason) = self.publish(asking, &published).await {
            self.shared.port.unanswered(id, &reason);
            return fault(&reason);
        }
        let ttl = seconds(match asking.ruling.addresses {
            Addresses::Virtual => self.shared.options.ttl,
            Addresses::Real => self.real_ttl(&found),
        });
        let (said, answered) = match wanted {
            Wanted::Aaaa => (&found.said6, published.dialled(false)),
            _ => (&found.said4, published.dialled(true)),
        };
        match said {
            _ if !answered.is_empty() => {
                Reply::records(answered.into_iter().map(|ip| (ttl, data(ip))).collect())
            }
            Said::Failed(_) | Said::Busy | Said::Late => Reply::code(ResponseCode::ServFail),
            Said::Records | Said::NoData | Said::NoName => Reply::no_data(self.negative_ttl()),
        }
    }

    /// HTTPS and SVCB: only where the name's addresses may be dialled, so that the verdict does
    /// not depend on what was asked for first.
    async fn services(&self, asking: &Asking<'_, P::Token>, wanted: Wanted) -> Reply {
        if asking.ruling.stands_alone() {
            return self
                .conclude(asking, Found::elsewhere().answer(asking.name))
                .await;
        }
        let upstream = &self.shared.names.upstream;
        let (found, known) = tokio::join!(
            self.find(asking, None),
            upstream.lookup(asking.name, wanted)
        );
        let answer = found.answer(asking.name);
        if !answer.allows() {
            return self.conclude(asking, answer).await;
        }
        if let Err(reason) = self
            .settle(asking, answer, found.unenforced(asking.name))
            .await
        {
            return fault(&reason);
        }
        let records = match &known.result {
            Ok(records) => records,
            Err(Failure::NoData) => return Reply::no_data(self.negative_ttl()),
            Err(Failure::NoName) => return Reply::no_name(self.negative_ttl()),
            Err(Failure::Busy | Failure::Failed(_)) => {
                return Reply::code(ResponseCode::ServFail);
            }
        };
        let ttl = seconds(known.ttl().min(self.shared.options.ttl));
        if records.services.is_empty() {
            return Reply::no_data(self.negative_ttl());
        }
        let data = |record: &SVCB| match wanted {
            Wanted::Https => (ttl, RData::HTTPS(HTTPS(record.clone()))),
            _ => (ttl, RData::SVCB(record.clone())),
        };
        Reply::records(records.services.iter().map(data).collect())
    }

    async fn find(&self, asking: &Asking<'_, P::Token>, wanted: Option<Wanted>) -> Found {
        let ruling = asking.ruling;
        if ruling.stands_alone() {
            return Found::elsewhere();
        }
        self.shared
            .names
            .find(asking.name, wanted, &ruling.ranges, ruling.observing)
            .await
    }

    /// What the agent may dial from now on; allocates, durably.
    async fn published(
        &self,
        asking: &Asking<'_, P::Token>,
        found: &Found,
    ) -> Result<Published, Reason> {
        let mut published = Published {
            virtual4: None,
            virtual6: None,
            real: found.fine(),
            ttl: self.real_ttl(found),
        };
        if asking.ruling.addresses == Addresses::Real {
            return Ok(published);
        }
        let pair = self
            .shared
            .names
            .virtual_addresses
            .answer(asking.name, asking.client.agent)
            .await
            .map_err(|refused| {
                let code = match refused {
                    Refused::Exhausted(_) | Refused::ShareUsed(_) => {
                        ReasonCode::VirtualAddressesExhausted
                    }
                    Refused::Storage(_) | Refused::Closed => ReasonCode::Internal,
                };
                Reason::new(code, refused.to_string())
            })?;
        let stands = |fine: &[IpAddr]| found.elsewhere || !fine.is_empty();
        published.virtual4 = stands(&found.fine4).then_some(pair.v4);
        published.virtual6 = stands(&found.fine6).then_some(pair.v6);
        published.ttl = published.ttl.max(self.shared.options.ttl);
        Ok(published)
    }

    /// Tells the kernel, once for all queries of an attempt that found the same.
    async fn publish(
        &self,
        asking: &Asking<'_, P::Token>,
        published: &Published,
    ) -> Result<(), Reason> {
        let tell = || async {
            let (agent, name) = (asking.client.agent, asking.name);
            let told = self.shared.port.publish(agent, name, published).await;
            told.map(|()| published.clone())
        };
        let told = asking.attempt.published.get_or_try_init(tell).await?;
        if !told.covers(published) {
            tell().await?;
        }
        Ok(())
    }

    /// Records what became of a name and answers with a refusal or with nothing.
    async fn conclude(&self, asking: &Asking<'_, P::Token>, answer: Answer) -> Reply {
        let negative = self.negative_ttl();
        let (reply, reason) = match &answer {
            Answer::Denied(reason) => {
                let reply = match reason.code {
                    ReasonCode::Rebinding => Reply::no_name(negative),
                    _ => Reply::code(ResponseCode::ServFail),
                };
                let reason = reason.clone();
                return self.refuse(asking, answer, reply, &reason).await;
            }
            Answer::Unknown(_) => (Reply::no_name(negative), None),
            Answer::Failed(reason) => (Reply::code(ResponseCode::ServFail), Some(reason.clone())),
            Answer::Empty | Answer::Addresses(_) | Answer::Refused => {
                (Reply::no_data(negative), None)
            }
        };
        match self.settle(asking, answer, None).await {
            Ok(id) => match reason {
                Some(reason) => reply.because(reason.code, told(&reason, Some(id))),
                None => reply,
            },
            Err(reason) => fault(&reason),
        }
    }

    fn real_ttl(&self, found: &Found) -> Duration {
        let bound = self.shared.options.max_real_ttl;
        found.ttl.min(bound).max(Duration::from_secs(1))
    }
}

impl Published {
    /// Whether virtual addresses stand for the name.
    #[must_use]
    pub const fn is_virtual(&self) -> bool {
        self.virtual4.is_some() || self.virtual6.is_some()
    }

    /// The addresses of one family that the agent is answered with.
    fn dialled(&self, v4: bool) -> Vec<IpAddr> {
        let mut dialled: Vec<IpAddr> = if self.is_virtual() {
            let (virtual4, virtual6) =
                (self.virtual4.map(IpAddr::V4), self.virtual6.map(IpAddr::V6));
            virtual4.into_iter().chain(virtual6).collect()
        } else {
            self.real.clone()
        };
        dialled.retain(|ip| ip.is_ipv4() == v4);
        dialled
    }

    /// Whether who knows this knows `other` too.
    fn covers(&self, other: &Self) -> bool {
        (self.virtual4, self.virtual6) == (other.virtual4, other.virtual6)
            && self.real == other.real
    }
}

const fn data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

fn unsupported(record_type: &str) -> Reason {
    Reason::new(
        ReasonCode::DnsNotSupported,
        format!("{record_type} records are not given to agents"),
    )
}
