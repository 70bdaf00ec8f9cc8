//! What the proxy asks of outer rooms.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};

use agentguard_decision::Client;
use agentguard_model::{AgentId, HostName, Reason};

use crate::leaves::{Leaf, Subject};

/// Where a redirected connection comes from and where it was meant to go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// Who connected.
    pub client: Client,
    /// What was dialled: an address of the outside, or a virtual one.
    pub destination: SocketAddr,
    /// The name that the address stands for, where it is a virtual one.
    pub name: Option<HostName>,
}

/// The gate's memory of redirected connections, and the resolver.
pub trait Port: Send + Sync + 'static {
    /// The origin of the connection that `peer` opened in network namespace `netns`. Answers once
    /// and forgets; the gate wrote the entry before the connection could be accepted.
    fn origin(&self, netns: u64, peer: SocketAddr) -> Option<Origin>;

    /// The name that an address stands for, where it is a virtual one, or where this agent was
    /// answered it for a name.
    fn name_behind(&self, agent: AgentId, ip: IpAddr) -> Option<HostName>;

    /// Whether an address is this host's own loopback, or unspecified, which leads there: no tunnel
    /// does.
    fn is_own(&self, ip: IpAddr) -> bool;

    /// Why this agent may not reach a name at an address, whatever the rules say of it: the guard
    /// against rebinding.
    fn closed(&self, agent: AgentId, name: &HostName, ip: IpAddr) -> Option<Reason>;

    /// The real addresses of a name that this agent was answered, each one validated against the
    /// policy's ranges, in the order in which to try them.
    ///
    /// # Errors
    /// Why there is none.
    fn resolve(
        &self,
        agent: AgentId,
        name: &HostName,
    ) -> impl Future<Output = Result<Vec<IpAddr>, Reason>> + Send;

    /// A certificate for `subject` and this key (SubjectPublicKeyInfo in DER), signed by the
    /// guard's authority. For a subject that the policy does not let this agent's traffic be
    /// inspected for there is none.
    ///
    /// # Errors
    /// Why it is not signed.
    fn sign(
        &self,
        agent: AgentId,
        subject: &Subject,
        public_key: &[u8],
    ) -> impl Future<Output = Result<Leaf, Reason>> + Send;
}
