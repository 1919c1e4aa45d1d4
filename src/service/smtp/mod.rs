//! Smtp sessions.

/// Limits and timeouts of Smtp sessions; `config` fills them.
#[derive(Clone, Debug, Default)]
pub struct SmtpOptions {}
