//! Settings of the way out; `config` fills them.

use std::net::IpAddr;

use super::client::ClientOptions;
use crate::queue::QueueOptions;

#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Our name in EHLO; empty: the host name.
    pub hello: String,
    /// The port of hosts that DNS names.
    pub port: u16,
    /// Addresses of ours that connections are made from, in turn; empty: the host's choice.
    pub sources: Vec<IpAddr>,
    pub client: ClientOptions,
    pub queue: QueueOptions,
}

impl Default for RelayOptions {
    fn default() -> RelayOptions {
        RelayOptions {
            hello: String::new(),
            port: 25,
            sources: Vec::new(),
            client: ClientOptions::default(),
            queue: QueueOptions::default(),
        }
    }
}
