//! Every layout that two processes, or two decades, must agree on: bytes in, bytes out, no I/O, no clock.
//!
//! What a file on a drive looks like, from the outside in (docs/FORMAT.md has the byte tables):
//!
//! * [`block`]: a segment is a sequence of 4 KiB blocks, each with a checksum that knows where it belongs (R8);
//! * [`segment`]: block 0 is the segment header; after it come records, each a header block and payload blocks, the
//!   headers linked by hashes (R7);
//! * [`shard`]: the body of a shard record's header names the stripe, through a [`stripe`] descriptor that every member
//!   carries (R1); its payload is frames, or parity over them ([`erasure`]);
//! * [`journal`]: the payload of a journal record is entries, each the [`effect`]s of one committed command and the frames
//!   that ride with it;
//! * [`register`]: the small file on every drive that says who keeps the journal;
//! * [`level`]: which versions of all these writers may write;
//! * [`frame`]: a [`chunk`] as stored, after [`compress`] and [`encrypt`]; [`manifest`]s say which chunks are an object.
//!
//! Parsing never trusts its input (R17): each parser is total, checks every field's range before it computes with it, and
//! allocates no more than the input's own length asks for. Fields that only fit or don't fit a place (which block, which
//! predecessor, which stripe) are checked in a second step by those who know the place: [`segment::Chain::check`],
//! [`journal::BatchHeader::open`], [`stripe::StripeDescriptor::check_shard`].

pub mod block;
pub mod checkpoint;
pub mod chunk;
pub mod compress;
pub mod effect;
pub mod encrypt;
pub mod erasure;
pub mod frame;
#[cfg(test)]
mod golden;
pub mod id;
pub mod journal;
pub mod level;
pub mod manifest;
mod read;
pub mod register;
pub mod segment;
pub mod shard;
pub mod stripe;
