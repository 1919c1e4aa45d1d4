//! What is durable: partitions, each a single-writer log that is the mailbox.

mod api;
pub mod log;

pub use api::*;
