//! Octets of messages on their way into the log and back out.
//!
//! A body up to `BODY_CHUNK` lies inside its commit entry; a longer one is written as chunk entries while
//! it arrives, so that a session never holds more than one chunk of it, and the commit entry lists them
//! (`format::body`). Where it pays, a body or each chunk of it is compressed; what is said of lengths
//! elsewhere is said of the body as it came.

pub mod compression;
pub(crate) mod read;
pub(crate) mod write;
