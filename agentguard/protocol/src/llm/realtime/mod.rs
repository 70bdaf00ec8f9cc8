//! `OpenAI`'s Realtime over WebSocket: one session on each connection, which both sides speak of in events.
//!
//! - [`model_of`] reads the model that is asked for where the connection is opened.
//! - [`ClientReader`] reads an event of the client: what it gives to the session, or to one response.
//! - [`Session`] knows what may be offered to the model. A server makes responses by itself once it hears speech, so
//!   what a session is given is a call when it is given; and whether a server took that is not known before it says so.
//! - [`ServerReader`] reads an event of the server, [`Replies`] what came of responses.
//!
//! Names are those of the API's reference (client and server events) as of its general availability, and of its beta
//! where they differ.

mod client;
mod offer;
mod replies;
mod server;
mod session;
mod target;
#[cfg(test)]
mod tests;

pub use client::{ClientEvent, ClientReader, Of};
pub use offer::{Given, Limit};
pub use replies::{Heard, Replies, Reply};
pub use server::ServerReader;
pub use session::{Offer, Session};
pub use target::model_of;
