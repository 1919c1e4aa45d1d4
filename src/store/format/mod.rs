//! The encoding of a log entry's payload: effects, runs, roots and directory pages, and the
//! primitives that they all use. docs/disk_format.md has the layouts.
//!
//! Owns no state: octets in, values out, and back. Knows the log's limits and the values of
//! `message`, and no other room.

pub(crate) mod annotations;
pub(crate) mod blocks;
pub(crate) mod body;
pub(crate) mod cards;
pub(crate) mod codec;
pub(crate) mod effect;
pub(crate) mod moves;
pub(crate) mod payload;
pub(crate) mod root;
pub(crate) mod run;
