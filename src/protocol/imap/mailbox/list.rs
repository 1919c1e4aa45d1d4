//! LIST, plain (RFC 3501 6.3.8) and extended (RFC 5258 3, RFC 5819 2, RFC 6154 5.2,
//! RFC 8440 3, RFC 9590 3).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed},
        metadata::entry::{EntryName, entries},
        name::MailboxName,
    },
    status::{StatusItems, status_items},
};

/// Patterns in one LIST.
const PATTERNS_MAX: usize = 32;

/// `list = "LIST" [SP list-select-opts] SP mailbox SP mbox-or-pat [SP "RETURN" SP
/// list-return-opts]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<'a> {
    pub selection: ListSelection,
    pub reference: MailboxName<'a>,
    /// One or more, still with `*` and `%`; [`MailboxName::to_utf8`] keeps wildcards.
    pub patterns: Vec<MailboxName<'a>>,
    pub returns: ListReturn,
    /// RFC 9590 3: annotations to be told with each mailbox.
    pub metadata: Vec<EntryName>,
    /// Whether any syntax of RFC 5258 was used: then an empty pattern does not ask for the
    /// separator.
    pub extended: bool,
}

/// RFC 5258 3.1 and RFC 6154 5.2. `recursive_match` occurs only with an option that it modifies.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListSelection {
    pub subscribed: bool,
    pub remote: bool,
    pub recursive_match: bool,
    pub special_use: bool,
}

/// RFC 5258 3.2, RFC 6154 5.2, RFC 5819 2 and RFC 8440 3.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListReturn {
    pub subscribed: bool,
    pub children: bool,
    pub special_use: bool,
    pub status: Option<StatusItems>,
    pub my_rights: bool,
}

impl<'a> Arguments<'a> for List<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<List<'a>> {
        cursor.arguments()?;
        let mut list = List {
            selection: ListSelection::default(),
            reference: MailboxName(b"".into()),
            patterns: Vec::new(),
            returns: ListReturn::default(),
            metadata: Vec::new(),
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
            (list.returns, list.metadata) = returns(cursor)?;
        }
        // RFC 5258 3.1 and RFC 6154 5.2: selecting by these implies returning them.
        list.returns.subscribed |= list.selection.subscribed;
        list.returns.special_use |= list.selection.special_use;
        Ok(list)
    }
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

fn returns(cursor: &mut Cursor<'_>) -> Parsed<(ListReturn, Vec<EntryName>)> {
    let mut returns = ListReturn::default();
    let mut metadata = Vec::new();
    cursor.list(true, "return options are missing", |cursor| {
        if cursor.eat_all(b"SPECIAL-USE") {
            returns.special_use = true;
            return Ok(());
        }
        match cursor.word()?.as_bytes() {
            b"SUBSCRIBED" => returns.subscribed = true,
            b"CHILDREN" => returns.children = true,
            b"MYRIGHTS" => returns.my_rights = true,
            b"STATUS" => {
                cursor.space()?;
                returns.status = Some(status_items(cursor)?);
            }
            b"METADATA" => {
                cursor.space()?;
                metadata = entries(cursor)?;
            }
            _ => return Err("unknown return option"),
        }
        Ok(())
    })?;
    Ok((returns, metadata))
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        *,
    };

    #[test]
    fn lists() {
        let plain = List {
            selection: ListSelection::default(),
            reference: mailbox(""),
            patterns: vec![mailbox("*")],
            returns: ListReturn::default(),
            metadata: Vec::new(),
            extended: false,
        };
        check("LIST \"\" *", CommandBody::List(plain.clone()));
        check("LIST \"\" \"*\"", CommandBody::List(plain.clone()));
        check(
            "LIST a/ b%",
            CommandBody::List(List {
                reference: mailbox("a/"),
                patterns: vec![mailbox("b%")],
                ..plain.clone()
            }),
        );
        let extended = List { extended: true, ..plain };
        check("LIST () \"\" *", CommandBody::List(extended.clone()));
        check("LIST \"\" * RETURN ()", CommandBody::List(extended.clone()));
        check(
            "LIST \"\" (INBOX \"a b\" %)",
            CommandBody::List(List {
                patterns: vec![mailbox("INBOX"), mailbox("a b"), mailbox("%")],
                ..extended.clone()
            }),
        );
        check(
            "LIST (SUBSCRIBED RECURSIVEMATCH REMOTE) \"\" * RETURN (CHILDREN STATUS (SIZE UNSEEN))",
            CommandBody::List(List {
                selection: ListSelection {
                    subscribed: true,
                    remote: true,
                    recursive_match: true,
                    special_use: false,
                },
                returns: ListReturn {
                    subscribed: true,
                    children: true,
                    special_use: false,
                    status: Some(StatusItems(StatusItems::SIZE.0 | StatusItems::UNSEEN.0)),
                    my_rights: false,
                },
                ..extended.clone()
            }),
        );
        check(
            "LIST (SPECIAL-USE) \"\" * RETURN (SPECIAL-USE MYRIGHTS SUBSCRIBED)",
            CommandBody::List(List {
                selection: ListSelection { special_use: true, ..Default::default() },
                returns: ListReturn {
                    special_use: true,
                    subscribed: true,
                    my_rights: true,
                    ..Default::default()
                },
                ..extended.clone()
            }),
        );
        let name = |name: &str| EntryName::parse(name.as_bytes()).expect("a name");
        check(
            "LIST \"\" * RETURN (METADATA (\"/shared/vendor/cmu/cyrus-imapd/color\" /private/x))",
            CommandBody::List(List {
                metadata: vec![name("/shared/vendor/cmu/cyrus-imapd/color"), name("/private/x")],
                ..extended
            }),
        );
    }
}
