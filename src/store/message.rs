//! Types that several rooms of the store use: a message of a mailbox, and a mailbox's counters.

use crate::model::{FlagSet, Lsn, ModSeq, Timestamp, Uid, UidValidity};

/// The location of a body in the log; valid as long as some view or mailbox holds the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageBody {
    /// Entry that commits the body. With the partition it is the body's permanent name: copies of
    /// a message share it.
    pub lsn: Lsn,
    /// RFC822.SIZE, octets.
    pub size: u64,
    /// Octets of that entry in the log, so that one read suffices.
    pub entry_len: u32,
}

/// One message of a published mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    pub uid: Uid,
    pub mod_seq: ModSeq,
    pub flags: FlagSet,
    pub internal_date: Timestamp,
    pub save_date: Timestamp,
    pub body: MessageBody,
}

/// Kept counters (never recounted on request).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MailboxStatus {
    pub messages: u32,
    /// Messages not yet reported to any session as `\Recent`.
    pub recent: u32,
    pub unseen: u32,
    pub deleted: u32,
    pub uid_next: Uid,
    pub uid_validity: UidValidity,
    pub highest_mod_seq: ModSeq,
    /// Sum of RFC822.SIZE, octets.
    pub size: u64,
}

/// HIGHESTMODSEQ reported for a mailbox without any changes: 0 is not a mod-sequence (RFC 7162 7),
/// and the first change must be above the reported one.
pub(super) const MOD_SEQ_OF_NOTHING: ModSeq = ModSeq(1);

impl MailboxStatus {
    /// HIGHESTMODSEQ, at least 1.
    pub fn told_mod_seq(&self) -> ModSeq {
        self.highest_mod_seq.max(MOD_SEQ_OF_NOTHING)
    }
}
