//! Pop3 sessions.

/// Limits and timeouts of Pop3 sessions; `config` fills them.
#[derive(Clone, Debug, Default)]
pub struct Pop3Options {}
