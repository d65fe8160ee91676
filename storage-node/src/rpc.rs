//! Calls between the cluster's processes other than those of a storage node: bytes there, bytes back, over the same mutual
//! TLS, handshake and gate ([`crate::service`]).
//!
//! A port answers for one or more services ([`Handler`]), each with calls of its own under `/SERVICE/NAME`. A question is a
//! stream of pieces and so is its answer: a message of any length up to a limit, or a stream that neither end holds as a whole.
//!
//! Invariants:
//! * Who may make a call follows from the role in his certificate ([`Handler::allows`]) and from nothing that he sends.
//! * What a port holds is bounded: connections, streams of each, bytes of questions that are being received or answered, and
//!   bytes of answers that wait to be taken, the last two for each service by itself. Who comes then waits, no longer than his own deadline.
//! * A stream that ends early is no question and no answer, and a piece whose checksum does not fit ends it.
//! * A client tells a call that was surely not carried out from one that may have been ([`CallError`]). It repeats none.

mod client;
mod server;
#[cfg(test)]
mod tests;

pub use client::{CallError, Client, Lane, Peer};
pub use server::{Call, Handler, RpcConfig, Server};
pub use tonic::Status;

/// The request's header with the bytes of a question, where it is known beforehand.
pub(crate) const BYTES: &str = "stele-bytes";
/// The call that opens a connection.
pub(crate) const HELLO: &str = "Hello";
