//! Settings and counters of a partition.

use std::{sync::Arc, time::Duration};

use super::{
    account::{
        cards::CARDS_WANTED, holding::HoldingLimits, properties::PropertyLimits,
        runs::RUN_GARBAGE_MIN, tombstones::TombstoneLimits,
    },
    bodies::compression::Compression,
    format::{
        cards::{CardSplit, undivided},
        run::RUN_RECORDS_MAX,
    },
    quotas::Quotas,
    shares::Shares,
};
use crate::model::{AccountId, PartitionId, SpecialUse};

/// Limits and sizes of a partition; `config` fills them.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub partition: PartitionId,
    /// Bytes at which a segment is sealed and the next one opened.
    pub segment_size: u64,
    /// Log bytes after which a checkpoint is written; limits what a start must replay.
    pub checkpoint_interval: u64,
    /// Bytes of account state kept in memory before cold accounts are dropped.
    pub account_budget: usize,
    /// Bytes of opened blocks of message cards kept in memory, for the next FETCH or SEARCH.
    pub card_budget: usize,
    /// Bytes of un-written log a partition buffers before appenders wait.
    pub write_buffer: usize,
    /// Percent of the sealed log that may be garbage before compaction begins by itself; 0 = never.
    pub garbage_share: u8,
    /// Most bytes a second that compaction reads and writes; 0 = no limit.
    pub compaction_rate: u64,
    /// Records in one run of a mailbox's table; more would hold the shard while they are encoded.
    pub run_records_max: usize,
    /// Number of garbage records in a mailbox's runs that is never worth a rewrite.
    pub run_garbage_min: usize,
    /// Messages of a mailbox without cards before a checkpoint makes cards for them.
    pub cards_wanted: u32,
    /// Splits a summary into the parts of a card.
    pub card_split: CardSplit,
    /// Bytes kept for expunges and compaction on a full disk; 0 = none.
    pub reserve: u64,
    /// New mail is refused while less than this is free, bytes.
    pub free_space_min: u64,
    /// New mail is refused while a write takes longer than this.
    pub disk_timeout: Duration,
    /// How new bodies are compressed; `None`: not at all. Existing ones are readable either way.
    pub compression: Option<Compression>,
    /// Known deliveries that may still be repeated; beyond this, none that could be repeated is
    /// accepted.
    pub deliveries_known: usize,
    pub mailboxes_per_account: usize,
    /// The most messages, and octets of them, that any account may have.
    pub holding: HoldingLimits,
    /// Expunged UIDs that a mailbox remembers.
    pub tombstones: TombstoneLimits,
    /// ACLs, quota, metadata and so on of one account.
    pub properties: PropertyLimits,
    /// The index of shares: accounts of the partition whose access lists name others, and the
    /// octets of it. It is one page of the log.
    pub share_limits: PropertyLimits,
    /// What is shared with whom, for all shards.
    pub shares: Arc<Shares>,
    /// The limits of each account, for all shards.
    pub quotas: Arc<Quotas>,
    /// Octets of a mailbox's whole path.
    pub mailbox_name_max: usize,
    /// Mailboxes of a new account besides INBOX.
    pub default_mailboxes: Vec<(String, SpecialUse)>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        let default_mailboxes = [
            ("Drafts", SpecialUse::Drafts),
            ("Sent", SpecialUse::Sent),
            ("Trash", SpecialUse::Trash),
            ("Junk", SpecialUse::Junk),
        ];
        StoreOptions {
            partition: PartitionId(0),
            segment_size: 64 << 20,
            checkpoint_interval: 64 << 20,
            account_budget: 64 << 20,
            card_budget: 32 << 20,
            write_buffer: 16 << 20,
            garbage_share: 30,
            compaction_rate: 64 << 20,
            run_records_max: RUN_RECORDS_MAX,
            run_garbage_min: RUN_GARBAGE_MIN,
            cards_wanted: CARDS_WANTED,
            card_split: undivided,
            reserve: 8 << 20,
            free_space_min: 64 << 20,
            disk_timeout: Duration::from_secs(10),
            compression: None,
            deliveries_known: 16 * 1024,
            mailboxes_per_account: 10_000,
            holding: HoldingLimits::default(),
            tombstones: TombstoneLimits::default(),
            properties: PropertyLimits::default(),
            share_limits: PropertyLimits { number: 50_000, octets: 4 << 20 },
            shares: Arc::default(),
            quotas: Arc::default(),
            mailbox_name_max: 1024,
            default_mailboxes: default_mailboxes
                .into_iter()
                .map(|(name, special_use)| (name.to_owned(), special_use))
                .collect(),
        }
    }
}

impl StoreOptions {
    /// The messages, and octets of them, that an account may have: its quota, up to the most that
    /// any may have.
    pub(super) fn holding_of(&self, account: AccountId) -> HoldingLimits {
        let quota = self.quotas.limits(account);
        HoldingLimits {
            messages: quota.messages.unwrap_or(u64::MAX).min(self.holding.messages),
            octets: quota.octets.unwrap_or(u64::MAX).min(self.holding.octets),
        }
    }
}
