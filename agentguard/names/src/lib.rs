//! The resolver that agents see.
//!
//! A query arrives on a socket of ours, whatever name server the agent meant to ask. The policy
//! rules on the name; a name it does not allow ends here, and with it every tunnel through DNS. An
//! allowed name is asked for upstream, its addresses pass the rebinding guard, and the agent gets
//! virtual addresses that stand for the name, so that whoever dials them is governed by name.
//!
//! - [`port`]: what this room needs of the rooms it does not know: who asks, the ruling, the
//!   record, the kernel.
//! - [`virtual_addresses`]: which address stands for which name, for a week and across restarts.
//! - [`upstream`]: the configured name servers and what they said.
//! - [`guard`]: which resolved addresses may be dialled.
//! - [`names`]: the three above put together; what the proxy asks.
//! - `service`: what is left of HTTPS records.
//! - [`server`]: DNS over UDP and TCP.
//!
//! **Invariant:** no answer leaves before its decision is recorded, its virtual address is on
//! disk, and the kernel knows what it means. No byte of a query reaches upstream but the name, and
//! no byte of an upstream answer reaches an agent but addresses and stripped HTTPS records.

#![forbid(unsafe_code)]

pub mod guard;
pub mod names;
pub mod port;
pub mod server;
mod service;
pub mod upstream;
pub mod virtual_addresses;

pub use names::Names;
pub use port::{Addresses, Answer, Answered, Client, Port, Published, Ruling};
pub use server::{Options, Server, readers};
pub use upstream::Upstream;
pub use virtual_addresses::VirtualAddresses;
