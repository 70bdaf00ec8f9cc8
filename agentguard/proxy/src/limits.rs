//! Bounds, and what happens at each.

use std::time::Duration;

/// The bounds of one listener; those on what waits and what is ill, of all together. Heads are bounded in `agentguard_protocol`: a ClientHello at 64 KiB
/// (refused), an HTTP head at 64 KiB and 128 fields (431).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once. Beyond it a connection is refused with `limit_reached`, recorded, and
    /// reset.
    pub connections: usize,
    /// Connections at once of one agent, so that it cannot take the others' places. Beyond it as
    /// above.
    pub connections_per_agent: usize,
    /// How long to wait for a client's first byte where the policy allows the connection whatever
    /// it says and the port is not a web port. Then the upstream is dialled: it may speak first.
    pub client_first: Duration,
    /// How long a client may take for a ClientHello or a request's head, and, where the first bytes
    /// are needed, for the first of them. Then it is refused with `client_timeout`.
    pub head: Duration,
    /// How long a client may take for the content of a call of a language model, which is read before it is
    /// decided on. Then it is refused with `client_timeout`.
    pub call: Duration,
    /// How long an HTTP connection may idle between requests. Then it is closed.
    pub keep_alive: Duration,
    /// How long an HTTP/1 connection may idle before it rests: it goes on with its next request, and keeps no buffers until
    /// then, as its upstream's connection does.
    pub rest: Duration,
    /// How long an upstream's HTTP connection may wait for the agent's next client connection. Then it
    /// is closed; a second before the upstream would, where it says when.
    pub upstream_idle: Duration,
    /// How many upstream connections may wait for one agent, at one place, speaking the same. Beyond
    /// it the one that has waited longest is closed.
    pub upstreams_idle_alike: usize,
    /// How many upstream connections may wait in all. Beyond it as above: whoever opens many at least
    /// costs others nothing but handshakes.
    pub upstreams_idle: usize,
    /// How many of a name's addresses are tried. The others are ignored.
    pub dial_addresses: usize,
    /// How long to wait for an address before the next one is tried beside it (RFC 8305, 5).
    pub dial_stagger: Duration,
    /// How long one address may take. Then it counts as unreachable.
    pub dial_attempt: Duration,
    /// How long an address that failed is tried after a name's others. Then it is tried in its order
    /// again; `health` bounds how many are remembered.
    pub ill: Duration,
    /// How long resolving and dialling may take together. Then the upstream counts as unreachable.
    pub dial: Duration,
    /// How long an HTTP upstream may leave a request with `Expect: 100-continue` unanswered before
    /// the body is sent all the same (RFC 9110, 10.1.1).
    pub expect_continue: Duration,
    /// How long to read on after a refusal, so that the client gets it before the connection is
    /// gone. Then the connection is closed all the same.
    pub linger: Duration,
    /// How long a client's connection may go on once its agent is quarantined, so that what has a decision
    /// records why it ends. Nothing leaves in this time. Then it is closed.
    pub cut: Duration,
    /// How long connections may go on after shutdown. Then they are cut, and their outcome says so.
    pub drain: Duration,
    /// The buffer of one direction of a spliced connection, in bytes. A full buffer stops reading.
    pub buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_agent: 4_096,
            client_first: Duration::from_millis(300),
            head: Duration::from_secs(10),
            call: Duration::from_secs(60),
            keep_alive: Duration::from_secs(90),
            rest: Duration::from_secs(1),
            upstream_idle: Duration::from_secs(30),
            upstreams_idle_alike: 8,
            upstreams_idle: 512,
            dial_addresses: 8,
            dial_stagger: Duration::from_millis(250),
            dial_attempt: Duration::from_secs(5),
            ill: Duration::from_secs(30),
            dial: Duration::from_secs(15),
            expect_continue: Duration::from_secs(1),
            linger: Duration::from_secs(2),
            cut: Duration::from_millis(500),
            drain: Duration::from_secs(30),
            buffer: 32 * 1024,
        }
    }
}
