//! What the layers above ask of a partition. STUB SIGNATURES: the contract that store and services
//! are built against in parallel; the bodies arrive with the store.
#![allow(unused_variables, dead_code)]

use std::rc::Rc;

use bytes::Bytes;

use crate::{
    model::{
        AccountId, FlagSet, Flags, Lsn, MailboxId, ModSeq, PartitionId, Timestamp, Uid, UidValidity,
    },
    runtime::{device::Device, executor::Executor},
};

/// Why the store did not do as asked. Only `service` turns these into protocol replies.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The device failed; for a write this poisons the partition.
    #[error("{0}")]
    Io(Rc<std::io::Error>),
    /// Bytes on disk are not what was written.
    #[error("corrupt entry in {segment} at offset {offset}: {what}")]
    Corrupt { segment: String, offset: u64, what: String },
    /// No space: new mail is refused, reads and expunges go on.
    #[error("the disk is full")]
    Full,
    /// A write or sync failed earlier: nothing is accepted until the partition is reopened.
    #[error("the partition stopped accepting writes after a failed sync")]
    Poisoned,
    #[error("no such mailbox")]
    NoSuchMailbox,
    #[error("mailbox exists")]
    MailboxExists,
    /// e.g. deleting INBOX or creating a name deeper or longer than allowed.
    #[error("{0}")]
    NotPermitted(&'static str),
    /// A named limit was hit, e.g. "keywords per mailbox".
    #[error("limit reached: {0}")]
    Limit(&'static str),
}

/// Limits and sizes of a partition; `config` fills them.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub partition: PartitionId,
    /// Bytes at which a segment is sealed and the next one opened.
    pub segment_size: u64,
    /// Log bytes after which a checkpoint is written; bounds what a start must replay.
    pub checkpoint_interval: u64,
    /// Bytes of account state kept in memory before cold accounts are dropped.
    pub account_budget: usize,
    /// Bytes of un-written log a partition buffers before appenders wait.
    pub write_buffer: usize,
    pub mailboxes_per_account: usize,
    pub mailbox_name_max: usize,
}

/// Bodies above this are written as chunks as they arrive instead of inside their commit entry.
pub const BODY_CHUNK: usize = 256 * 1024;

/// A single-writer, log-structured store in a folder of its own. Cheap to clone; shard-local.
#[derive(Clone)]
pub struct Partition {}

/// What opening found; `ringmail serve` logs it.
#[derive(Debug, Default, Clone)]
pub struct RecoveryReport {
    pub segments: usize,
    pub replayed_bytes: u64,
    pub replayed_entries: u64,
    /// Bytes of torn, un-acknowledged tail ignored.
    pub tail_bytes: u64,
    /// Damaged batches below a durable LSN: (segment, offset, what).
    pub damage: Vec<(String, u64, String)>,
}

impl Partition {
    /// Opens or creates the partition on `device`; replays the log after the last checkpoint.
    pub async fn open(
        device: Rc<dyn Device>,
        executor: Rc<dyn Executor>,
        options: StoreOptions,
    ) -> Result<(Partition, RecoveryReport), StoreError> {
        todo!()
    }

    pub fn id(&self) -> PartitionId {
        todo!()
    }

    /// Starts taking in a message body of unknown size.
    pub fn stage(&self) -> BodyWriter {
        todo!()
    }

    /// Puts one staged body into several mailboxes by one commit entry: all or nothing, durable
    /// when this returns. `delivery_id`, when given, makes a repetition a no-op.
    pub async fn deliver(
        &self,
        body: StagedBody,
        targets: Vec<DeliveryTarget>,
        delivery_id: Option<u128>,
    ) -> Result<Vec<Delivered>, StoreError> {
        todo!()
    }

    /// Loads an account, creating it with an empty INBOX at first use. The handle pins its state
    /// in memory until dropped.
    pub async fn account(&self, account: AccountId) -> Result<Account, StoreError> {
        todo!()
    }

    /// Spool: keeps `payload` (opaque to the store) durably until `unspool`. For mail that waits.
    pub async fn spool(&self, body: StagedBody, payload: Bytes) -> Result<Lsn, StoreError> {
        todo!()
    }
    pub fn spooled(&self) -> Vec<Spooled> {
        todo!()
    }
    pub async fn unspool(&self, lsn: Lsn) -> Result<(), StoreError> {
        todo!()
    }

    /// `None` while healthy, else why writes are refused.
    pub fn trouble(&self) -> Option<StoreError> {
        todo!()
    }

    pub fn probe(&self) -> StoreProbe {
        todo!()
    }

    /// Writes a checkpoint and stops the writer; for a clean shutdown.
    pub async fn close(&self) -> Result<(), StoreError> {
        todo!()
    }
}

/// Counters of a partition since it was opened.
#[derive(Clone, Copy, Default, Debug)]
pub struct StoreProbe {
    pub syncs: u64,
    pub batches: u64,
    pub entries: u64,
    pub bytes_written: u64,
    pub messages_stored: u64,
    pub accounts_in_memory: u64,
    pub checkpoints: u64,
}

#[derive(Clone, Debug)]
pub struct Spooled {
    pub lsn: Lsn,
    pub payload: Bytes,
    pub body: MessageBody,
}

/// Takes body bytes as they arrive; over [`BODY_CHUNK`] they go to the log as chunk entries.
/// Dropping it leaves at most garbage chunks, never a message.
pub struct BodyWriter {}

impl BodyWriter {
    /// Waits only when the partition's write buffer is full.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        todo!()
    }
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// `summary` is what `protocol::mime` derived, opaque here, kept beside the message.
    pub async fn finish(self, summary: Vec<u8>) -> Result<StagedBody, StoreError> {
        todo!()
    }
}

/// A complete body waiting for its commit entry. Belongs to the partition that staged it.
pub struct StagedBody {}

impl StagedBody {
    pub fn size(&self) -> u64 {
        todo!()
    }
}

#[derive(Clone, Debug)]
pub struct DeliveryTarget {
    pub account: AccountId,
    /// `INBOX` or a path as in [`MailboxInfo::name`]; absent folders fall back to INBOX.
    pub mailbox: Option<String>,
    pub flags: Flags,
    /// Keyword names to set, e.g. `$Junk`.
    pub keywords: Vec<String>,
    pub internal_date: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivered {
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid_validity: UidValidity,
    pub uid: Uid,
}

/// One account, loaded. Cheap to clone. All mutations return after their effects are durable and
/// published; reads see published state only.
#[derive(Clone)]
pub struct Account {}

/// RFC 6154 special use of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpecialUse {
    All,
    Archive,
    Drafts,
    Flagged,
    Junk,
    Sent,
    Trash,
}

#[derive(Clone, Debug)]
pub struct MailboxInfo {
    pub id: MailboxId,
    /// UTF-8 path, levels separated by '/'; INBOX is always "INBOX".
    pub name: String,
    pub special_use: Option<SpecialUse>,
    pub uid_validity: UidValidity,
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

impl Account {
    pub fn id(&self) -> AccountId {
        todo!()
    }

    /// All mailboxes, sorted by name, INBOX first.
    pub fn mailboxes(&self) -> Vec<MailboxInfo> {
        todo!()
    }
    pub fn mailbox_by_name(&self, name: &str) -> Option<MailboxInfo> {
        todo!()
    }
    pub fn mailbox(&self, id: MailboxId) -> Option<MailboxInfo> {
        todo!()
    }
    /// Names subscribed to; they need not exist (RFC 3501 6.3.6).
    pub fn subscriptions(&self) -> Vec<String> {
        todo!()
    }

    /// Missing superior levels are created too (RFC 3501 6.3.3).
    pub async fn create_mailbox(
        &self,
        name: &str,
        special_use: Option<SpecialUse>,
    ) -> Result<MailboxId, StoreError> {
        todo!()
    }
    /// A mailbox with children keeps its name as `\Noselect`-free parent only if it has none:
    /// deleting one with children is `NotPermitted`.
    pub async fn delete_mailbox(&self, name: &str) -> Result<(), StoreError> {
        todo!()
    }
    /// Renames children too, in one transaction. Renaming INBOX moves its messages to the new
    /// mailbox and leaves INBOX empty (RFC 3501 6.3.5). Superior levels are created.
    pub async fn rename_mailbox(&self, source: &str, target: &str) -> Result<(), StoreError> {
        todo!()
    }
    pub async fn set_subscribed(&self, name: &str, subscribed: bool) -> Result<(), StoreError> {
        todo!()
    }

    pub async fn status(&self, mailbox: MailboxId) -> Result<MailboxStatus, StoreError> {
        todo!()
    }

    /// The mailbox as published now. With `claim_recent` the session takes the `\Recent` marks:
    /// UIDs from `Snapshot::recent_from` on are recent for it and for nobody after (the claim is
    /// durable lazily: at worst a message is recent twice after a crash).
    pub async fn select(
        &self,
        mailbox: MailboxId,
        claim_recent: bool,
    ) -> Result<MailboxView, StoreError> {
        todo!()
    }

    /// Body staged on this account's partition.
    pub async fn append(
        &self,
        mailbox: MailboxId,
        body: StagedBody,
        flags: Flags,
        keywords: &[String],
        internal_date: Timestamp,
    ) -> Result<Delivered, StoreError> {
        todo!()
    }

    /// All or nothing; answers (source, target) UIDs in ascending order. Keywords are carried by
    /// name; `\Recent` is set in the target.
    pub async fn copy(
        &self,
        source: MailboxId,
        messages: &[Message],
        target: MailboxId,
    ) -> Result<Copied, StoreError> {
        todo!()
    }

    /// COPY and EXPUNGE of the same messages in one transaction (RFC 6851).
    pub async fn move_messages(
        &self,
        source: MailboxId,
        messages: &[Message],
        target: MailboxId,
    ) -> Result<Copied, StoreError> {
        todo!()
    }

    /// One transaction. UIDs that no longer exist are skipped.
    pub async fn store_flags(
        &self,
        mailbox: MailboxId,
        uids: &[Uid],
        change: FlagChange,
        unchanged_since: Option<ModSeq>,
    ) -> Result<FlagOutcome, StoreError> {
        todo!()
    }

    /// Removes those of `uids` (or of all messages when `None`) that carry `\Deleted`.
    pub async fn expunge(
        &self,
        mailbox: MailboxId,
        uids: Option<&[Uid]>,
    ) -> Result<Vec<Uid>, StoreError> {
        todo!()
    }

    /// Removes `uids` whatever their flags (POP3 QUIT), in one transaction.
    pub async fn remove(&self, mailbox: MailboxId, uids: &[Uid]) -> Result<Vec<Uid>, StoreError> {
        todo!()
    }

    /// Checksummed read of `range` of the body (clamped to its size).
    pub async fn read_body(
        &self,
        body: &MessageBody,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, StoreError> {
        todo!()
    }

    /// The summary given to [`BodyWriter::finish`].
    pub async fn read_summary(&self, body: &MessageBody) -> Result<Bytes, StoreError> {
        todo!()
    }
}

#[derive(Clone, Debug)]
pub struct Copied {
    pub uid_validity: UidValidity,
    pub uids: Vec<(Uid, Uid)>,
}

#[derive(Clone, Debug)]
pub enum FlagChange {
    Add(Flags, Vec<String>),
    Remove(Flags, Vec<String>),
    Replace(Flags, Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub struct FlagOutcome {
    /// Messages now in the state asked for, with their mod-sequence; ascending by UID.
    pub updated: Vec<(Uid, ModSeq)>,
    /// Refused by UNCHANGEDSINCE (RFC 7162 3.1.3); ascending.
    pub modified: Vec<Uid>,
}

/// Where a body lies in the log; valid as long as some view or mailbox holds the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MessageBody {
    /// Entry that commits the body.
    pub lsn: Lsn,
    /// RFC822.SIZE, octets.
    pub size: u64,
}

/// One message of a published mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    pub uid: Uid,
    pub mod_seq: ModSeq,
    pub flags: FlagSet,
    pub internal_date: Timestamp,
    pub save_date: Timestamp,
    pub body: MessageBody,
}

/// An immutable published state of one mailbox, shared by its sessions. Clones are cheap.
#[derive(Clone)]
pub struct Snapshot {}

impl Snapshot {
    pub fn len(&self) -> usize {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// By message sequence number minus one.
    pub fn get(&self, index: usize) -> Option<&Message> {
        todo!()
    }
    pub fn index_of(&self, uid: Uid) -> Option<usize> {
        todo!()
    }
    /// Index of the first message with a UID >= `uid`; `len()` if none.
    pub fn lower_bound(&self, uid: Uid) -> usize {
        todo!()
    }
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &Message> {
        std::iter::empty()
    }
    /// Keyword names; position = bit in `KeywordSet`. Only ever grows.
    pub fn keywords(&self) -> &[String] {
        todo!()
    }
    pub fn status(&self) -> MailboxStatus {
        todo!()
    }
    /// What changed from `self` to `newer`; cheap when little did (shared chunks are skipped).
    pub fn difference(&self, newer: &Snapshot) -> Difference {
        todo!()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Difference {
    /// Indexes in the older snapshot, ascending.
    pub expunged: Vec<usize>,
    /// Indexes in the newer snapshot of messages in both whose flags or mod-sequence changed.
    pub changed: Vec<usize>,
    /// Messages that only the newer has: all at its end.
    pub added: usize,
    /// Keyword table grew: FLAGS must be told again.
    pub keywords: bool,
}

/// A session's hold on a mailbox; follows it through renames.
pub struct MailboxView {}

impl MailboxView {
    pub fn mailbox(&self) -> MailboxId {
        todo!()
    }
    /// Latest published state; `None` once the mailbox was deleted.
    pub fn current(&self) -> Option<Snapshot> {
        todo!()
    }
    /// Messages with a UID from here on are `\Recent` for this session.
    pub fn recent_from(&self) -> Uid {
        todo!()
    }
    /// Takes the `\Recent` claim on messages that came since; returns the first UID of them.
    pub fn claim_recent(&self) -> Option<Uid> {
        todo!()
    }
    /// Resolves when something newer than `seen` is published (or the mailbox is deleted).
    /// Cancel-safe.
    pub async fn changed(&self, seen: &Snapshot) {
        todo!()
    }
}
