//! Settings of which too little would stop the server: 0 of these is nothing, and not "no limit" as
//! under `[limits]`. Called by [`Settings::parse`](super::Settings::parse) with the line in hand.

use std::time::Duration;

use bytesize::ByteSize;

use super::Settings;

/// What a setting is about.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
enum Amount {
    Count(u64),
    Octets(u64),
    Time(Duration),
}

use Amount::{Count, Octets, Time};

impl Amount {
    /// As the configuration file spells it.
    fn spelled(self) -> String {
        match self {
            Count(count) => count.to_string(),
            Octets(octets) => format!("\"{}\"", ByteSize(octets)),
            Time(time) => format!("\"{time:?}\""),
        }
    }
}

const KIB: u64 = 1024;
const SECOND: Duration = Duration::from_secs(1);

/// The first setting that is too little, and what is wrong with it.
pub(super) fn too_little(settings: &Settings) -> Option<(&'static str, String)> {
    let octets = |size: ByteSize| Octets(size.as_u64());
    let count = |count: usize| Count(count as u64);
    let Settings { runtime, store, smtp, pop3, imap, intake, authentication, .. } = settings;
    let least: [(&'static str, Amount, Amount); 25] = [
        ("runtime.connections_per_shard", count(runtime.connections_per_shard), Count(1)),
        ("runtime.buffers_per_shard", octets(runtime.buffers_per_shard), Octets(256 * KIB)),
        ("runtime.backlog", Count(runtime.backlog.into()), Count(1)),
        ("runtime.write_timeout", Time(runtime.write_timeout), Time(SECOND)),
        ("runtime.tls_handshake_timeout", Time(runtime.tls_handshake_timeout), Time(SECOND)),
        ("store.checkpoint_interval", octets(store.checkpoint_interval), Octets(256 * KIB)),
        ("store.account_budget", octets(store.account_budget), Octets(256 * KIB)),
        ("store.write_buffer", octets(store.write_buffer), Octets(256 * KIB)),
        ("store.disk_timeout", Time(store.disk_timeout), Time(SECOND / 10)),
        // INBOX, and those that a new account gets.
        ("store.mailboxes_per_account", count(store.mailboxes_per_account), Count(5)),
        ("store.messages_per_account", Count(store.messages_per_account), Count(1)),
        ("store.octets_per_account", octets(store.octets_per_account), Octets(KIB)),
        ("smtp.message_size_max", octets(smtp.message_size_max), Octets(KIB)),
        ("smtp.recipients_max", count(smtp.recipients_max), Count(1)),
        ("smtp.received_headers_max", count(smtp.received_headers_max), Count(1)),
        ("pop3.idle_timeout", Time(pop3.idle_timeout), Time(SECOND)),
        ("imap.idle_timeout", Time(imap.idle_timeout), Time(SECOND)),
        ("imap.append_size_max", octets(imap.append_size_max), Octets(KIB)),
        ("imap.sessions_per_account", Count(imap.sessions_per_account.into()), Count(1)),
        ("intake.memory_per_shard", octets(intake.memory_per_shard), Octets(256 * KIB)),
        ("intake.silence", Time(intake.silence), Time(SECOND)),
        ("intake.deadline", Time(intake.deadline), Time(SECOND)),
        ("authentication.workers", count(authentication.workers), Count(1)),
        ("authentication.queue", count(authentication.queue), Count(1)),
        ("authentication.backoff_max", Time(authentication.backoff_max), Time(SECOND)),
    ];
    let (setting, _, least) = least.into_iter().find(|(_, amount, least)| amount < least)?;
    Some((setting, format!("must be at least {}", least.spelled())))
}
