//! The way out: mail for other hosts.

pub mod client;
