//! What is durable: partitions, each a single-writer log that is the mailbox.
//!
//! `partition` is the way in and the way every change takes; `account`, `view` and `body` are what
//! services hold; `admission` says whether new mail is taken; `state`, `mailbox`, `namespace` and `snapshot` are an account in memory;
//! `checkpoint`, `paging`, `page`, `page_directory` and `run` move it to disk and back, `load` reads what a log says, `reopen` puts it
//! back after a failed write; `compaction`, `liveness` and `views` give back the space of what nobody
//! refers to any more, `compression` makes bodies smaller; `effect`
//! and `codec` say what an entry of the `log` means; `damage`, `rebuild` and `salvage` go on when
//! some of it cannot be read, `verify` looks for that.

mod account;
mod admission;
mod body;
mod bulk;
mod checkpoint;
mod codec;
mod compaction;
pub mod compression;
mod damage;
mod effect;
mod error;
mod garbage;
mod holding;
mod liveness;
mod load;
pub mod log;
mod mailbox;
mod message;
mod namespace;
mod options;
mod page;
mod page_directory;
mod paging;
mod partition;
mod rebuild;
mod reopen;
mod root;
mod run;
mod runs;
mod salvage;
mod signal;
mod snapshot;
mod standing;
mod state;
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
    account::{Account, Copied, FlagChange, FlagOutcome},
    admission::PartitionTrouble,
    body::{BODY_CHUNK, BodyWriter, StagedBody},
    compaction::CompactionReport,
    compression::Compression,
    damage::{Damage, Place},
    error::StoreError,
    holding::HoldingLimits,
    message::{MailboxStatus, Message, MessageBody},
    namespace::{MailboxInfo, Names},
    options::{StoreOptions, StoreProbe},
    partition::{
        Delivered, Deliveries, DeliveryId, DeliveryTarget, Partition, RecoveryReport, Spooled,
    },
    snapshot::{Difference, Snapshot},
    verify::{Finding, VerifyReport, kind_name},
    view::MailboxView,
};
