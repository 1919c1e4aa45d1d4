//! Why the store did not do as asked. Only `service` turns these into protocol replies.

use std::sync::Arc;

use crate::model::Lsn;

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The device failed; after a write every change is refused until the partition reopened itself.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
    /// Bytes on disk are not what was written.
    #[error("corrupt entry in {segment} at offset {offset}: {what}")]
    Corrupt { segment: String, offset: u64, what: String },
    /// No space: every change is refused until the partition reopened itself; reads go on.
    #[error("the disk is full")]
    Full,
    /// A write or sync failed earlier: nothing is accepted until the partition reopened itself, and
    /// what was under way then is gone.
    #[error("a write or sync failed; the partition accepts nothing until it works again")]
    Poisoned,
    /// A write has been under way for too long: new mail is refused until the disk answers.
    #[error("the disk does not answer")]
    NotAnswering,
    /// Too many deliveries are known whose repetition may still come: none of several partitions is
    /// taken until some of them have ended.
    #[error("too many deliveries are half done")]
    Crowded,
    #[error("no such mailbox")]
    NoSuchMailbox,
    #[error("mailbox exists")]
    MailboxExists,
    /// e.g. deleting INBOX or creating a name deeper or longer than allowed.
    #[error("{0}")]
    NotPermitted(&'static str),
    /// The account has as many messages, or as many octets of them, as it may.
    #[error("the account is full")]
    OverQuota,
    /// A named limit was hit, e.g. "keywords per mailbox".
    #[error("limit reached: {0}")]
    Limit(&'static str),
}

impl StoreError {
    /// An entry whose checksums are right and whose content is not: a bug, or a newer version's.
    pub(super) fn undecodable(lsn: Lsn, error: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { segment: "log".to_owned(), offset: lsn.0, what: error.to_string() }
    }
}
