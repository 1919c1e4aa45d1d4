//! Smtp sessions.

/// Limits and timeouts of Smtp sessions; `config` fills them.
#[derive(Clone, Debug, Default)]
pub struct SmtpOptions {}
#[derive(Clone, Copy)]
pub enum ListenerKind {
    Smtp,
    Submission,
    Submissions,
    Lmtp,
}
pub async fn run(
    _c: crate::runtime::connection::Connection,
    _s: std::rc::Rc<super::Shard>,
    _k: ListenerKind,
) {
}
