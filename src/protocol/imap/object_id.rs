//! Object identifiers (RFC 8474): names that stay, written as `objectid`.
//!
//! Nothing is stored for them: a mailbox keeps its number through RENAME, no other one of its
//! account ever has it, and copies of a message refer to the same entry of the log.

use crate::model::{AccountId, Lsn, MailboxId, PartitionId};

/// The identifier of a mailbox or of the content of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectId {
    /// MAILBOXID
    Mailbox(AccountId, MailboxId),
    /// EMAILID: where the message is kept. One that was copied to an account of another partition
    /// is kept there again.
    Email(PartitionId, Lsn),
    /// THREADID: the hash of the ID of the message that began the thread. It follows from the
    /// message itself, so it stays, and is the same in every mailbox.
    Thread(u64),
    /// The same for a message without such an ID, by its EMAILID: NIL is for mailboxes without
    /// threads.
    Alone(PartitionId, Lsn),
}

impl ObjectId {
    /// `"(" objectid ")"` (RFC 8474 7). A letter comes first, as some clients demand.
    pub(super) fn push(self, out: &mut Vec<u8>) {
        let text = match self {
            ObjectId::Mailbox(AccountId(account), MailboxId(mailbox)) => {
                format!("(F{account:x}-{mailbox:x})")
            }
            ObjectId::Email(PartitionId(partition), Lsn(lsn)) => {
                format!("(M{partition:x}-{lsn:x})")
            }
            ObjectId::Thread(root) => format!("(T{root:x})"),
            ObjectId::Alone(PartitionId(partition), Lsn(lsn)) => {
                format!("(T{partition:x}-{lsn:x})")
            }
        };
        out.extend_from_slice(text.as_bytes());
    }

    /// The email of which this is the identifier; `None` if it is of none here.
    pub(super) fn parse_email(text: &str) -> Option<ObjectId> {
        let (partition, lsn) = place(text.strip_prefix('M')?)?;
        Some(ObjectId::Email(partition, lsn))
    }

    /// The same for a thread.
    pub(super) fn parse_thread(text: &str) -> Option<ObjectId> {
        let text = text.strip_prefix('T')?;
        let alone = || place(text).map(|(partition, lsn)| ObjectId::Alone(partition, lsn));
        number(text).map(ObjectId::Thread).or_else(alone)
    }
}

/// Where a message is kept.
fn place(text: &str) -> Option<(PartitionId, Lsn)> {
    let (partition, lsn) = text.split_once('-')?;
    let partition = PartitionId(u16::try_from(number(partition)?).ok()?);
    Some((partition, Lsn(number(lsn)?)))
}

/// A number as it is written here, and in no other way.
fn number(text: &str) -> Option<u64> {
    let is_digit = |octet: u8| octet.is_ascii_digit() || matches!(octet, b'a'..=b'f');
    let is_ours = text.bytes().all(is_digit) && (text == "0" || !text.starts_with('0'));
    u64::from_str_radix(text, 16).ok().filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(id: ObjectId) -> String {
        let mut out = Vec::new();
        id.push(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn identifiers() {
        assert_eq!(written(ObjectId::Mailbox(AccountId(26), MailboxId(1))), "(F1a-1)");
        let last = ObjectId::Mailbox(AccountId(u64::MAX), MailboxId(u32::MAX));
        assert_eq!(written(last), "(Fffffffffffffffff-ffffffff)");
        for id in
            [ObjectId::Email(PartitionId(0), Lsn(0)), ObjectId::Email(PartitionId(9), Lsn(77))]
        {
            let text = written(id);
            let text = text.trim_matches(['(', ')']);
            assert_eq!(ObjectId::parse_email(text), Some(id), "{text}");
        }
        for text in
            ["", "M", "M-", "M1", "M1-", "M01-1", "M1-+1", "M1-G", "F1-1", "m1-1", "M10000-1"]
        {
            assert_eq!(ObjectId::parse_email(text), None, "{text}");
        }
        let thread = ObjectId::Thread(0x64b4_78a7_5b7e_a900);
        assert_eq!(written(thread), "(T64b478a75b7ea900)");
        assert_eq!(ObjectId::parse_thread("T64b478a75b7ea900"), Some(thread));
        let alone = ObjectId::Alone(PartitionId(1), Lsn(26));
        assert_eq!(written(alone), "(T1-1a)");
        assert_eq!(ObjectId::parse_thread("T1-1a"), Some(alone));
        for text in
            ["", "T", "T01", "T+1", "T1-", "T1-01", "T-1", "M1-1", "M1", "T64b478a75b7ea9000"]
        {
            assert_eq!(ObjectId::parse_thread(text), None, "{text}");
        }
    }
}
