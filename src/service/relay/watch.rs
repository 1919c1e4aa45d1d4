//! What a session with another host reports besides its results: latencies by stage for the
//! metrics, and its lines for operators who trace it (`ringmail trace`).
//!
//! Ownership: one for each session; it holds the shard weakly.

use std::{net::SocketAddr, rc::Weak, time::Duration};

use super::client::{Target, Watcher};
use crate::{
    events::Spoken,
    metrics::Protocol,
    protocol::smtp::client::{Reply, Stage},
    service::Shard,
};

pub(super) struct Watch {
    shard: Weak<Shard>,
    /// Shard and number.
    session: String,
    host: String,
    peer: SocketAddr,
}

impl Watch {
    pub(super) fn new(shard: Weak<Shard>, session: String, target: &Target) -> Watch {
        Watch { shard, session, host: target.host.clone(), peer: target.address }
    }

    fn say(&self, sent: bool, text: &str) {
        let Some(shard) = self.shard.upgrade() else { return };
        for line in text.lines() {
            let Watch { session, host, peer, .. } = self;
            let spoken = Spoken { session, host, peer: peer.ip(), sent, line };
            shard.events.trace(&spoken, shard.executor.now());
        }
    }
}

impl Watcher for Watch {
    fn stage(&self, stage: Stage, took: Duration) {
        let Some(shard) = self.shard.upgrade() else { return };
        let name = match stage {
            Stage::Connect => "CONNECT",
            Stage::Greeting => "GREETING",
            Stage::Tls => "TLS",
            _ => return,
        };
        shard.metrics.command(Protocol::Relay, name, took);
        if shard.events.is_traced() {
            self.say(true, &format!("[{} took {} ms]", stage.name(), took.as_millis()));
        }
    }

    fn wants_lines(&self) -> bool {
        self.shard.upgrade().is_some_and(|shard| shard.events.is_traced())
    }

    fn sent(&self, lines: &str) {
        self.say(true, lines);
    }

    fn heard(&self, reply: &Reply) {
        self.say(false, &reply.to_string());
    }
}
