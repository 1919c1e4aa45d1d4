//! What several rooms of the store speak of: a message of a mailbox, and a mailbox's counters.

use crate::model::{FlagSet, Lsn, ModSeq, Timestamp, Uid, UidValidity};

/// Where a body lies in the log; valid as long as some view or mailbox holds the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageBody {
    /// Entry that commits the body. With the partition it is the body's permanent name: copies of
    /// a message share it.
    pub lsn: Lsn,
    /// RFC822.SIZE, octets.
    pub size: u64,
    /// Octets that entry takes in the log, so that it is read in one go.
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
    /// Messages that no session has been told as `\Recent` yet.
    pub recent: u32,
    pub unseen: u32,
    pub deleted: u32,
    pub uid_next: Uid,
    pub uid_validity: UidValidity,
    pub highest_mod_seq: ModSeq,
    /// Sum of RFC822.SIZE, octets.
    pub size: u64,
}

/// What is told of a mailbox where nothing ever happened: 0 is no mod-sequence (RFC 7162 7), and
/// the first change must be above what was told.
pub(super) const MOD_SEQ_OF_NOTHING: ModSeq = ModSeq(1);

impl MailboxStatus {
    /// HIGHESTMODSEQ, at least 1.
    pub fn told_mod_seq(&self) -> ModSeq {
        self.highest_mod_seq.max(MOD_SEQ_OF_NOTHING)
    }
}
