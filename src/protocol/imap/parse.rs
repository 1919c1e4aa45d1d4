//! The command parser: a frame's octets to a [`Command`] that borrows them (RFC 3501 9).
//!
//! Called by `service::imap` with what [`super::Framer`] found. Grammar is taken strictly (CRLF,
//! no unknown words), but for spaces: where one stands there may be more, also inside parentheses and
//! at the end of a line. Every failure says what was wrong. Recursion happens in
//! SEARCH only and is limited there; every list has a named limit.

#[cfg(test)]
mod tests;

use super::{
    command::{Append, Command, CommandBody, FlagList, StatusItems, Store},
    cursor::{Cursor, Parsed},
    mailbox::list,
    message::{fetch, search},
};
use crate::model::FlagAction;

/// ID fields in one command (RFC 2971 3.3).
const ID_FIELDS_MAX: usize = 30;
/// Octets of an ID value (RFC 2971 3.3).
const ID_VALUE_MAX: usize = 1_024;
/// Names in one ENABLE.
const ENABLE_NAMES_MAX: usize = 50;

/// Why a command was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError<'a> {
    /// `None` if not even the tag could be read: answer `* BAD`.
    pub tag: Option<&'a str>,
    /// Fit for the text of `BAD`.
    pub what: &'static str,
}

/// Reads the command that is `frame` ([`super::Frame::Command`] or [`super::Frame::Append`]).
pub fn parse(frame: &[u8]) -> Result<Command<'_>, ParseError<'_>> {
    let mut cursor = Cursor::new(strip_line_end(frame));
    let tag = cursor.tag().map_err(|what| ParseError { tag: None, what })?;
    let error = |what| ParseError { tag: Some(tag), what };
    if !frame.ends_with(b"\r\n") {
        return Err(error("a line must end in CRLF"));
    }
    let body = command_body(&mut cursor).map_err(error)?;
    cursor.end().map_err(error)?;
    Ok(Command { tag, body })
}

/// The tag at the start of a command that is not (or cannot be) parsed.
pub fn tag_of(frame: &[u8]) -> Option<&str> {
    Cursor::new(strip_line_end(frame)).tag().ok()
}

fn strip_line_end(frame: &[u8]) -> &[u8] {
    let line = frame.strip_suffix(b"\n").unwrap_or(frame);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn command_body<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    cursor.space().map_err(|_| "a command name is missing after the tag")?;
    let name = cursor.word().map_err(|_| "unknown command")?;
    match name.as_bytes() {
        b"CAPABILITY" => Ok(CommandBody::Capability),
        b"NOOP" => Ok(CommandBody::Noop),
        b"LOGOUT" => Ok(CommandBody::Logout),
        b"STARTTLS" => Ok(CommandBody::StartTls),
        b"NAMESPACE" => Ok(CommandBody::Namespace),
        b"IDLE" => Ok(CommandBody::Idle),
        b"CHECK" => Ok(CommandBody::Check),
        b"CLOSE" => Ok(CommandBody::Close),
        b"UNSELECT" => Ok(CommandBody::Unselect),
        b"EXPUNGE" => Ok(CommandBody::Expunge { uids: None }),
        name => {
            cursor.space().map_err(|_| "unknown command, or its arguments are missing")?;
            with_arguments(name, cursor)
        }
    }
}

fn with_arguments<'a>(name: &[u8], cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    match name {
        b"ID" => id(cursor),
        b"AUTHENTICATE" => authenticate(cursor),
        b"LOGIN" => {
            let user = cursor.astring()?;
            cursor.space()?;
            Ok(CommandBody::Login { user, password: cursor.astring()? })
        }
        b"ENABLE" => enable(cursor),
        b"SELECT" => {
            let mailbox = cursor.mailbox()?;
            Ok(CommandBody::Select { mailbox, condstore: select_parameters(cursor)? })
        }
        b"EXAMINE" => {
            let mailbox = cursor.mailbox()?;
            Ok(CommandBody::Examine { mailbox, condstore: select_parameters(cursor)? })
        }
        b"CREATE" => list::create(cursor),
        b"DELETE" => Ok(CommandBody::Delete { mailbox: cursor.mailbox()? }),
        b"RENAME" => {
            let source = cursor.mailbox()?;
            cursor.space()?;
            Ok(CommandBody::Rename { source, target: cursor.mailbox()? })
        }
        b"SUBSCRIBE" => Ok(CommandBody::Subscribe { mailbox: cursor.mailbox()? }),
        b"UNSUBSCRIBE" => Ok(CommandBody::Unsubscribe { mailbox: cursor.mailbox()? }),
        b"LIST" => list::list(cursor).map(CommandBody::List),
        b"LSUB" => {
            let reference = cursor.mailbox()?;
            cursor.space()?;
            Ok(CommandBody::Lsub { reference, pattern: cursor.list_mailbox()? })
        }
        b"STATUS" => {
            let mailbox = cursor.mailbox()?;
            cursor.space()?;
            Ok(CommandBody::Status { mailbox, items: status_items(cursor)? })
        }
        b"APPEND" => append(cursor),
        b"UID" => {
            let name = cursor.word().map_err(|_| "unknown UID command")?;
            cursor.space()?;
            if name.as_bytes() == b"EXPUNGE" {
                return Ok(CommandBody::Expunge { uids: Some(cursor.sequence_set()?) });
            }
            on_messages(name.as_bytes(), true, cursor)
        }
        _ => on_messages(name, false, cursor),
    }
}

/// The commands that also have a `UID` form (RFC 3501 6.4.8, RFC 6851 3).
fn on_messages<'a>(name: &[u8], uid: bool, cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    match name {
        b"SEARCH" => search::search(cursor, uid).map(CommandBody::Search),
        b"FETCH" => fetch::fetch(cursor, uid).map(CommandBody::Fetch),
        b"STORE" => store(cursor, uid).map(CommandBody::Store),
        b"COPY" | b"MOVE" => {
            let set = cursor.sequence_set()?;
            cursor.space()?;
            let mailbox = cursor.mailbox()?;
            Ok(match name {
                b"COPY" => CommandBody::Copy { uid, set, mailbox },
                _ => CommandBody::Move { uid, set, mailbox },
            })
        }
        _ if uid => Err("unknown UID command"),
        _ => Err("unknown command"),
    }
}

/// RFC 2971 3.1.
fn id<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    let mut fields = Vec::new();
    if cursor.eat_all(b"NIL") {
        return Ok(CommandBody::Id(fields));
    }
    cursor.list(true, "ID takes a list or NIL", |cursor| {
        let field = cursor.string()?;
        cursor.space()?;
        let value = cursor.nstring()?;
        if fields.len() == ID_FIELDS_MAX {
            return Err("too many ID fields");
        }
        if field.len().max(value.as_deref().map_or(0, <[u8]>::len)) > ID_VALUE_MAX {
            return Err("ID field too long");
        }
        fields.push((field, value));
        Ok(())
    })?;
    Ok(CommandBody::Id(fields))
}

/// RFC 3501 6.2.2, RFC 4959 3.
fn authenticate<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    let mechanism = cursor.atom()?;
    if !cursor.another() {
        return Ok(CommandBody::Authenticate { mechanism, initial_response: None });
    }
    let is_base64 =
        |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/' | b'=');
    let response = match cursor.take_while(is_base64) {
        [] => return Err("the initial response is not base64"),
        b"=" => b"",
        response => response,
    };
    Ok(CommandBody::Authenticate { mechanism, initial_response: Some(response) })
}

/// RFC 5161 3.1.
fn enable<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    let mut names = vec![cursor.atom()?];
    while cursor.another() {
        if names.len() == ENABLE_NAMES_MAX {
            return Err("too many extensions");
        }
        names.push(cursor.atom()?);
    }
    Ok(CommandBody::Enable(names))
}

/// Optional parameters of SELECT and EXAMINE (RFC 4466 2.1): `CONDSTORE` is the only one we know,
/// others must be refused.
fn select_parameters(cursor: &mut Cursor<'_>) -> Parsed<bool> {
    let mut condstore = false;
    if cursor.another() {
        cursor.list(false, "a parameter list is missing", |cursor| {
            match cursor.word()?.as_bytes() {
                b"CONDSTORE" => {
                    condstore = true;
                    Ok(())
                }
                _ => Err("unknown select parameter"),
            }
        })?;
    }
    Ok(condstore)
}

/// RFC 3501 6.3.10, RFC 7162 3.1.7, RFC 8438 2.
pub(super) fn status_items(cursor: &mut Cursor<'_>) -> Parsed<StatusItems> {
    let mut items = StatusItems::default();
    cursor.list(false, "a list of status items is missing", |cursor| {
        items.insert(match cursor.word()?.as_bytes() {
            b"MESSAGES" => StatusItems::MESSAGES,
            b"RECENT" => StatusItems::RECENT,
            b"UIDNEXT" => StatusItems::UID_NEXT,
            b"UIDVALIDITY" => StatusItems::UID_VALIDITY,
            b"UNSEEN" => StatusItems::UNSEEN,
            b"HIGHESTMODSEQ" => StatusItems::HIGHEST_MOD_SEQ,
            b"SIZE" => StatusItems::SIZE,
            _ => return Err("unknown status item"),
        });
        Ok(())
    })?;
    Ok(items)
}

/// RFC 3501 6.3.11, up to the header of the message's literal, which ends the frame.
fn append<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    let mailbox = cursor.mailbox()?;
    cursor.space()?;
    let mut flags = FlagList::default();
    if cursor.peek() == Some(b'(') {
        flags = cursor.flag_list()?;
        cursor.space()?;
    }
    let mut internal_date = None;
    if cursor.peek() == Some(b'"') {
        internal_date = Some(cursor.date_time()?);
        cursor.space()?;
    }
    cursor.literal_header().map_err(|_| "APPEND takes the message as a literal")?;
    Ok(CommandBody::Append(Append { mailbox, flags, internal_date }))
}

/// RFC 3501 6.4.6, RFC 7162 3.1.3.
fn store<'a>(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Store<'a>> {
    let set = cursor.sequence_set()?;
    cursor.space()?;
    let mut unchanged_since = None;
    if cursor.peek() == Some(b'(') {
        cursor.list(false, "a modifier is missing", |cursor| {
            if !cursor.eat_all(b"UNCHANGEDSINCE ") {
                return Err("unknown STORE modifier");
            }
            cursor.spaces();
            unchanged_since = Some(cursor.mod_seq()?);
            Ok(())
        })?;
        cursor.space()?;
    }
    let action = if cursor.eat(b'+') {
        FlagAction::Add
    } else if cursor.eat(b'-') {
        FlagAction::Remove
    } else {
        FlagAction::Replace
    };
    let silent = match cursor.word()?.as_bytes() {
        b"FLAGS" => false,
        b"FLAGS.SILENT" => true,
        _ => return Err("only FLAGS can be stored"),
    };
    cursor.space()?;
    let flags = if cursor.peek() == Some(b'(') {
        cursor.flag_list()?
    } else {
        let mut flags = FlagList::default();
        cursor.flag(&mut flags)?;
        while cursor.another() {
            cursor.flag(&mut flags)?;
        }
        flags
    };
    Ok(Store { uid, set, unchanged_since, action, silent, flags })
}
