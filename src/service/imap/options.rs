//! Limits and timeouts of IMAP sessions. `config` fills them.

use std::time::Duration;

use crate::protocol::imap::{Capabilities, Limits};

/// Limits and timeouts of IMAP sessions; `config` fills them.
#[derive(Clone, Debug)]
pub struct ImapOptions {
    /// What one command may cost, once logged in. Before that 8 KiB are enough for anything.
    pub limits: Limits,
    /// What is offered at all; commands that need another capability are not known.
    pub capabilities: Capabilities,
    /// Time from the greeting (or STARTTLS) until logged in.
    pub login_timeout: Duration,
    /// Time between commands, and between the octets of one; RFC 3501 5.4 wants 30 minutes.
    pub idle_timeout: Duration,
    /// Refused LOGINs after which the session ends.
    pub login_failures_max: u32,
    /// Sessions of one account at once.
    pub sessions_per_account: u32,
    /// Commands in a row that are not understood, after which the session ends.
    pub bad_commands_max: u32,
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
            bad_commands_max: 20,
        }
    }
}
