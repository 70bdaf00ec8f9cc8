//! Where a connection goes, and may go.

use std::net::{IpAddr, SocketAddr};
use std::sync::PoisonError;

use agentguard_decision::{Recorder, Target};
use agentguard_model::{Reason, ReasonCode};
use tokio::time::timeout;

use super::Flow;
use crate::Port;
use crate::dial::dial;
use crate::http::{Key, Spoken};
use crate::outward::Outward;
use crate::route::Route;

/// To how many addresses one connection of a client's may lead in its time.
const MAX_DIALLED: usize = 64;

impl<R: Recorder, P: Port> Flow<R, P> {
    /// Dials where this connection goes: what the name resolves to, or the address that was
    /// dialled. Nothing that the client says plays a part.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(crate) async fn dial(&self) -> Result<(Outward, Option<SocketAddr>), Reason> {
        let (limits, health) = (&self.guard.limits, &self.guard.health);
        let route = self.route.clone()?;
        let dialled = async {
            if let Route::Through(via, to) = &route {
                return Ok((via.open(to, limits, health).await?, None));
            }
            let dialled = dial(route.addresses(), limits, health).await;
            let (stream, peer) = dialled.map_err(|why| unreachable(&why))?;
            Ok((stream, Some(peer)))
        };
        let (stream, peer) = match timeout(limits.dial, dialled).await {
            Ok(dialled) => dialled?,
            Err(_) => return Err(unreachable(&route.silent(limits.dial))),
        };
        self.goes_to(peer)?;
        let agent = self.client.agent;
        let cut = self.guard.decider.directory().cut_of(agent);
        let stream = Outward::new(stream, cut, self.guard.carried.one(agent));
        Ok((stream, peer))
    }

    /// Notes the address that a connection of it goes to from now on, where it is known. Others of it, with other
    /// requests, may be open to those before.
    ///
    /// # Errors
    /// There were [`MAX_DIALLED`] others. Or the policy has changed since it was looked up where it may go.
    pub(crate) fn goes_to(&self, peer: Option<SocketAddr>) -> Result<(), Reason> {
        if let (Ok(Route::To(_)), Some(peer)) = (&self.route, peer) {
            let address = peer.ip().to_canonical();
            let mut dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
            if !dialled.contains(&address) {
                if dialled.len() >= MAX_DIALLED {
                    return Err(unreachable(
                        "it has gone to too many addresses: connect again",
                    ));
                }
                dialled.push(address);
            }
        }
        // A change from here on finds the address that was dialled; one before was about none.
        if self.is_stale() {
            let message = "the policy changed while the upstream was dialled: connect again";
            return Err(Reason::new(ReasonCode::PolicyChanged, message));
        }
        Ok(())
    }

    /// Whether it may go where a connection goes, by the look-up that it has made.
    pub(crate) fn may_go_to(&self, peer: Option<SocketAddr>) -> bool {
        match (&self.route, peer) {
            (Ok(Route::Through(..)), None) => true,
            (Ok(route), Some(peer)) => route.addresses().contains(&peer),
            _ => false,
        }
    }

    /// What an upstream connection that it has opened is known by.
    pub(crate) fn key(&self, peer: Option<SocketAddr>, spoken: Spoken) -> Key {
        Key {
            agent: self.client.agent,
            host: self.target.host.clone(),
            port: self.target.port,
            peer,
            spoken,
        }
    }

    /// The addresses behind the name: those that may be dialled, also where one was, since that may be gone for the next
    /// request. None where the name is configured to be elsewhere.
    pub(crate) fn behind(&self) -> Vec<IpAddr> {
        let mut behind: Vec<IpAddr> = match &self.route {
            Ok(Route::To(addresses)) => addresses.iter().map(SocketAddr::ip).collect(),
            _ => Vec::new(),
        };
        for ip in self.dialled() {
            if !behind.contains(&ip) {
                behind.push(ip);
            }
        }
        behind
    }

    /// The addresses that were dialled.
    fn dialled(&self) -> Vec<IpAddr> {
        let dialled = self.dialled.lock();
        dialled.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why an address that was dialled may not be used any more.
    pub(super) fn closed(&self) -> Option<Reason> {
        let name = self.target.host.as_ref()?;
        let mut dialled = self.dialled().into_iter();
        dialled.find_map(|ip| self.guard.port.closed(self.client.agent, name, ip))
    }

    /// The target, with each address that a rule on addresses would be about by now: those that were dialled, or where
    /// none was, as none is of a proxy that a tunnel was asked of, all that could be.
    pub(super) fn reached(&self) -> Vec<Target> {
        let mut addresses = self.dialled();
        if addresses.is_empty() {
            addresses = self.behind();
        }
        if self.target.ip.is_some() || self.target.host.is_none() || addresses.is_empty() {
            return vec![self.target.clone()];
        }
        let there = |ip| Target {
            ip: Some(ip),
            ..self.target.clone()
        };
        addresses.into_iter().map(there).collect()
    }

    /// Whether one of the addresses that it may go to is such.
    pub(crate) fn leads_to(&self, such: impl Fn(IpAddr) -> bool) -> bool {
        let routes = self.route.as_ref().into_iter();
        let mut addresses = routes.flat_map(Route::addresses);
        addresses.any(|address| such(address.ip().to_canonical()))
    }

    /// Why it can be dialled nowhere, if that is known already.
    pub(crate) fn unreachable(&self) -> Option<Reason> {
        self.route.as_ref().err().cloned()
    }
}

pub(crate) fn unreachable(why: &str) -> Reason {
    let message = format!("the upstream cannot be reached: {why}");
    Reason::new(ReasonCode::UpstreamUnreachable, message)
}
