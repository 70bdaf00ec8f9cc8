//! Names, the addresses they really have, and the addresses that stand for them.

use std::net::IpAddr;
use std::time::Duration;

use agentguard_model::special::Special;
use agentguard_model::{HostName, Reason, ReasonCode};
use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};

use crate::guard;
use crate::port::Answer;
use crate::upstream::{Failure, Known, Upstream, Wanted};
use crate::virtual_addresses::VirtualAddresses;

/// How long an answer waits for the other address family. A server that never answers AAAA, of
/// which there are many, costs this and not a timeout.
const GRACE: Duration = Duration::from_millis(250);

/// What the resolver and the proxy share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Names {
    pub(crate) virtual_addresses: VirtualAddresses,
    pub(crate) upstream: Upstream,
}

impl Names {
    /// Puts the two together.
    #[must_use]
    pub const fn new(virtual_addresses: VirtualAddresses, upstream: Upstream) -> Self {
        Self {
            virtual_addresses,
            upstream,
        }
    }

    /// The addresses of a name that may be dialled, IPv4 first, never none. `ranges` and
    /// `observing` are those of the ruling on the name. Answers live in the cache for their TTL;
    /// the guard looks at them each time.
    ///
    /// # Errors
    /// `rebinding`, `name_unknown`, `no_address`, `resolver_failed` or `limit_reached`.
    pub async fn resolve(
        &self,
        name: &HostName,
        ranges: &[IpNet],
        observing: bool,
    ) -> Result<Vec<IpAddr>, Reason> {
        let found = self.find(name, None, ranges, observing).await;
        match found.answer(name) {
            Answer::Addresses(addresses) => Ok(addresses),
            Answer::Unknown(reason) | Answer::Failed(reason) | Answer::Denied(reason) => {
                Err(reason)
            }
            Answer::Empty | Answer::Refused => Err(Reason::new(
                ReasonCode::NoAddress,
                format!("{name} has no addresses"),
            )),
        }
    }

    /// How many names have virtual addresses.
    #[must_use]
    pub fn addressed(&self) -> usize {
        self.virtual_addresses.len()
    }

    /// The name that a virtual address stands for. A look-up in memory.
    #[must_use]
    pub fn name_behind(&self, ip: IpAddr) -> Option<HostName> {
        self.virtual_addresses.name_behind(ip)
    }

    /// Asks for both families, and waits for the wanted one and a little for the other; without a
    /// wanted one, for the first that has addresses. The decision is on the name, so it must not
    /// depend on which family was asked for first.
    pub(crate) async fn find(
        &self,
        name: &HostName,
        wanted: Option<Wanted>,
        ranges: &[IpNet],
        observing: bool,
    ) -> Found {
        let mut asking4 = std::pin::pin!(self.upstream.lookup(name, Wanted::A));
        let mut asking6 = std::pin::pin!(self.upstream.lookup(name, Wanted::Aaaa));
        let (mut said4, mut said6): (Option<Known>, Option<Known>) = (None, None);
        let has = |said: &Option<Known>| said.as_ref().is_some_and(|known| known.result.is_ok());
        let mut until: Option<Instant> = None;
        while said4.is_none() || said6.is_none() {
            let enough = match wanted {
                Some(Wanted::A) => said4.is_some(),
                Some(Wanted::Aaaa) => said6.is_some(),
                _ => has(&said4) || has(&said6),
            };
            if enough && until.is_none() {
                until = Some(Instant::now() + GRACE);
            }
            tokio::select! {
                biased;
                known = &mut asking4, if said4.is_none() => said4 = Some(known),
                known = &mut asking6, if said6.is_none() => said6 = Some(known),
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            }
        }
        Found::new(said4.as_ref(), said6.as_ref(), ranges, observing)
    }
}

/// What upstream said of one address family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Said {
    Records,
    NoData,
    NoName,
    Busy,
    Failed(String),
    /// Nothing yet; nobody waits any longer.
    Late,
}

impl Said {
    fn of(known: Option<&Known>) -> Self {
        match known.map(|known| &known.result) {
            None => Self::Late,
            Some(Ok(_)) => Self::Records,
            Some(Err(Failure::NoData)) => Self::NoData,
            Some(Err(Failure::NoName)) => Self::NoName,
            Some(Err(Failure::Busy)) => Self::Busy,
            Some(Err(Failure::Failed(why))) => Self::Failed(why.clone()),
        }
    }
}

/// A name's addresses after the guard.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) fine4: Vec<IpAddr>,
    pub(crate) fine6: Vec<IpAddr>,
    pub(crate) said4: Said,
    pub(crate) said6: Said,
    /// The time for which both families hold; zero where one must be asked for again at once.
    pub(crate) ttl: Duration,
    /// Whether somebody else resolves the name: nothing was asked, and its addresses are not known.
    pub(crate) elsewhere: bool,
    denied: Vec<(IpAddr, Special)>,
    unenforced: Vec<(IpAddr, Special)>,
}

impl Found {
    /// Of a name that somebody else resolves.
    pub(crate) fn elsewhere() -> Self {
        Self {
            elsewhere: true,
            ..Self::new(None, None, &[], false)
        }
    }

    fn new(
        said4: Option<&Known>,
        said6: Option<&Known>,
        ranges: &[IpNet],
        observing: bool,
    ) -> Self {
        let addresses = [said4, said6]
            .into_iter()
            .flatten()
            .filter_map(|known| known.result.as_ref().ok())
            .flat_map(|records| records.addresses.iter().copied());
        let examined = guard::examine(addresses, ranges, observing);
        let (fine4, fine6) = examined.fine.into_iter().partition(IpAddr::is_ipv4);
        let ttl = [said4, said6]
            .into_iter()
            .flatten()
            .filter(|known| known.result.is_ok())
            .map(Known::ttl)
            .min()
            .unwrap_or_default();
        Self {
            fine4,
            fine6,
            said4: Said::of(said4),
            said6: Said::of(said6),
            ttl,
            elsewhere: false,
            denied: examined.denied,
            unenforced: examined.unenforced,
        }
    }

    pub(crate) fn fine(&self) -> Vec<IpAddr> {
        self.fine4.iter().chain(&self.fine6).copied().collect()
    }

    /// What became of the name, over both families. A name server that says NXDOMAIN for a type
    /// it does not know (RFC 4074 §4.2) does not undo the other type.
    pub(crate) fn answer(&self, name: &HostName) -> Answer {
        let fine = self.fine();
        if self.elsewhere || !fine.is_empty() {
            return Answer::Addresses(fine);
        }
        if !self.denied.is_empty() {
            let sentence = guard::sentence(name.as_str(), &self.denied);
            return Answer::Denied(Reason::new(ReasonCode::Rebinding, sentence));
        }
        match (&self.said4, &self.said6) {
            (Said::NoName, _) | (_, Said::NoName) => Answer::Unknown(Reason::new(
                ReasonCode::NameUnknown,
                format!("{name} does not exist"),
            )),
            (Said::Failed(why), _) | (_, Said::Failed(why)) => Answer::Failed(Reason::new(
                ReasonCode::ResolverFailed,
                format!("{name} could not be resolved: {why}"),
            )),
            (Said::Busy, _) | (_, Said::Busy) => Answer::Denied(Reason::new(
                ReasonCode::LimitReached,
                "too many questions to the name servers are under way",
            )),
            _ => Answer::Empty,
        }
    }

    /// What the guard would have denied, were the mode enforce, where nothing fine is beside it.
    pub(crate) fn unenforced(&self, name: &HostName) -> Option<Reason> {
        let only = self.unenforced.len() == self.fine4.len() + self.fine6.len();
        (only && !self.unenforced.is_empty()).then(|| {
            let sentence = guard::sentence(name.as_str(), &self.unenforced);
            Reason::new(ReasonCode::Rebinding, sentence)
        })
    }
}
