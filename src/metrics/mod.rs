//! Shard-local counters and latency histograms: plain memory that its shard alone writes; a reader
//! asks each shard for a copy and merges.
#![allow(unused_variables)]

use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    Smtp,
    Submission,
    Lmtp,
    Pop3,
    Imap,
}

/// One shard's metrics. Interior mutability: never shared with another thread.
pub struct ShardMetrics {}

impl ShardMetrics {
    /// One command answered: `command` is a fixed upper-case word ("RCPT", "FETCH", "other").
    pub fn command(&self, protocol: Protocol, command: &'static str, elapsed: Duration) {}
    pub fn connection_opened(&self, protocol: Protocol) {}
    pub fn connection_closed(&self, protocol: Protocol) {}
    /// Adds to a named counter, e.g. "smtp_messages_accepted_total".
    pub fn count(&self, name: &'static str, by: u64) {}
}
