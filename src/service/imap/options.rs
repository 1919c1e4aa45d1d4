//! Limits and timeouts of IMAP sessions. `config` fills them.

use std::time::Duration;

use crate::{
    protocol::imap::{Capabilities, Capability, Limits},
    store::COPY_SLICE,
};

/// Seldom, and before a client gives up (RFC 9585 leaves the interval to servers).
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Limits and timeouts of IMAP sessions; `config` fills them.
#[derive(Clone, Debug)]
pub struct ImapOptions {
    /// Limits on one command once logged in. Before that, lines are limited to 8 KiB.
    pub limits: Limits,
    /// The capabilities offered; commands that need another one are unknown commands.
    pub capabilities: Capabilities,
    /// Time from the greeting (or STARTTLS) to the log-in.
    pub login_timeout: Duration,
    /// Time between commands, and between the octets of one; RFC 3501 5.4 requires at least 30
    /// minutes.
    pub idle_timeout: Duration,
    /// Failed log-ins after which the session ends.
    pub login_failures_max: u32,
    /// Sessions of one account at once.
    pub sessions_per_account: u32,
    /// Addresses of the accounts that own the public mailboxes.
    pub administrators: Vec<String>,
    /// Users who may use URLs that were signed for the submission of messages (RFC 4467 3).
    pub submitters: Vec<String>,
    /// Names of this server in URLs, beside its own name.
    pub url_hosts: Vec<String>,
    /// Messages that one APPEND may have (RFC 3502).
    pub append_messages_max: u32,
    /// Octets of all of them together; at least one of the largest size always fits.
    pub append_octets_max: u64,
    /// Messages that one command is carried out on (RFC 9738): 0 for any number.
    pub message_limit: u32,
    /// The same of COPY and APPEND alone, unless the other one is set.
    pub save_limit: u32,
    /// Bad commands in a row that a session may send; it ends at the next.
    pub bad_commands_max: u32,
    /// How often a client that waits for a command is told that it goes on (RFC 9585).
    pub progress_interval: Duration,
}

impl ImapOptions {
    /// The limits with those that follow from the capabilities: LITERAL- where LITERAL+ is not
    /// offered.
    pub fn limits_told(&self) -> Limits {
        let unasked = match self.capabilities.contains(Capability::LiteralPlus) {
            true => self.limits.unasked,
            false => self.limits.unasked.min(Limits::UNASKED_UNDER_LITERAL_MINUS),
        };
        Limits { unasked, ..self.limits }
    }

    /// The most messages that a command is carried out on, if there is a limit.
    pub fn limit_of_messages(&self) -> Option<u32> {
        Some(self.message_limit).filter(|limit| *limit > 0)
    }

    /// The most messages that COPY and APPEND add to a mailbox, if there is a limit.
    pub fn limit_of_saves(&self) -> Option<u32> {
        self.limit_of_messages().or(Some(self.save_limit).filter(|limit| *limit > 0))
    }

    /// UTF8=ONLY: clients must enable UTF8=ACCEPT before anything that may need it (RFC 6855 6).
    pub fn utf8_only(&self) -> bool {
        let has = |capability| self.capabilities.contains(capability);
        has(Capability::Utf8Only) && !has(Capability::Utf8Accept)
    }

    /// The capabilities for ENABLE: under UTF8=ONLY, too, it takes UTF8=ACCEPT.
    pub fn can_be_enabled(&self) -> Capabilities {
        let mut capabilities = self.capabilities;
        if self.utf8_only() {
            capabilities.insert(Capability::Utf8Accept);
        }
        capabilities
    }
}

impl Default for ImapOptions {
    fn default() -> ImapOptions {
        ImapOptions {
            limits: Limits::default(),
            capabilities: Capabilities::ALL,
            login_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30 * 60),
            login_failures_max: 3,
            sessions_per_account: 1000,
            administrators: Vec::new(),
            submitters: Vec::new(),
            url_hosts: Vec::new(),
            append_messages_max: COPY_SLICE as u32,
            append_octets_max: 500 << 20,
            message_limit: 0,
            save_limit: 0,
            bad_commands_max: 20,
            progress_interval: PROGRESS_INTERVAL,
        }
    }
}
