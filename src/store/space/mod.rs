//! Space: which entries of the log are still in use, and the giving back of the rest.
//!
//! `compaction` chooses segments, moves what is in use and deletes them; `liveness` is its mark pass.

pub(super) mod compaction;
mod liveness;
