//! One mailbox in memory: published counters and messages, pending changes, and the changes since
//! its message table was last written to a run.
//!
//! Three layers, all shard-local and owned by the account's state:
//! - *published*: `status`, `keywords` and, once it is needed, `loaded` (the message table).
//!   Deliveries need no table: they count and append to `delta`.
//! - *pending*: next UID, keyword table and an overlay of flag changes and expunges that are in the
//!   log's buffer but not yet durable. Decisions (UNCHANGEDSINCE, which messages are deleted) are
//!   made on it.
//! - `runs` + `changes`: the table and the tombstones on disk, and the changes that a checkpoint
//!   will add, or is adding.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use super::{
    super::{
        format::{
            effect::Effect,
            run::{RunRecord, RunRef},
        },
        message::{MailboxStatus, Message},
    },
    annotations::MailboxAnnotations,
    cards::MailboxCards,
    holding::Holding,
    runs::{Delta, merge_over},
    snapshot::{MessageTable, Published, Snapshot},
    tombstones::{Tombstone, TombstoneLimits, Tombstones},
    watchers::Watchers,
};
use crate::{
    model::{FlagSet, Flags, KEYWORDS_PER_MAILBOX_MAX, Lsn, ModSeq, Uid, UidValidity},
    plant::{Plant, planted},
};

/// The state of a message including pending changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PendingState {
    pub flags: FlagSet,
    pub mod_seq: ModSeq,
}

/// Changes that are staged but not yet durable.
struct Pending {
    uid_next: Uid,
    keywords: Arc<Vec<String>>,
    /// Latest staged change per UID with its entry's LSN; `None` means expunged.
    overlay: BTreeMap<Uid, (Lsn, Option<PendingState>)>,
}

pub(crate) struct Mailbox {
    /// Whether the effect that created this mailbox is durable.
    pub live: bool,
    pub status: MailboxStatus,
    pub keywords: Arc<Vec<String>>,
    /// First UID whose `\Recent` no session has claimed.
    pub recent_from: Uid,
    /// The message table, if in memory. Never dropped alone, only with the account.
    pub loaded: Option<Arc<Published>>,
    /// Runs on disk, oldest first; with [`Mailbox::changes`] on top they are the table.
    pub runs: Vec<RunRef>,
    /// Changes published since the last run was written, or since its writing began.
    pub delta: Delta,
    /// Earlier changes, which a checkpoint is writing to runs.
    captured: Option<Rc<Delta>>,
    /// The locations of its messages' cards.
    pub cards: MailboxCards,
    /// The annotations of its messages; `None` if there are none.
    pub annotations: Option<Box<MailboxAnnotations>>,
    /// The expunged messages; in memory together with the message table.
    pub tombstones: Tombstones,
    /// First UID that no run can hold: expunges of later ones that are forgotten need no record.
    unstored_from: Uid,
    pending: Pending,
    /// Changes of its access list published since it was loaded.
    pub access_changes: u64,
    /// Sessions waiting in `MailboxView::changed`.
    pub watchers: Watchers,
}

impl Mailbox {
    /// A new, empty mailbox whose creation is pending.
    pub(crate) fn new(uid_validity: UidValidity) -> Mailbox {
        let status = MailboxStatus { uid_next: Uid(1), uid_validity, ..MailboxStatus::default() };
        let tombstones = Tombstones::default();
        let mut mailbox = Mailbox::stored(status, Arc::default(), Uid(1), Vec::new(), tombstones);
        mailbox.live = false;
        mailbox.loaded = Some(Arc::new(Published { status, ..Published::default() }));
        mailbox
    }

    /// A mailbox as an account page describes it, its message table not loaded.
    pub(crate) fn stored(
        status: MailboxStatus,
        keywords: Arc<Vec<String>>,
        recent_from: Uid,
        runs: Vec<RunRef>,
        tombstones: Tombstones,
    ) -> Mailbox {
        Mailbox {
            live: true,
            status,
            keywords: keywords.clone(),
            recent_from,
            loaded: None,
            runs,
            delta: Delta::new(),
            captured: None,
            cards: MailboxCards::default(),
            annotations: None,
            tombstones,
            unstored_from: status.uid_next,
            pending: Pending { uid_next: status.uid_next, keywords, overlay: BTreeMap::new() },
            access_changes: 0,
            watchers: Watchers::default(),
        }
    }

    // --- pending ---

    /// Takes the next UID; `None` if the mailbox has used all of them.
    pub(crate) fn allocate_uid(&mut self) -> Option<Uid> {
        let uid = self.pending.uid_next;
        self.pending.uid_next = Uid(uid.0.checked_add(1)?);
        Some(uid)
    }

    pub(crate) fn pending_keywords(&self) -> &Arc<Vec<String>> {
        &self.pending.keywords
    }

    /// Those of `names` that the pending keyword table lacks; names compare without case
    /// (RFC 3501 9). `None` if the table cannot hold them all.
    pub(crate) fn missing_keywords(&self, names: &[String]) -> Option<Vec<String>> {
        let mut missing: Vec<String> = Vec::new();
        for name in names {
            if self.keyword_index(name).is_none()
                && !missing.iter().any(|other| other.eq_ignore_ascii_case(name))
            {
                missing.push(name.clone());
            }
        }
        let total = self.pending.keywords.len() + missing.len();
        (total <= KEYWORDS_PER_MAILBOX_MAX).then_some(missing)
    }

    /// Bit of a keyword in the pending table.
    pub(crate) fn keyword_index(&self, name: &str) -> Option<usize> {
        self.pending.keywords.iter().position(|other| other.eq_ignore_ascii_case(name))
    }

    /// The published message `uid` including pending changes; needs the table loaded.
    pub(crate) fn pending_state(&self, uid: Uid) -> Option<PendingState> {
        if let Some((_, state)) = self.pending.overlay.get(&uid)
            && !planted(Plant::StaleUnchangedSince)
        {
            return *state;
        }
        let message = self.loaded.as_ref()?.table.by_uid(uid)?;
        Some(PendingState { flags: message.flags, mod_seq: message.mod_seq })
    }

    /// Those of `uids` that are published and not expunged in pending state; needs the table
    /// loaded.
    pub(crate) fn pending_holding(&self, uids: &[Uid]) -> Holding {
        let Some(loaded) = &self.loaded else { return Holding::default() };
        let is_there = |uid: &&Uid| {
            let staged = self.pending.overlay.get(uid);
            staged.is_none_or(|(_, state)| state.is_some())
        };
        let messages = uids.iter().filter(is_there).filter_map(|uid| loaded.table.by_uid(*uid));
        messages.fold(Holding::default(), |sum, message| Holding {
            messages: sum.messages + 1,
            octets: sum.octets.saturating_add(message.body.size),
        })
    }

    /// Published messages that are not expunged in pending state, with their pending flags.
    pub(crate) fn pending_messages(&self) -> impl Iterator<Item = (&Message, PendingState)> {
        self.pending_messages_from(Uid(0))
    }

    /// Those with a UID from `first` on.
    pub(crate) fn pending_messages_from(
        &self,
        first: Uid,
    ) -> impl Iterator<Item = (&Message, PendingState)> {
        let from = |table: &'_ MessageTable| table.lower_bound(first);
        let table = self.loaded.as_ref().map(|it| it.table.iter_from(from(&it.table)));
        table.into_iter().flatten().filter_map(|message| {
            let state = match self.pending.overlay.get(&message.uid) {
                Some((_, state)) => (*state)?,
                None => PendingState { flags: message.flags, mod_seq: message.mod_seq },
            };
            Some((message, state))
        })
    }

    /// False only if no message can be `\Deleted` in pending state: saves a scan.
    pub(crate) fn may_have_deleted(&self) -> bool {
        self.status.deleted > 0 || !self.pending.overlay.is_empty()
    }

    /// Records a change of this mailbox's messages appended at `lsn`.
    pub(crate) fn stage(&mut self, lsn: Lsn, effect: &Effect) {
        match effect {
            Effect::Message { message, .. } => {
                let next = Uid(message.uid.0.saturating_add(1));
                self.pending.uid_next = self.pending.uid_next.max(next);
            }
            Effect::Flags { mod_seq, groups, .. } => {
                for (flags, uids) in groups {
                    let state = PendingState { flags: *flags, mod_seq: *mod_seq };
                    for uid in uids {
                        self.pending.overlay.insert(*uid, (lsn, Some(state)));
                    }
                }
            }
            Effect::Expunge { uids, .. } => {
                for uid in uids {
                    self.pending.overlay.insert(*uid, (lsn, None));
                }
            }
            Effect::Keyword { names, .. } => {
                Arc::make_mut(&mut self.pending.keywords).extend_from_slice(names);
            }
            _ => {}
        }
    }

    fn unstage(&mut self, lsn: Lsn, uids: &[Uid]) {
        for uid in uids {
            if self.pending.overlay.get(uid).is_some_and(|(staged, _)| *staged == lsn) {
                self.pending.overlay.remove(uid);
            }
        }
    }

    // --- published ---

    /// Applies a durable change of this mailbox's messages, appended at `lsn`.
    pub(crate) fn publish(&mut self, lsn: Lsn, effect: &Effect) {
        match effect {
            Effect::Message { message, .. } => self.publish_message(*message),
            Effect::Flags { mod_seq, groups, .. } => {
                self.raise_mod_seq(*mod_seq);
                for (flags, uids) in groups {
                    uids.iter().for_each(|uid| self.publish_flags(*uid, *flags, *mod_seq));
                    self.unstage(lsn, uids);
                }
            }
            Effect::Expunge { mod_seq, uids, .. } => {
                self.raise_mod_seq(*mod_seq);
                let messages = self.status.messages;
                self.publish_expunge(*mod_seq, uids);
                self.change_annotations(|annotations| annotations.forget(uids, messages));
                self.unstage(lsn, uids);
            }
            Effect::Keyword { names, .. } => {
                Arc::make_mut(&mut self.keywords).extend_from_slice(names);
                if Arc::ptr_eq(&self.keywords, &self.pending.keywords)
                    || *self.keywords == *self.pending.keywords
                {
                    // Nothing is pending: share one table again.
                    self.pending.keywords = self.keywords.clone();
                }
            }
            Effect::Annotations { uid, values, .. } => {
                self.annotations.get_or_insert_default().publish(*uid, values);
                return;
            }
            _ => return,
        }
        self.show();
    }

    /// Updates the shared snapshot's status and keywords, with a new generation.
    fn show(&mut self) {
        if let Some(loaded) = &mut self.loaded {
            let published = Arc::make_mut(loaded);
            published.status = self.status;
            published.generation += 1;
            if !Arc::ptr_eq(&published.keywords, &self.keywords) {
                published.keywords = self.keywords.clone();
            }
        }
    }

    fn raise_mod_seq(&mut self, mod_seq: ModSeq) {
        self.status.highest_mod_seq = self.status.highest_mod_seq.max(mod_seq);
    }

    fn publish_message(&mut self, message: Message) {
        self.raise_mod_seq(message.mod_seq);
        // UIDs ascend in the log; one that does not is a repetition, not a second message.
        if message.uid < self.status.uid_next {
            return;
        }
        let status = &mut self.status;
        status.messages += 1;
        status.recent += 1;
        status.unseen += u32::from(!message.flags.system.contains(Flags::SEEN));
        status.deleted += u32::from(message.flags.system.contains(Flags::DELETED));
        status.size = status.size.saturating_add(message.body.size);
        status.uid_next = status.uid_next.max(Uid(message.uid.0.saturating_add(1)));
        self.delta.insert(message.uid, RunRecord::Put(message));
        if let Some(loaded) = &mut self.loaded {
            Arc::make_mut(loaded).table.push(message);
        }
    }

    fn publish_flags(&mut self, uid: Uid, flags: FlagSet, mod_seq: ModSeq) {
        let Some(loaded) = &mut self.loaded else { return };
        let Some(before) = Arc::make_mut(loaded).table.set_flags(uid, flags, mod_seq) else {
            return;
        };
        let count = |flag: Flags, counter: &mut u32, counts_when: bool| {
            let counted = |set: FlagSet| u32::from(set.system.contains(flag) == counts_when);
            *counter = (*counter + counted(flags)).saturating_sub(counted(before));
        };
        count(Flags::SEEN, &mut self.status.unseen, false);
        count(Flags::DELETED, &mut self.status.deleted, true);
        match self.delta.get_mut(&uid) {
            Some(RunRecord::Put(message)) => (message.flags, message.mod_seq) = (flags, mod_seq),
            _ => {
                self.delta.insert(uid, RunRecord::Flags { flags, mod_seq });
            }
        }
    }

    fn publish_expunge(&mut self, mod_seq: ModSeq, uids: &[Uid]) {
        let Some(loaded) = &mut self.loaded else { return };
        let (status, delta, recent_from) = (&mut self.status, &mut self.delta, self.recent_from);
        let tombstones = &mut self.tombstones;
        Arc::make_mut(loaded).table.remove(uids, |message| {
            let system = message.flags.system;
            let less = |counter: &mut u32, counted: bool| {
                *counter = counter.saturating_sub(u32::from(counted));
            };
            less(&mut status.messages, true);
            less(&mut status.recent, message.uid >= recent_from);
            let unseen = !system.contains(Flags::SEEN) && !planted(Plant::DriftUnseen);
            less(&mut status.unseen, unseen);
            less(&mut status.deleted, system.contains(Flags::DELETED));
            status.size = status.size.saturating_sub(message.body.size);
            tombstones.add(mod_seq, message.uid);
            delta.insert(message.uid, RunRecord::Expunged { mod_seq });
        });
    }

    /// Forgets the oldest tombstones if there are too many.
    pub(crate) fn trim_tombstones(&mut self, limits: TombstoneLimits) {
        let (delta, unstored_from) = (&mut self.delta, self.unstored_from);
        self.tombstones.trim(limits, self.status.messages, |uid| {
            // Came and went since the last run: no run has it.
            if uid >= unstored_from {
                delta.remove(&uid);
            }
        });
    }

    /// Changes the annotations, if there are any.
    pub(crate) fn change_annotations<T: Default>(
        &mut self,
        change: impl FnOnce(&mut MailboxAnnotations) -> T,
    ) -> T {
        let Some(annotations) = &mut self.annotations else { return T::default() };
        let changed = change(annotations);
        if annotations.is_empty() {
            self.annotations = None;
        }
        changed
    }

    /// Takes the delta, to be written to runs at once.
    pub(crate) fn take_delta(&mut self) -> Delta {
        self.unstored_from = self.status.uid_next;
        std::mem::take(&mut self.delta)
    }

    /// Sets the delta aside while it is written to runs; it still counts as a change until
    /// [`Mailbox::written`] reports it written, or [`Mailbox::give_back`] abandoned.
    pub(crate) fn capture(&mut self) -> Rc<Delta> {
        let captured = Rc::new(self.take_delta());
        debug_assert!(self.captured.is_none(), "one checkpoint at a time");
        self.captured = Some(captured.clone());
        captured
    }

    /// `captured` is in `runs`, which replace the mailbox's runs; returns the old ones. `None` if
    /// the table was replaced meanwhile, from the log or by salvage: then `runs` are not used.
    pub(crate) fn written(
        &mut self,
        captured: &Rc<Delta>,
        runs: Vec<RunRef>,
    ) -> Option<Vec<RunRef>> {
        self.captured.take_if(|ours| Rc::ptr_eq(ours, captured))?;
        Some(std::mem::replace(&mut self.runs, runs))
    }

    /// Puts `captured` back below later changes, unless the table was replaced.
    pub(crate) fn give_back(&mut self, captured: &Rc<Delta>) {
        if self.captured.take_if(|ours| Rc::ptr_eq(ours, captured)).is_some() {
            let older = captured.iter().map(|(uid, record)| (*uid, *record));
            let (floor, all) = (self.tombstones.floor(), self.runs.is_empty());
            self.delta = merge_over(older, &self.delta, floor, all);
        }
    }

    /// The changes that the runs lack, in layers, oldest first.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Delta> {
        self.captured.as_deref().into_iter().chain([&self.delta])
    }

    /// Takes the `\Recent` marks; returns the first UID that has one, `uid_next` if none.
    pub(crate) fn claim_recent(&mut self) -> Uid {
        let first = self.recent_from;
        self.recent_from = self.status.uid_next;
        self.status.recent = 0;
        first
    }

    /// Skips to higher numbers; see [`super::state::AccountState::skip_numbers`]. The lost effects
    /// may include expunges.
    pub(crate) fn skip_numbers(&mut self, uids: u32, mod_seq: ModSeq) {
        let next = Uid(self.status.uid_next.0.saturating_add(uids));
        self.status.uid_next = next;
        self.pending.uid_next = self.pending.uid_next.max(next);
        self.raise_mod_seq(mod_seq);
        if !planted(Plant::KeepFloorAfterLoss) {
            self.tombstones.forget_all(self.status.highest_mod_seq);
        }
        self.show();
    }

    /// Replaces the whole table by `messages` (ascending by UID) after damage: counters are
    /// recounted and the next checkpoint writes all of it. UIDs up to `highest` are used. Nothing
    /// is known of expunges then.
    pub(crate) fn replace_table(&mut self, messages: impl Iterator<Item = Message>, highest: Uid) {
        let status = &mut self.status;
        (status.messages, status.recent, status.unseen) = (0, 0, 0);
        (status.deleted, status.size) = (0, 0);
        let mut published = Published { keywords: self.keywords.clone(), ..Published::default() };
        published.generation = self.loaded.as_ref().map_or(0, |loaded| loaded.generation);
        self.delta.clear();
        self.captured = None;
        self.runs.clear();
        self.cards = MailboxCards::default();
        for message in messages {
            status.messages += 1;
            status.recent += u32::from(message.uid >= self.recent_from);
            status.unseen += u32::from(!message.flags.system.contains(Flags::SEEN));
            status.deleted += u32::from(message.flags.system.contains(Flags::DELETED));
            status.size = status.size.saturating_add(message.body.size);
            status.uid_next = status.uid_next.max(Uid(message.uid.0.saturating_add(1)));
            status.highest_mod_seq = status.highest_mod_seq.max(message.mod_seq);
            self.delta.insert(message.uid, RunRecord::Put(message));
            published.table.push(message);
        }
        status.uid_next = status.uid_next.max(Uid(highest.0.saturating_add(1)));
        self.tombstones.forget_all(status.highest_mod_seq);
        self.pending.uid_next = self.pending.uid_next.max(status.uid_next);
        self.loaded = Some(Arc::new(published));
        self.show();
    }

    /// After [`Mailbox::replace_table`]: restores the known expunges above `floor`.
    pub(crate) fn restore_tombstones(&mut self, floor: ModSeq, known: &[Tombstone]) {
        self.tombstones = Tombstones::stored(floor, 0);
        for (mod_seq, uid) in known.iter().filter(|(mod_seq, _)| *mod_seq > floor) {
            self.tombstones.add(*mod_seq, *uid);
            self.delta.insert(*uid, RunRecord::Expunged { mod_seq: *mod_seq });
        }
    }

    /// The published state; `None` while the table is not loaded or nothing is published.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        let published = self.loaded.as_ref().filter(|_| self.live)?;
        Some(Snapshot { published: published.clone() })
    }

    /// Bytes of memory, estimated.
    pub(crate) fn memory(&self) -> usize {
        let table = self.loaded.as_ref().map_or(0, |loaded| loaded.table.len());
        let keywords: usize = self.keywords.iter().map(|name| name.len() + 24).sum();
        let changes: usize = self.changes().map(Delta::len).sum();
        size_of::<Mailbox>()
            + table * size_of::<Message>()
            + changes * 2 * size_of::<RunRecord>() // Ascending keys: half-full leaves.
            + self.runs.len() * size_of::<RunRef>()
            + self.cards.memory()
            + self.annotations.as_ref().map_or(0, |annotations| annotations.memory())
            + self.tombstones.memory()
            + keywords
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{AccountId, MailboxId},
        store::message::MessageBody,
    };

    const ACCOUNT: AccountId = AccountId(1);

    fn set(system: Flags) -> FlagSet {
        FlagSet { system, ..FlagSet::default() }
    }

    fn message(uid: u32, mod_seq: u64, system: Flags) -> Effect {
        let message = Message {
            uid: Uid(uid),
            mod_seq: ModSeq(mod_seq),
            flags: set(system),
            body: MessageBody { size: 10, ..MessageBody::default() },
            ..Message::default()
        };
        Effect::Message { account: ACCOUNT, mailbox: MailboxId::INBOX, message }
    }

    fn flags(mod_seq: u64, system: Flags, uids: &[u32]) -> Effect {
        let uids = uids.iter().copied().map(Uid).collect();
        Effect::Flags {
            account: ACCOUNT,
            mailbox: MailboxId::INBOX,
            mod_seq: ModSeq(mod_seq),
            groups: vec![(set(system), uids)],
        }
    }

    fn expunge(mod_seq: u64, uids: &[u32]) -> Effect {
        let uids = uids.iter().copied().map(Uid).collect();
        let mod_seq = ModSeq(mod_seq);
        Effect::Expunge { account: ACCOUNT, mailbox: MailboxId::INBOX, mod_seq, uids }
    }

    fn mailbox(effects: &[Effect]) -> Mailbox {
        let mut mailbox = Mailbox::new(UidValidity(1));
        mailbox.live = true;
        for (n, effect) in effects.iter().enumerate() {
            mailbox.stage(Lsn(n as u64), effect);
            mailbox.publish(Lsn(n as u64), effect);
        }
        mailbox
    }

    #[test]
    fn counters_follow_every_change() {
        let both = Flags::SEEN | Flags::DELETED;
        let mut mailbox = mailbox(&[
            message(1, 1, Flags::default()),
            message(2, 2, Flags::SEEN),
            message(3, 3, Flags::default()),
            flags(4, both, &[1, 3]),
            flags(5, Flags::default(), &[2, 9]),
            expunge(6, &[3, 8]),
        ]);
        let expected = MailboxStatus {
            messages: 2,
            recent: 2,
            unseen: 1,
            deleted: 1,
            uid_next: Uid(4),
            uid_validity: UidValidity(1),
            highest_mod_seq: ModSeq(6),
            size: 20,
        };
        assert_eq!(mailbox.status, expected);
        assert_eq!(mailbox.snapshot().unwrap().status(), expected);
        assert_eq!(mailbox.claim_recent(), Uid(1));
        assert_eq!((mailbox.status.recent, mailbox.claim_recent()), (0, Uid(4)));
        // 8 and 9 never existed in runs: no run needs a record of them.
        assert_eq!(mailbox.delta.keys().map(|uid| uid.0).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(mailbox.tombstones.since(ModSeq(5)), [Uid(3)]);
        assert_eq!(mailbox.tombstones.since(ModSeq(6)), []);
    }

    #[test]
    fn a_forgotten_tombstone_stays_in_the_delta_only_if_a_run_may_hold_the_message() {
        let limits = TombstoneLimits { at_least: 1, at_most: 1 };
        let mut mailbox =
            mailbox(&[message(1, 1, Flags::default()), message(2, 2, Flags::default())]);
        assert_eq!(mailbox.take_delta().len(), 2);
        let effects =
            [message(3, 3, Flags::default()), expunge(4, &[1]), expunge(5, &[3]), expunge(6, &[2])];
        for effect in &effects {
            mailbox.publish(Lsn(9), effect);
            mailbox.trim_tombstones(limits);
        }
        assert_eq!(mailbox.tombstones.floor(), ModSeq(5));
        assert_eq!(mailbox.delta.keys().map(|uid| uid.0).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn decisions_see_pending_changes_and_readers_do_not() {
        let mut mailbox = mailbox(&[message(1, 1, Flags::default())]);
        let seen = flags(2, Flags::SEEN, &[1]);
        let flagged = flags(3, Flags::FLAGGED, &[1]);
        mailbox.stage(Lsn(10), &seen);
        mailbox.stage(Lsn(11), &flagged);
        let pending = PendingState { flags: set(Flags::FLAGGED), mod_seq: ModSeq(3) };
        assert_eq!(mailbox.pending_state(Uid(1)), Some(pending));
        assert_eq!(mailbox.snapshot().unwrap().get(0).unwrap().mod_seq, ModSeq(1));
        mailbox.publish(Lsn(10), &seen);
        // The later change is still pending and still decides.
        assert_eq!(mailbox.pending_state(Uid(1)), Some(pending));
        assert_eq!(mailbox.snapshot().unwrap().get(0).unwrap().mod_seq, ModSeq(2));
        mailbox.publish(Lsn(11), &flagged);
        assert!(mailbox.pending.overlay.is_empty());
        mailbox.stage(Lsn(12), &expunge(4, &[1]));
        assert_eq!(mailbox.pending_state(Uid(1)), None);
        assert_eq!(mailbox.pending_messages().count(), 0);
    }

    #[test]
    fn a_held_snapshot_never_changes() {
        let mut mailbox = mailbox(&[message(1, 1, Flags::default())]);
        let held = mailbox.snapshot().unwrap();
        mailbox.publish(Lsn(9), &message(2, 2, Flags::default()));
        let newer = mailbox.snapshot().unwrap();
        assert_eq!((held.len(), newer.len()), (1, 2));
        assert_eq!(held.difference(&newer).added, 1);
        assert_ne!(held.published.generation, newer.published.generation);
    }

    #[test]
    fn uids_and_keywords_have_an_end() {
        let mut mailbox = mailbox(&[message(u32::MAX - 2, 1, Flags::default())]);
        assert_eq!(mailbox.allocate_uid(), Some(Uid(u32::MAX - 1)));
        assert_eq!(mailbox.allocate_uid(), None);
        let names: Vec<String> = (0..=KEYWORDS_PER_MAILBOX_MAX).map(|n| format!("k{n}")).collect();
        assert_eq!(mailbox.missing_keywords(&names), None);
        let twice = ["$Junk".to_owned(), "$junk".to_owned()];
        assert_eq!(mailbox.missing_keywords(&twice), Some(vec!["$Junk".to_owned()]));
    }
}
