//! Settings of the way out; `config` fills them.

use std::net::IpAddr;

use super::client::ClientOptions;
use crate::{queue::QueueOptions, resolver::MAIL_PORT};

#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Our name in EHLO; empty: the host name.
    pub hello: String,
    /// Whether there are DNS servers: without, only routes lead out.
    pub has_dns: bool,
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
            has_dns: false,
            port: MAIL_PORT,
            sources: Vec::new(),
            client: ClientOptions::default(),
            queue: QueueOptions::default(),
        }
    }
}
