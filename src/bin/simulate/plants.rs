//! The planted bugs by name, and their descriptions for the table printed by `--plant`.

use crate::plant::Plant;

/// Name on the command line, the plant, what it does.
pub const PLANTS: &[(&str, Plant, &str)] = &[
    ("skip-sync", Plant::SkipSync, "a batch is durable once written"),
    ("acknowledge-early", Plant::AcknowledgeEarly, "answered before durable"),
    ("show-early", Plant::ShowEarly, "visible before durable"),
    ("read-unchecked", Plant::ReadUnchecked, "reads ignore the entry's checksum"),
    ("misplaced-entry", Plant::MisplacedEntry, "reads ignore which entry it is"),
    ("batch-unchecked", Plant::BatchUnchecked, "recovery ignores the batch's checksum"),
    ("reuse-uid", Plant::ReuseUid, "a UID is given out again after a start"),
    ("lose-rename", Plant::LoseRename, "replay forgets renames"),
    ("resurrect-expunged", Plant::ResurrectExpunged, "replay forgets expunges"),
    ("skip-directory-sync", Plant::SkipDirectorySync, "a new segment's name is not synced"),
    ("skip-checkpoint-sync", Plant::SkipCheckpointSync, "a checkpoint file is not synced"),
    ("checkpoint-ahead", Plant::CheckpointAhead, "a checkpoint claims what it does not have"),
    ("retry-failed-sync", Plant::RetryFailedSync, "a failed sync is retried and believed"),
    ("ignore-delivery-id", Plant::IgnoreDeliveryId, "a delivery is carried out twice"),
    ("forget-deliveries", Plant::ForgetDeliveries, "an id is forgotten before its repetition"),
    ("drift-unseen", Plant::DriftUnseen, "a counter is not counted"),
    ("mod-seq-back", Plant::ModSeqBack, "a mod-sequence is given out again"),
    ("evict-dirty", Plant::EvictDirty, "a changed account leaves memory unwritten"),
    ("mix-keywords", Plant::MixKeywords, "COPY keeps keyword bits"),
    ("half-transaction", Plant::HalfTransaction, "replay applies half a transaction"),
    ("lose-subscription", Plant::LoseSubscription, "a checkpoint forgets a subscription"),
    ("lose-annotations", Plant::LoseAnnotations, "a checkpoint forgets values beside messages"),
    ("forget-annotations", Plant::ForgetAnnotations, "compaction overlooks values beside messages"),
    ("card-of-another", Plant::CardOfAnother, "a card is made of another message"),
    ("forget-cards", Plant::ForgetCards, "compaction overlooks cards"),
    ("drop-live-body", Plant::DropLiveBody, "compaction overlooks a body"),
    ("skip-compacted-sync", Plant::SkipCompactedSync, "sources go before the copy is synced"),
    ("ignore-held-views", Plant::IgnoreHeldViews, "compaction overlooks what sessions hold"),
    ("forget-staged-bodies", Plant::ForgetStagedBodies, "compaction overlooks bodies on their way"),
    ("lose-tombstone", Plant::LoseTombstone, "joining runs forgets what was expunged"),
    ("keep-floor", Plant::KeepFloor, "the floor stays when tombstones go"),
    ("show-property-early", Plant::ShowPropertyEarly, "a property is seen before it is durable"),
    ("lose-property", Plant::LoseProperty, "a checkpoint forgets a mailbox's property"),
    ("forget-shares", Plant::ForgetShares, "an access list changes without the index of shares"),
    ("shares-apart", Plant::SharesApart, "the index of shares follows its list by an entry"),
    ("forget-recipient", Plant::ForgetRecipient, "every second result is taken for success"),
    ("retry-delivered", Plant::RetryDelivered, "who has a message stays in its envelope"),
    ("bounce-twice", Plant::BounceTwice, "a report is queued twice"),
    ("done-early", Plant::DoneEarly, "a message leaves the queue when an attempt begins"),
    ("send-undurable", Plant::SendUndurable, "mail goes out before it is durable"),
    ("send-unaccepted", Plant::SendUnaccepted, "mail goes out that may still be refused"),
    ("lose-schedule", Plant::LoseSchedule, "a start forgets who is to wait"),
    ("lose-hold", Plant::LoseHold, "a start releases what is held"),
    ("end-early", Plant::EndEarly, "a message leaves with its first destination"),
    ("forget-part", Plant::ForgetPart, "who must wait ends with who is done with"),
    ("expunge-early", Plant::ExpungeEarly, "a MOVE expunges before its target is durable"),
    ("forget-intents", Plant::ForgetIntents, "a start forgets the moves that were begun"),
    ("lose-ticket", Plant::LoseTicket, "the arrival of a move is not recorded"),
    ("replace-apart", Plant::ReplaceApart, "REPLACE expunges by an entry of its own"),
    ("report-apart", Plant::ReportApart, "a report is logged after its reason"),
    ("stale-unchangedsince", Plant::StaleUnchangedSince, "UNCHANGEDSINCE overlooks the log buffer"),
];

/// Seeds that caught a plant when they were written down, for plants that few seeds catch. They are
/// tried first. What a seed does changes with the code; then the seeds after it are tried.
const CAUGHT_BY: &[(&str, u64)] = &[
    ("read-unchecked", 21),
    ("misplaced-entry", 1110),
    ("batch-unchecked", 130),
    ("ignore-held-views", 28),
    ("forget-staged-bodies", 41),
    ("send-undurable", 47),
    ("send-unaccepted", 663),
    ("expunge-early", 31),
    ("forget-intents", 98),
    ("lose-ticket", 27),
    ("replace-apart", 4),
    ("report-apart", 69),
    ("stale-unchangedsince", 54),
];

/// The seed from which on a plant is tried.
pub fn first_seed(name: &str) -> u64 {
    CAUGHT_BY.iter().find(|(known, _)| *known == name).map_or(0, |(_, seed)| *seed)
}

pub fn by_name(name: &str) -> Option<Plant> {
    PLANTS.iter().find(|(known, ..)| *known == name).map(|(_, plant, _)| *plant)
}
