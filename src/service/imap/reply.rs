//! How a command ends: tagged OK with a code, refusals, and the end of the session.
//!
//! Every handler returns [`Reply`]; the conversation writes it. This is the one place where
//! [`StoreError`] becomes an IMAP response code (RFC 3501 7.1, RFC 5530).

use std::borrow::Cow;

use super::handover::ImapHandover;
use crate::{
    protocol::imap::{Code, Limits},
    runtime::connection::ConnectionError,
    store::StoreError,
};

/// Result of a command's handler.
pub(super) type Reply = Result<Done, Failure>;

/// A command that was executed.
pub(super) enum Done {
    Ok {
        code: Option<Code>,
        text: &'static str,
    },
    /// LOGOUT: the tagged OK ends the session.
    LogOut,
    /// The handler wrote the tagged response itself (STARTTLS must, before the handshake).
    Answered,
    /// The answer waits for the disk: it is in `Session::later`.
    Later,
    /// Logged in; the account's owner answers.
    HandOver(ImapHandover),
}

impl Done {
    pub(super) fn ok(text: &'static str) -> Reply {
        Ok(Done::Ok { code: None, text })
    }

    pub(super) fn with_code(code: Code, text: &'static str) -> Reply {
        Ok(Done::Ok { code: Some(code), text })
    }
}

/// A command that was not executed.
#[derive(Debug)]
pub(super) enum Failure {
    No {
        code: Option<Code>,
        text: Cow<'static, str>,
    },
    Bad {
        code: Option<Code>,
        text: Cow<'static, str>,
    },
    /// A command with message numbers from a client that uses UIDs only (RFC 9586 3.2).
    UidRequired,
    Leave(Leave),
}

/// Why a session ends.
#[derive(Debug)]
pub(super) enum Leave {
    /// Tell the client why (RFC 3501 7.1.5), then close.
    Bye(&'static str),
    /// The client is gone, or the stream cannot be continued.
    Lost,
}

impl Failure {
    pub(super) fn no(code: Code, text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::No { code: Some(code), text: text.into() }
    }

    pub(super) fn bad(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::Bad { code: None, text: text.into() }
    }

    pub(super) fn bye(text: &'static str) -> Failure {
        Failure::Leave(Leave::Bye(text))
    }

    /// A synchronising literal is refused before it is sent (RFC 7888 4).
    pub(super) fn literal_too_large(limits: Limits) -> Failure {
        let Limits { message, command, .. } = limits;
        let text = match message {
            0 => format!("A command may have {command} octets before the log-in, and no message"),
            _ => format!("A message may have {message} octets, a command without one {command}"),
        };
        Failure::no(Code::TooBig, text)
    }

    /// RFC 7888 5, under LITERAL-.
    pub(super) fn literal_not_awaited() -> Failure {
        let text = "A literal of this size must wait to be asked for".into();
        Failure::Bad { code: Some(Code::TooBig), text }
    }

    /// For APPEND, COPY and MOVE: a missing target may be created first (RFC 3501 7.1 TRYCREATE).
    pub(super) fn with_try_create(error: StoreError) -> Failure {
        match error {
            StoreError::NoSuchMailbox => try_create(),
            error => error.into(),
        }
    }
}

/// The target of APPEND, COPY or MOVE does not exist.
pub(super) fn try_create() -> Failure {
    Failure::no(Code::TryCreate, "No such mailbox")
}

/// A mailbox named by the client does not exist.
pub(super) fn no_such_mailbox() -> Failure {
    StoreError::NoSuchMailbox.into()
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        match error {
            StoreError::NoSuchMailbox => Failure::no(Code::NonExistent, "No such mailbox"),
            StoreError::MailboxExists => Failure::no(Code::AlreadyExists, "Mailbox already exists"),
            StoreError::NotPermitted(why) => Failure::no(Code::Cannot, why),
            StoreError::OverQuota => Failure::no(Code::OverQuota, "The account is full"),
            StoreError::Limit(what) => Failure::no(Code::Limit, format!("Limit reached: {what}")),
            StoreError::Full => Failure::no(Code::Unavailable, "The disk is full; try again later"),
            StoreError::Corrupt { .. } => {
                Failure::no(Code::Corruption, "The message is damaged on disk")
            }
            // What failed is a matter for the operator and is in the log.
            StoreError::NotAnswering => {
                Failure::no(Code::Unavailable, "The disk does not answer; try again later")
            }
            StoreError::Io(_) => Failure::no(Code::Unavailable, "Storage failed; try again later"),
            StoreError::Poisoned | StoreError::Crowded => {
                Failure::no(Code::Unavailable, "Storage accepts no changes now; try again later")
            }
        }
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Failure {
        Failure::Leave(Leave::from(&error))
    }
}

impl From<&ConnectionError> for Leave {
    fn from(error: &ConnectionError) -> Leave {
        match error {
            ConnectionError::TimedOut => Leave::Bye("Timed out"),
            ConnectionError::NoMemory => Leave::Bye("[UNAVAILABLE] Out of memory; try again later"),
            ConnectionError::ShuttingDown => {
                Leave::Bye("[UNAVAILABLE] The server is shutting down")
            }
            ConnectionError::Closed | ConnectionError::Tls(_) | ConnectionError::Io(_) => {
                Leave::Lost
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(error: StoreError, expected: Code) {
        match Failure::from(error) {
            Failure::No { code, .. } => assert_eq!(code, Some(expected)),
            other => panic!("{other:?}"),
        }
    }

    /// RFC 5530: every error of the store has a code that clients can act on.
    #[test]
    fn every_error_of_the_store_has_a_code() {
        check(StoreError::NoSuchMailbox, Code::NonExistent);
        check(StoreError::MailboxExists, Code::AlreadyExists);
        check(StoreError::NotPermitted("no"), Code::Cannot);
        check(StoreError::Limit("keywords"), Code::Limit);
        check(StoreError::OverQuota, Code::OverQuota);
        check(StoreError::Full, Code::Unavailable);
        check(StoreError::Poisoned, Code::Unavailable);
        check(StoreError::NotAnswering, Code::Unavailable);
        let (segment, what) = (String::new(), String::new());
        check(StoreError::Corrupt { segment, offset: 0, what }, Code::Corruption);
    }
}
