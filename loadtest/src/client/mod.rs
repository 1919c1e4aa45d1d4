//! Thin protocol clients: only what a load needs, written for ringload alone.

pub mod imap;
pub mod pop3;
pub mod smtp;
mod wire;

pub use wire::{Target, Wire};
