//! Newtype identifiers. Each is a plain integer on disk and on the wire; the types keep them apart.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $int);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id! {
    /// Stable number of an account. Never the address: addresses can be renamed.
    AccountId(u64)
}
id! {
    /// Number of a mailbox (folder) inside its account; never reused in that account. INBOX is 1.
    MailboxId(u32)
}
id! {
    /// Unique identifier of a message in a mailbox (RFC 3501 2.3.1.1); 0 is never assigned.
    Uid(u32)
}
id! {
    /// UIDVALIDITY of a mailbox (RFC 3501 2.3.1.1), from a persisted per-account counter.
    UidValidity(u32)
}
id! {
    /// Modification sequence (RFC 7162 3.1.1), per account, 63 bits used, starts at 1.
    ModSeq(u64)
}
id! {
    /// Log sequence number: an entry's position in its partition's log, in bytes since the log's
    /// birth. Permanent: compaction moves bytes, never numbers.
    Lsn(u64)
}
id! {
    /// Number of a partition, `0..partition_count`.
    PartitionId(u16)
}
id! {
    /// Number of a shard (one core's executor), `0..shard_count`.
    ShardId(u16)
}

impl MailboxId {
    /// Every account's INBOX.
    pub const INBOX: MailboxId = MailboxId(1);
}

impl AccountId {
    /// A reserved account, one in each partition, for mail that waits for delivery. It has the
    /// highest number; no user has it.
    pub const QUEUE: AccountId = AccountId(u64::MAX);

    /// A reserved account, one in each partition: whom the access lists of the partition's accounts
    /// grant something, as its properties. Nothing is delivered to it.
    pub const SHARES: AccountId = AccountId(u64::MAX - 1);

    /// The owner of the public mailboxes: an account like any other, in the one partition that its
    /// number says, but of no user.
    pub const PUBLIC: AccountId = AccountId(u64::MAX - 2);

    /// The partition that holds this account, of `partition_count` (> 0). Fixed for the life of a
    /// data directory. The multiplier is the 64-bit golden ratio: consecutive ids spread evenly.
    pub fn partition(self, partition_count: u16) -> PartitionId {
        let mixed = self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        PartitionId(((u128::from(mixed) * u128::from(partition_count)) >> 64) as u16)
    }
}
