//! Imap sessions.

/// Limits and timeouts of Imap sessions; `config` fills them.
#[derive(Clone, Debug, Default)]
pub struct ImapOptions {}
