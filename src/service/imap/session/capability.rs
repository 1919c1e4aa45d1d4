//! Commands legal in every state, and small ones about the server itself: CAPABILITY, NOOP, CHECK,
//! LOGOUT (RFC 3501 6.1), ID (RFC 2971), ENABLE (RFC 5161), NAMESPACE (RFC 2342).

use super::super::{
    reply::{Done, Reply},
    state::Session,
};
use crate::protocol::imap::Text;

pub(crate) async fn capability(session: &mut Session) -> Reply {
    let list = session.capabilities();
    session.writer().capability(list);
    Done::ok("CAPABILITY completed")
}

/// NOOP and CHECK: what changed is told after every command, so there is nothing else to do.
/// CHECK asks for housekeeping (RFC 3501 6.4.1); ours never waits for a client.
pub(crate) async fn noop() -> Reply {
    Done::ok("Completed")
}

pub(crate) async fn logout(session: &mut Session) -> Reply {
    session.writer().bye("Logging out");
    Ok(Done::LogOut)
}

/// What the client says of itself is not kept: RFC 2971 1 forbids to act on it.
pub(crate) async fn id(session: &mut Session, _fields: &[(Text<'_>, Option<Text<'_>>)]) -> Reply {
    session.writer().id(&[("name", Some("Ringmail"))]);
    Done::ok("ID completed")
}

/// Of what may be enabled we have CONDSTORE; unknown names are ignored (RFC 5161 3.1).
pub(crate) async fn enable(session: &mut Session, names: &[&str]) -> Reply {
    let condstore = names.iter().any(|name| name.eq_ignore_ascii_case("CONDSTORE"));
    if condstore {
        session.enable_condstore();
    }
    session.writer().enabled(if condstore { &["CONDSTORE"] } else { &[] });
    Done::ok("ENABLE completed")
}

pub(crate) async fn namespace(session: &mut Session) -> Reply {
    session.writer().namespace();
    Done::ok("NAMESPACE completed")
}
