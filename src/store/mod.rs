//! What is durable: partitions, each a single-writer log that is the mailbox.
//!
//! `partition` is the way in and the way every change takes; `handle`, `view` and `bodies/` are what
//! services hold. `account/` is an account in memory, `format/` what an entry's octets mean, `log/` the
//! entries; `message` and `error` are what all of them speak of. Of the rest, `admission` says whether new
//! mail is taken; `checkpoint`, `paging` and `page_directory` move accounts to disk and back, `load`
//! reads what a log says, `reopen` puts it back after a failed write; `compaction`, `liveness` and
//! `views` give back the space of what nobody refers to any more;
//! `damage`, `rebuild` and `salvage` go on when some of it cannot be read, `verify` looks for that.
//! docs/architecture.md, "The rooms of the store", says which of them will share a room.

mod account;
mod accounts;
mod admission;
mod bodies;
mod checkpoint;
mod commits;
mod compaction;
mod damage;
mod delivery;
mod error;
mod format;
mod handle;
mod liveness;
mod load;
pub mod log;
mod message;
mod options;
mod page_directory;
mod paging;
mod partition;
mod rebuild;
mod reopen;
mod salvage;
mod signal;
mod verify;
mod view;
mod views;

#[cfg(test)]
mod crash_images;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use self::{
    account::{
        holding::HoldingLimits,
        namespace::{MailboxInfo, Names},
        snapshot::{Difference, Snapshot},
    },
    admission::PartitionTrouble,
    bodies::{
        compression::{self, Compression},
        write::{BodyWriter, StagedBody},
    },
    commits::standing::Spooled,
    compaction::CompactionReport,
    damage::{Damage, Place},
    delivery::{Delivered, Deliveries, DeliveryId, DeliveryTarget},
    error::StoreError,
    format::body::BODY_CHUNK,
    handle::{Account, Copied, FlagChange, FlagOutcome},
    log::RecoveryReport,
    message::{MailboxStatus, Message, MessageBody},
    options::{StoreOptions, StoreProbe},
    partition::Partition,
    verify::{Finding, VerifyReport, kind_name},
    view::MailboxView,
};
