//! Where a connection may go: looked up once under one policy, before anything is dialled.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agentguard_decision::{Foreseen, Recorder, Target};
use agentguard_model::Reason;
use agentguard_protocol::tunnel::Destination;
use tokio::time::timeout;

use crate::connection::{Guard, unreachable};
use crate::via::Via;
use crate::{Origin, Port};

/// Where a connection may go.
#[derive(Clone)]
pub(crate) enum Route {
    /// To the addresses behind the name that no rule denies, or the one dialled.
    To(Vec<SocketAddr>),
    /// To one that the operator has said.
    Configured(SocketAddr),
    /// Through a proxy of the operator's, which goes there by its own look-up.
    Through(Arc<Via>, Destination),
}

impl Route {
    /// The addresses, where they are known.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        match self {
            Self::To(addresses) => addresses,
            Self::Configured(address) => std::slice::from_ref(address),
            Self::Through(..) => &[],
        }
    }

    /// That nothing answered in time.
    pub(crate) fn silent(&self, bound: Duration) -> String {
        match self {
            Self::Through(via, to) => {
                let proxy = via.name();
                format!("the proxy {proxy} gave no answer for {to} in {bound:?}")
            }
            _ => format!("no answer in {bound:?}"),
        }
    }
}

/// Where a connection goes, and on which route. A rule on addresses can deny one behind a name;
/// where it denies all of them, the decision is on the first.
pub(crate) async fn locate<R: Recorder, P: Port>(
    guard: &Guard<R, P>,
    origin: &Origin,
) -> (Target, Result<Route, Reason>) {
    let port = origin.destination.port();
    let target = |ip| Target {
        host: origin.name.clone(),
        ip,
        port,
    };
    let Some(name) = &origin.name else {
        let ip = origin.destination.ip().to_canonical();
        return (target(Some(ip)), Ok(Route::To(vec![origin.destination])));
    };
    let denied = |ip| guard.decider.foresee(&origin.client, &target(ip)) == Foreseen::Deny;
    if denied(None) {
        return (target(None), Ok(Route::To(Vec::new())));
    }
    // The operator has said where it is or who goes there, and vouches for it.
    let upstreams = &guard.tls.upstreams;
    if let Some((via, to)) = upstreams.via(name, port) {
        return (target(None), Ok(Route::Through(via, to)));
    }
    if let Some(address) = upstreams.address(name, port) {
        return (target(None), Ok(Route::Configured(address)));
    }
    let resolving = guard.port.resolve(origin.client.agent, name);
    let ips = match timeout(guard.limits.dial, resolving).await {
        Ok(Ok(ips)) => ips,
        Ok(Err(reason)) => return (target(None), Err(reason)),
        Err(_) => {
            let why = format!("no address within {:?}", guard.limits.dial);
            return (target(None), Err(unreachable(&why)));
        }
    };
    let addresses: Vec<SocketAddr> = ips
        .iter()
        .filter(|ip| !denied(Some(**ip)))
        .map(|ip| SocketAddr::new(*ip, port))
        .collect();
    let decisive = if addresses.is_empty() {
        ips.first().copied()
    } else {
        None
    };
    (target(decisive), Ok(Route::To(addresses)))
}
