//! Planted bugs: mistakes that the simulator makes on purpose, to show that it would find them.
//!
//! Each is at the place where the real bug would be, as one `if planted(Plant::Name)`. The
//! `simulate` program and unit tests compile the sources with `PLANTS_LIVE` true and choose one
//! with [`plant`]; in the library it is false at compile time, so that no plant reaches a released
//! binary.

use std::cell::{Cell, RefCell};

/// A mistake; the comment says what goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plant {
    /// A batch counts as durable once it is written, not once it is synced.
    SkipSync,
    /// A command is answered when its entry is appended.
    AcknowledgeEarly,
    /// Other sessions see a change when its entry is appended.
    ShowEarly,
    /// An entry is accepted without checking its checksum.
    ReadUnchecked,
    /// An entry is taken for the requested one without checking what it says about itself.
    MisplacedEntry,
    /// A batch found at start is accepted without checking its checksum.
    BatchUnchecked,
    /// After a start a mailbox allocates its last UID again.
    ReuseUid,
    /// A start forgets renames that are in no checkpoint.
    LoseRename,
    /// A start forgets expunges that are in no checkpoint.
    ResurrectExpunged,
    /// A new segment's directory entry is not synced.
    SkipDirectorySync,
    /// The older checkpoint file is deleted before the new one is synced.
    SkipCheckpointSync,
    /// A checkpoint claims to include entries that were appended while it was written.
    CheckpointAhead,
    /// A failed sync is retried, as if the second result were reliable.
    RetryFailedSync,
    /// A delivery that was already done is done again.
    IgnoreDeliveryId,
    /// Delivery ids are forgotten although a repetition may come.
    ForgetDeliveries,
    /// The counter of unseen messages is not reduced when they are expunged.
    DriftUnseen,
    /// After a start an account's mod-sequence begins one lower.
    ModSeqBack,
    /// Changed accounts are evicted from memory too.
    EvictDirty,
    /// COPY keeps the keyword bits, which have other meanings in the target mailbox.
    MixKeywords,
    /// A start applies only the first change of a transaction.
    HalfTransaction,
    /// A checkpoint skips accounts whose only change is a subscription.
    LoseSubscription,
    /// UNCHANGEDSINCE looks at the published state, not at the pending one.
    StaleUnchangedSince,
    /// A message's card is made from another message.
    CardOfAnother,
    /// Compaction overlooks the cards of messages.
    ForgetCards,
    /// A checkpoint forgets the annotations of messages.
    LoseAnnotations,
    /// Compaction overlooks the annotations of messages.
    ForgetAnnotations,
    /// A message of format 1's spool is put into the queue but stays in the spool.
    SpoolMovedInHalves,
    /// The change feed leaves out every fifth change.
    FeedDrops,
    /// The change feed reports every fifth change twice.
    FeedTellsTwice,
    /// The change feed reports changes when they are appended, not when they are durable.
    FeedTellsEarly,
    /// A resuming subscriber is told only of accounts whose pages lack something.
    FeedForgetsPages,
    /// Compaction overlooks every fourth body.
    DropLiveBody,
    /// Compaction ignores the views that sessions still hold.
    IgnoreHeldViews,
    /// Compaction ignores bodies whose commit entry has not been written yet.
    ForgetStagedBodies,
    /// Sources are deleted before the compacted segment is synced.
    SkipCompactedSync,
    /// Merging runs drops messages that came and went within them, although expunges must be
    /// reported.
    LoseTombstone,
    /// The oldest tombstones are dropped, but the floor claims that all are there.
    KeepFloor,
    /// Effects were lost, but the floor claims that every expunge is known.
    KeepFloorAfterLoss,
    /// Other sessions see a property when its entry is appended.
    ShowPropertyEarly,
    /// A checkpoint forgets properties of mailboxes.
    LoseProperty,
    /// An access list is changed without the index of shares.
    ForgetShares,
    /// An access list is changed by one entry, the index of shares by the next one.
    SharesApart,
    /// REPLACE expunges once its message is durable, not with it.
    ReplaceApart,
    /// A report is put into the queue after its reason was recorded, not with it.
    ReportApart,
    /// The result of every second recipient of an attempt is taken for success.
    ForgetRecipient,
    /// A recipient who has the message stays in its envelope.
    RetryDelivered,
    /// A report is put into the queue twice.
    BounceTwice,
    /// A message is taken out of the queue when an attempt begins.
    DoneEarly,
    /// A message for the queue is taken up and answered before its entry is durable.
    SendUndurable,
    /// A message for the queue is sent before the other partitions have taken their part.
    SendUnaccepted,
    /// A start tries everything at once, whatever was to wait.
    LoseSchedule,
    /// A start releases what operators hold.
    LoseHold,
    /// A message leaves the queue when one of its destinations is done with.
    EndEarly,
    /// A destination counts as done with although some of its recipients must wait.
    ForgetPart,
    /// A MOVE to another partition expunges its messages before they have arrived.
    ExpungeEarly,
    /// A start forgets the moves to other partitions that were begun.
    ForgetIntents,
    /// The arrival of a move is not recorded with its messages.
    LoseTicket,
    /// Messages of a move are taken after its source was told that they have not arrived. The
    /// simulator meets this too seldom: a test of the store checks the rule.
    TakeGivenUp,
    // Of IMAP, which the simulator does not play: the model of shared mailboxes finds them.
    /// Rights on a mailbox are asked for when it is selected, and not again.
    RightsAtSelect,
    /// A session goes on with a mailbox that its user may no longer read.
    LeaseOutlivesRights,
    /// A mailbox that a user may not look up is told from none.
    TellHidden,
    /// Where `\Seen` is each user's own, it is set as a flag that all see.
    SeenLeaks,
    /// Copies in another account are as seen as their source's owner has seen it.
    CarryAnothersSeen,
    /// Copies are unseen where `\Seen` is each user's own.
    ForgetSeenOfCopies,
    /// Copies have flags that the user may not set.
    CopyEveryFlag,
}

thread_local! {
    static PLANTED: Cell<Option<Plant>> = const { Cell::new(None) };
    /// The first check of the store that failed in this thread's seed.
    static FAILED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Whether the store checks itself where that is too slow for a server: pages are read again as
/// they were written, counters are counted again. In tests and in the simulator, also when
/// optimized.
pub const SELF_CHECKS: bool = cfg!(debug_assertions) || crate::PLANTS_LIVE;

/// States what one of these checks found. In the simulator a mistake is kept for
/// [`take_failed_check`]: in an optimized build a panic would end the run of all seeds, and a
/// planted bug is to be counted as found. Elsewhere it is a panic.
#[track_caller]
pub fn self_check(is_right: bool, what: impl Fn() -> String) {
    let is_kept = crate::PLANTS_LIVE && !cfg!(test);
    assert!(is_right || is_kept, "{}", what());
    if !is_right {
        FAILED.with_borrow_mut(|failed| {
            failed.get_or_insert_with(what);
        });
    }
}

/// What was wrong first since the last call.
pub fn take_failed_check() -> Option<String> {
    FAILED.take()
}

/// Makes `plant` the only planted bug of this thread, or none. Has no effect in the library.
pub fn plant(plant: Option<Plant>) {
    PLANTED.set(plant);
}

/// Whether to make this mistake now.
#[inline(always)]
pub fn planted(plant: Plant) -> bool {
    crate::PLANTS_LIVE && PLANTED.get() == Some(plant)
}
