//! Listeners, and the bytes between an agent and its upstream.
//!
//! A connection that the gate redirected is accepted, given its [`Origin`], looked at as far as
//! its first bytes go, decided, and carried:
//! - TLS: the ClientHello is read, its server name must be the name behind the address. Where the
//!   policy inspects, TLS ends here and what is inside is decided; else the connection is decided
//!   once, then spliced untouched.
//! - HTTP/1 and HTTP/2: every request is decided on its method and canonical path and
//!   written anew.
//! - CONNECT and SOCKS5, which ask for a tunnel: where it leads is decided as if it had been
//!   dialled, the guard goes there itself, and what is inside begins anew.
//! - Anything else: decided once, by name or address, then spliced.
//!
//! Where the upstream speaks first, nobody's first byte is waited for longer than a moment.
//!
//! **Invariant:** no byte of a request reaches an upstream before a decision that allows it is recorded; a name
//! that the client claims never selects where bytes go, unless it was decided as what it dials; memory per connection is bounded.

#![forbid(unsafe_code)]

mod account;
mod alpn;
mod carried;
mod connection;
mod decoders;
mod dial;
mod event_loops;
mod fair;
mod health;
mod http;
mod inspect;
mod late;
mod leaves;
mod limits;
mod outward;
mod passing;
mod pipes;
mod port;
mod pump;
mod relay;
mod replay;
mod revoked;
mod route;
mod seats;
mod second_hello;
mod serve;
mod shared;
mod tls;
mod tunnel;
mod upstream_tls;
mod via;
mod woken;

pub use event_loops::EventLoops;
pub use inspect::Tls;
pub use leaves::{Leaf, Subject};
pub use limits::Limits;
pub use port::{Origin, Port};
pub use serve::serve;
pub use shared::Shared;
pub use upstream_tls::{check_authority, check_identity, check_revocations};

#[cfg(test)]
mod tests;
