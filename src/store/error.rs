//! Errors of the store. Only `service` turns these into protocol replies.

use std::sync::Arc;

use crate::model::{AccessListError, Lsn};

#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The device failed; after a write every change is refused until the partition has reopened.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
    /// Bytes on disk are not what was written.
    #[error("corrupt entry in {segment} at offset {offset}: {what}")]
    Corrupt { segment: String, offset: u64, what: String },
    /// No space: every change is refused until the partition has reopened; reads go on.
    #[error("the disk is full")]
    Full,
    /// A write or sync failed earlier: nothing is accepted until the partition has reopened, and
    /// changes in progress then are gone.
    #[error("a write or sync failed; the partition accepts nothing until it works again")]
    Poisoned,
    /// A write is taking too long: new mail is refused until the disk answers.
    #[error("the disk does not answer")]
    NotAnswering,
    /// Too many deliveries are known that may still be repeated: deliveries to several partitions
    /// are refused until some of them have ended.
    #[error("too many deliveries are incomplete")]
    Crowded,
    #[error("no such mailbox")]
    NoSuchMailbox,
    #[error("mailbox exists")]
    MailboxExists,
    /// For example, deleting INBOX or creating a name deeper or longer than allowed.
    #[error("{0}")]
    NotPermitted(&'static str),
    /// The account has reached its limit of messages or of octets.
    #[error("the account is full")]
    OverQuota,
    /// A named limit was hit, e.g. "keywords per mailbox".
    #[error("limit reached: {0}")]
    Limit(&'static str),
}

impl StoreError {
    /// An entry with valid checksums and undecodable content: a bug, or a newer version's.
    pub(super) fn undecodable(lsn: Lsn, error: impl std::fmt::Display) -> StoreError {
        StoreError::Corrupt { segment: "log".to_owned(), offset: lsn.0, what: error.to_string() }
    }
}

impl From<AccessListError> for StoreError {
    fn from(error: AccessListError) -> StoreError {
        match error {
            AccessListError::Entries => StoreError::Limit("entries of an access list"),
            AccessListError::Octets => StoreError::Limit("octets of an access list"),
            AccessListError::Number => StoreError::NotPermitted("No entry has this number"),
        }
    }
}
