//! What is durable: partitions, each a single-writer log that is also the mailbox.
//!
//! `partition` is the entry point; `handle/` and `bodies/` are what services hold. Each room knows
//! only those below it: `repair/` and `space/`, `checkpoint`, `commits/`, `accounts/`, and
//! `account/`, `format/` and `log/` at the bottom; all of them use `message` and `error`.
//! docs/architecture.md, "The rooms of the store", says what each owns.

mod account;
mod accounts;
mod admission;
mod annotations;
mod bodies;
mod cards;
mod checkpoint;
mod commits;
mod damage;
mod error;
mod format;
mod handle;
pub mod log;
mod message;
mod options;
mod partition;
mod probe;
mod quotas;
mod repair;
mod shares;
mod space;

#[cfg(test)]
mod crash_images;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use self::{
    account::{
        changes::{AccessListThen, AccountChange, MessageChange},
        holding::HoldingLimits,
        namespace::{MailboxInfo, Names},
        properties::PropertyLimits,
        snapshot::{Difference, Snapshot},
        tombstones::TombstoneLimits,
    },
    admission::{PartitionTrouble, Refusal},
    bodies::{
        compression::{self, Compression},
        write::{BodyWriter, StagedBody},
    },
    commits::feed::{FeedChange, FeedEvent, FeedKind, Subscription},
    damage::{Damage, Place},
    error::StoreError,
    format::annotations::{ANNOTATION_OCTETS_MAX, ANNOTATIONS_MAX},
    format::body::BODY_CHUNK,
    format::cards::{CARD_PARTS, CardSplit},
    format::effect::{PropertyKey, PropertyKind, SPECIAL_USE_ENTRY},
    handle::account::{
        Account, BodyReader, CardReader, Expunged, FlagChange, FlagOutcome, Renamed,
    },
    handle::annotations::AnnotationChanges,
    handle::copying::{COPY_SLICE, Copied},
    handle::delivery::{Delivered, Deliveries, DeliveryId, DeliveryTarget},
    handle::metadata::{ANNOTATION_VALUE_MAX, Annotated, Annotations},
    handle::moves::{Arrived, Begun, Moves},
    handle::queue::{Settled, Settlement},
    handle::quota::Usage,
    handle::replacing::Replacing,
    handle::seen::SeenIn,
    handle::shipment::{Manifest, Shipment, Ticket},
    handle::unsettled::Unsettled,
    handle::url_keys::UrlKey,
    handle::view::{AccountFollower, AccountWatch, MailboxView},
    log::RecoveryReport,
    message::{MailboxStatus, Message, MessageBody},
    options::StoreOptions,
    partition::Partition,
    probe::StoreProbe,
    quotas::{DefaultQuota, Quotas},
    repair::verify::{Finding, VerifyReport, kind_name},
    shares::Shares,
    space::compaction::CompactionReport,
};
