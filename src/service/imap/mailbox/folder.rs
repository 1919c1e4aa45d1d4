//! CREATE, DELETE, RENAME, SUBSCRIBE, UNSUBSCRIBE (RFC 3501 6.3.3 to 6.3.7, RFC 6154 3), and what
//! names a client may give.
//!
//! The store knows names in UTF-8; modified UTF-7 ends here.

use std::borrow::Cow;

use super::super::{
    reply::{Done, Failure, Reply, no_such_mailbox},
    state::Session,
};
use crate::{
    model::SpecialUse,
    protocol::imap::{Code, MailboxName, SEPARATOR, Status},
};

/// The name of a mailbox that should exist: what cannot be decoded names none.
pub(crate) fn existing_name<'a>(name: &'a MailboxName<'_>) -> Result<Cow<'a, str>, Failure> {
    name.to_utf8().map_err(|_| no_such_mailbox())
}

/// A name that is to come into being. A separator at its end says that the client will create
/// children, and means nothing here (RFC 3501 6.3.3).
fn new_name(name: &MailboxName<'_>) -> Result<String, Failure> {
    let cannot = |why: &str| Failure::no(Code::Cannot, why.to_owned());
    let name = name.to_utf8().map_err(|error| cannot(&error.to_string()))?;
    let name = name.strip_suffix(SEPARATOR).unwrap_or(&name);
    if name.split(SEPARATOR).any(str::is_empty) {
        return Err(cannot("A level of the mailbox name is empty"));
    }
    // Such a mailbox could not be told from others by LIST.
    if name.contains(['*', '%']) {
        return Err(cannot("Mailbox names have no * and %"));
    }
    Ok(name.to_owned())
}

pub(crate) async fn create(
    session: &mut Session,
    mailbox: &MailboxName<'_>,
    special_use: &[SpecialUse],
    unknown_use: bool,
) -> Reply {
    let name = new_name(mailbox)?;
    let special_use = match special_use {
        // RFC 6154 3: what cannot be had is refused. \All and \Flagged are no place to put mail.
        _ if unknown_use => return Err(Failure::no(Code::UseAttr, "Special use not known")),
        [SpecialUse::All | SpecialUse::Flagged] => {
            return Err(Failure::no(Code::UseAttr, "No mailbox can be created for this use"));
        }
        [] => None,
        [one] => Some(*one),
        _ => return Err(Failure::no(Code::UseAttr, "A mailbox has one special use")),
    };
    session.account()?.create_mailbox(&name, special_use).await?;
    Done::ok("CREATE completed")
}

pub(crate) async fn delete(session: &mut Session, mailbox: &MailboxName<'_>) -> Reply {
    let account = session.account()?;
    let name = existing_name(mailbox)?;
    let Some(info) = account.mailbox_by_name(&name) else {
        // RFC 3501 6.3.4: a \Noselect name goes with the last that is below it, not before.
        return Err(match account.has_children(name.strip_suffix(SEPARATOR).unwrap_or(&name)) {
            true => Failure::no(Code::HasChildren, "Not a mailbox, and has mailboxes below"),
            false => no_such_mailbox(),
        });
    };
    account.delete_mailbox(&name).await?;
    // Our own client knows what it did: it goes on in the authenticated state. Other sessions are
    // told BYE by `tell_changes`.
    if session.selected.as_ref().is_some_and(|selected| selected.mailbox() == info.id) {
        session.selected = None;
        session.writer().untagged(Status::Ok, Some(Code::Closed), "The mailbox was deleted");
    }
    Done::ok("DELETE completed")
}

pub(crate) async fn rename(
    session: &mut Session,
    source: &MailboxName<'_>,
    target: &MailboxName<'_>,
) -> Reply {
    let source = existing_name(source)?;
    let target = new_name(target)?;
    session.account()?.rename_mailbox(&source, &target).await?;
    Done::ok("RENAME completed")
}

/// Names may be subscribed to before they exist and after they are gone (RFC 3501 6.3.6).
pub(crate) async fn subscribe(
    session: &mut Session,
    mailbox: &MailboxName<'_>,
    subscribed: bool,
) -> Reply {
    let name = if subscribed { new_name(mailbox)? } else { existing_name(mailbox)?.into_owned() };
    session.account()?.set_subscribed(&name, subscribed).await?;
    Done::ok(if subscribed { "SUBSCRIBE completed" } else { "UNSUBSCRIBE completed" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_names() {
        const CASES: &[(&str, Option<&str>)] = &[
            ("a", Some("a")),
            ("a/b/", Some("a/b")),
            ("iNbOx/a", Some("INBOX/a")),
            ("Entw&APw-rfe", Some("Entwürfe")),
            ("", None),
            ("/", None),
            ("/a", None),
            ("a//b", None),
            ("a%", None),
            ("a*b", None),
            ("a&", None),
            ("a\tb", None),
        ];
        for (name, expected) in CASES {
            let named = new_name(&MailboxName(name.as_bytes().into())).ok();
            assert_eq!(named.as_deref(), *expected, "{name:?}");
        }
    }
}
