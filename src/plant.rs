//! Planted bugs: mistakes that the simulator makes on purpose, to show that it would find them.
//!
//! Each stands at the place where the real bug would be, as one `if planted(Plant::Name)`. The
//! `simulate` program and unit tests compile the sources with `PLANTS_LIVE` true and choose one by
//! [`plant`]; in the library it is false at compile time, so that no plant reaches a released
//! binary.

use std::cell::Cell;

/// A mistake; the comment says what goes wrong for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// A batch counts as durable once it is written, not once it is synced.
    SkipSync,
    /// A command is answered when its entry is appended.
    AcknowledgeEarly,
    /// Others see a change when its entry is appended.
    ShowEarly,
    /// An entry is believed whatever its checksum says.
    ReadUnchecked,
    /// An entry is believed to be the one asked for, whatever it says itself.
    MisplacedEntry,
    /// A batch found at start is believed whatever its checksum says.
    BatchUnchecked,
    /// After a start a mailbox gives out its last UID once more.
    ReuseUid,
    /// A start forgets renames that no checkpoint has.
    LoseRename,
    /// A start forgets expunges that no checkpoint has.
    ResurrectExpunged,
    /// A new segment's directory entry is not synced.
    SkipDirectorySync,
    /// A checkpoint file is not synced before the older one goes.
    SkipCheckpointSync,
    /// A checkpoint claims to hold what was appended while it was written.
    CheckpointAhead,
    /// A failed sync is tried again, as if that told anything.
    RetryFailedSync,
    /// A delivery that was carried out already is carried out again.
    IgnoreDeliveryId,
    /// Ids of deliveries are forgotten though a repetition may come.
    ForgetDeliveries,
    /// The counter of unseen messages forgets those that are expunged.
    DriftUnseen,
    /// After a start an account's mod-sequence begins one lower.
    ModSeqBack,
    /// Changed accounts leave memory too.
    EvictDirty,
    /// COPY keeps the bits of keywords, which mean others in the target mailbox.
    MixKeywords,
    /// A start applies only the first change of a transaction.
    HalfTransaction,
    /// A checkpoint skips accounts whose only change is a subscription.
    LoseSubscription,
    /// UNCHANGEDSINCE looks at what is published, not at what is under way.
    StaleUnchangedSince,
    /// A message's card is made of another message.
    CardOfAnother,
    /// Compaction overlooks the cards of messages.
    ForgetCards,
    /// A checkpoint forgets the annotations of messages.
    LoseAnnotations,
    /// Compaction overlooks the annotations of messages.
    ForgetAnnotations,
    /// A message of the spool of format 1 comes to the queue and stays in the spool.
    SpoolMovedInHalves,
    /// The change feed leaves out every fifth change.
    FeedDrops,
    /// The change feed tells every fifth change twice.
    FeedTellsTwice,
    /// The change feed tells what is appended, not what is durable.
    FeedTellsEarly,
    /// Who resumes the feed is told only of accounts whose pages lack something.
    FeedForgetsPages,
    /// Compaction overlooks every fourth body.
    DropLiveBody,
    /// Compaction does not ask what sessions still hold.
    IgnoreHeldViews,
    /// Compaction does not ask for bodies whose commit entry is still to come.
    ForgetStagedBodies,
    /// Sources go before the compacted segment is synced.
    SkipCompactedSync,
    /// Joining runs forgets what came and went within them, as if nobody asked what was expunged.
    LoseTombstone,
    /// The oldest tombstones go, and the floor claims that all are there.
    KeepFloor,
    /// Effects were lost, and the floor claims that every expunge is known.
    KeepFloorAfterLoss,
    /// Others see a property when its entry is appended.
    ShowPropertyEarly,
    /// A checkpoint forgets properties of mailboxes.
    LoseProperty,
}

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
}

/// Makes `plant` the one mistake of this thread, or none. Without effect in the library.
pub fn plant(plant: Option<Plant>) {
    PLANTED.set(plant);
}

/// Whether to make this mistake now.
#[inline(always)]
pub fn planted(plant: Plant) -> bool {
    crate::PLANTS_LIVE && PLANTED.get() == Some(plant)
}
