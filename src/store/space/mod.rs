//! Space: which log entries are still in use, and how the rest is freed.
//!
//! `compaction` chooses segments, moves what is in use and deletes them. `liveness` is its mark
//! pass, `pace` limits how fast both go.

pub(super) mod compaction;
mod liveness;
mod pace;
