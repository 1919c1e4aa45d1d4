//! Arguments of LIST (RFC 3501 6.3.8, RFC 5258, RFC 5819, RFC 6154) and CREATE.

use super::super::{
    command::{CommandBody, List, ListReturn, ListSelection},
    cursor::{Cursor, Parsed},
    name::MailboxName,
    parse::status_items,
};
use crate::model::SpecialUse;

/// Patterns in one LIST.
const PATTERNS_MAX: usize = 32;

/// RFC 3501 6.3.3, RFC 6154 3.
pub(crate) fn create<'a>(cursor: &mut Cursor<'a>) -> Parsed<CommandBody<'a>> {
    let mailbox = cursor.mailbox()?;
    let mut special_use = Vec::new();
    let mut unknown_use = false;
    if cursor.another() {
        cursor.list(false, "a parameter list is missing", |cursor| {
            if !cursor.eat_all(b"USE ") {
                return Err("unknown CREATE parameter");
            }
            cursor.spaces();
            cursor.list(true, "USE takes a list", |cursor| {
                cursor.expect(b'\\', "a use attribute starts with a backslash")?;
                let name = cursor.atom()?;
                let named = |known: &SpecialUse| known.attribute()[1..].eq_ignore_ascii_case(name);
                match SpecialUse::EVERY.into_iter().find(named) {
                    None => unknown_use = true,
                    Some(known) if special_use.contains(&known) => {}
                    Some(known) => special_use.push(known),
                }
                Ok(())
            })
        })?;
    }
    Ok(CommandBody::Create { mailbox, special_use, unknown_use })
}

/// Arguments of LIST in all its forms.
pub(crate) fn list<'a>(cursor: &mut Cursor<'a>) -> Parsed<List<'a>> {
    let mut list = List {
        selection: ListSelection::default(),
        reference: MailboxName(b"".into()),
        patterns: Vec::new(),
        returns: ListReturn::default(),
        extended: false,
    };
    if cursor.peek() == Some(b'(') {
        list.extended = true;
        list.selection = selection(cursor)?;
        cursor.space()?;
    }
    list.reference = cursor.mailbox()?;
    cursor.space()?;
    if cursor.peek() == Some(b'(') {
        list.extended = true;
        cursor.list(false, "a mailbox pattern is missing", |cursor| {
            if list.patterns.len() == PATTERNS_MAX {
                return Err("too many patterns");
            }
            list.patterns.push(cursor.list_mailbox()?);
            Ok(())
        })?;
    } else {
        list.patterns = vec![cursor.list_mailbox()?];
    }
    if cursor.another() {
        list.extended = true;
        if !cursor.eat_all(b"RETURN ") {
            return Err("RETURN is all that can follow the pattern");
        }
        cursor.spaces();
        list.returns = returns(cursor)?;
    }
    // RFC 5258 3.1 and RFC 6154 5.2: selecting by these implies returning them.
    list.returns.subscribed |= list.selection.subscribed;
    list.returns.special_use |= list.selection.special_use;
    Ok(list)
}

fn selection(cursor: &mut Cursor<'_>) -> Parsed<ListSelection> {
    let mut selection = ListSelection::default();
    cursor.list(true, "selection options are missing", |cursor| {
        if cursor.eat_all(b"SPECIAL-USE") {
            selection.special_use = true;
            return Ok(());
        }
        let option = match cursor.word()?.as_bytes() {
            b"SUBSCRIBED" => &mut selection.subscribed,
            b"REMOTE" => &mut selection.remote,
            b"RECURSIVEMATCH" => &mut selection.recursive_match,
            _ => return Err("unknown selection option"),
        };
        *option = true;
        Ok(())
    })?;
    // RFC 5258 3.1: RECURSIVEMATCH alone, or with REMOTE only, is BAD.
    if selection.recursive_match && !selection.subscribed && !selection.special_use {
        return Err("RECURSIVEMATCH needs another selection option");
    }
    Ok(selection)
}

fn returns(cursor: &mut Cursor<'_>) -> Parsed<ListReturn> {
    let mut returns = ListReturn::default();
    cursor.list(true, "return options are missing", |cursor| {
        if cursor.eat_all(b"SPECIAL-USE") {
            returns.special_use = true;
            return Ok(());
        }
        match cursor.word()?.as_bytes() {
            b"SUBSCRIBED" => returns.subscribed = true,
            b"CHILDREN" => returns.children = true,
            b"STATUS" => {
                cursor.space()?;
                returns.status = Some(status_items(cursor)?);
            }
            _ => return Err("unknown return option"),
        }
        Ok(())
    })?;
    Ok(returns)
}
