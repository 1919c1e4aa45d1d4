//! STATUS (RFC 3501 6.3.10), and its items, which LIST also accepts (RFC 5819 2).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `status = "STATUS" SP mailbox SP "(" status-att *(SP status-att) ")"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status<'a> {
    pub mailbox: MailboxName<'a>,
    pub items: StatusItems,
}

/// A set of STATUS data items (RFC 3501 6.3.10, RFC 7162 3.1.7, RFC 7889 3, RFC 8438 2, RFC 9051
/// 6.3.11, RFC 9208 4.1.4).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StatusItems(pub u16);

impl StatusItems {
    pub const MESSAGES: StatusItems = StatusItems(1);
    pub const RECENT: StatusItems = StatusItems(2);
    pub const UID_NEXT: StatusItems = StatusItems(4);
    pub const UID_VALIDITY: StatusItems = StatusItems(8);
    pub const UNSEEN: StatusItems = StatusItems(16);
    pub const HIGHEST_MOD_SEQ: StatusItems = StatusItems(32);
    pub const SIZE: StatusItems = StatusItems(64);
    pub const DELETED: StatusItems = StatusItems(128);
    /// RFC 8474 4.3
    pub const MAILBOX_ID: StatusItems = StatusItems(256);
    pub const APPEND_LIMIT: StatusItems = StatusItems(1 << 15);
    pub const DELETED_STORAGE: StatusItems = StatusItems(512);

    pub fn contains(self, other: StatusItems) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn insert(&mut self, other: StatusItems) {
        self.0 |= other.0;
    }
}

impl<'a> Arguments<'a> for Status<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Status<'a>> {
        cursor.arguments()?;
        let mailbox = cursor.mailbox()?;
        cursor.space()?;
        Ok(Status { mailbox, items: status_items(cursor)? })
    }
}

/// The list of items, in parentheses.
pub(super) fn status_items(cursor: &mut Cursor<'_>) -> Parsed<StatusItems> {
    let mut items = StatusItems::default();
    cursor.list(false, "a list of status items is missing", |cursor| {
        // The one name that is not a mere word.
        if cursor.eat_all(b"DELETED-STORAGE") {
            items.insert(StatusItems::DELETED_STORAGE);
            return Ok(());
        }
        items.insert(match cursor.word()?.as_bytes() {
            b"MESSAGES" => StatusItems::MESSAGES,
            b"RECENT" => StatusItems::RECENT,
            b"UIDNEXT" => StatusItems::UID_NEXT,
            b"UIDVALIDITY" => StatusItems::UID_VALIDITY,
            b"UNSEEN" => StatusItems::UNSEEN,
            b"HIGHESTMODSEQ" => StatusItems::HIGHEST_MOD_SEQ,
            b"SIZE" => StatusItems::SIZE,
            b"DELETED" => StatusItems::DELETED,
            b"MAILBOXID" => StatusItems::MAILBOX_ID,
            b"APPENDLIMIT" => StatusItems::APPEND_LIMIT,
            _ => return Err("unknown status item"),
        });
        Ok(())
    })?;
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        Status, StatusItems,
    };

    #[test]
    fn items() {
        let status = |items| CommandBody::Status(Status { mailbox: mailbox("x"), items });
        check(
            "STATUS x (messages UIDNEXT)",
            status(StatusItems(StatusItems::MESSAGES.0 | StatusItems::UID_NEXT.0)),
        );
        check(
            "STATUS x (RECENT UIDVALIDITY UNSEEN HIGHESTMODSEQ SIZE)",
            status(StatusItems(0x7f & !1 & !4)),
        );
        check("STATUS x (DELETED)", status(StatusItems::DELETED));
        check("STATUS x (MAILBOXID)", status(StatusItems::MAILBOX_ID));
        check("STATUS x (APPENDLIMIT)", status(StatusItems::APPEND_LIMIT));
        check(
            "STATUS x (DELETED deleted-storage)",
            status(StatusItems(StatusItems::DELETED.0 | StatusItems::DELETED_STORAGE.0)),
        );
    }
}
