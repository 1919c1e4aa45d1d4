//! A session's view of its selected mailbox: the sequence number of each message, and the state of
//! each that the client was last told.
//!
//! Called by every command that names messages and by [`super::sync`]; only the latter advances the
//! view. Shard-local; owned by one session.
//!
//! Invariants:
//! * `numbering` defines the sequence numbers: message n of the client is `numbering[n - 1]`. It is
//!   replaced only together with the responses that tell the client all changes (RFC 3501 7.4.1).
//! * `told` is `numbering` or newer. It is newer only while an EXPUNGE may not be sent (RFC 3501
//!   7.4.1, 5.5): flags are taken from it, numbers never.

use std::{ops::Range, rc::Rc};

use futures_lite::future::or;

use super::{
    accounts::{Home, Reach, Seen, SeenBook, View},
    context::Contexts,
    reply::Failure,
};
use crate::{
    model::{AccountId, FlagMask, MailboxId, ModSeq, Uid},
    protocol::imap::{Ranges, SequenceSet},
    store::{MailboxInfo, Message, Snapshot, UrlKey},
};

/// Most ranges of `\Recent` UIDs that a session remembers; the oldest is forgotten first. Ranges
/// touch and merge unless two sessions claim in turn, so the limit is hardly ever reached.
const RECENT_RANGES_MAX: usize = 256;

/// Most runs of neighbouring messages in a saved result: 512 KiB a session.
const SAVED_RUNS_MAX: usize = 65_536;

/// Most ranges of messages that a session added itself and that are not told of yet.
const OWN_RANGES_MAX: usize = 256;

/// New messages that are fetched for a result (RFC 5465 7).
pub(super) struct Wanted {
    /// The list of a FETCH.
    pub fetch: Vec<u8>,
    /// Ascending.
    pub uids: Vec<Uid>,
}

pub(super) struct Selected {
    /// The account that has the mailbox, and whose it is.
    pub home: Home,
    pub reach: Reach,
    /// As it was when it was selected.
    pub info: MailboxInfo,
    pub view: View,
    /// EXAMINE: nothing may change, not even `\Seen` or `\Recent` (RFC 3501 6.3.2).
    pub read_only: bool,
    /// The flags that the client has been told it can change (PERMANENTFLAGS).
    pub changeable: FlagMask,
    /// Messages that arrive are claimed as `\Recent`.
    claims_recent: bool,
    numbering: Snapshot,
    told: Snapshot,
    /// Where the user's own `\Seen` is kept, should he have one here.
    pub seen_book: SeenBook,
    /// `\Seen` of `told`.
    seen: Seen,
    /// `told` lacks messages that `numbering` has.
    expunge_pending: bool,
    /// The user's key for URLs of the mailbox, as the client knows of it.
    url_key: Option<UrlKey>,
    recent: Vec<Range<Uid>>,
    /// `$` (RFC 5182 2.1): first and last UID of runs of messages that were neighbours. Messages
    /// only go, and new ones get higher UIDs: so a run never covers a message that was not found,
    /// and forgets those that are expunged by itself.
    saved: Rc<Ranges>,
    /// Results whose changes the client is told.
    pub contexts: Contexts,
    /// New messages of these, to be fetched.
    pub wanted: Vec<Wanted>,
    /// The first message that EXISTS has told of since this was taken.
    arrived: Option<Uid>,
    /// Messages among those that the session added itself.
    own: Vec<Range<Uid>>,
    /// What the client knows of flags, if it was not told later changes (RFC 5465 3.1).
    flags_told: Option<(Snapshot, Seen)>,
}

impl Selected {
    /// `None` if the mailbox was deleted between `select` and now. `claims_recent` as in the call
    /// of `select`.
    pub(super) fn new(
        (home, reach, info): (Home, Reach, MailboxInfo),
        (view, seen_book): (View, SeenBook),
        read_only: bool,
        claims_recent: bool,
    ) -> Option<Selected> {
        let snapshot = view.current()?;
        let first = view.recent_from();
        let view_is_personal = view.seen_is_personal();
        let changeable = if read_only { FlagMask::NONE } else { view.rights().flags() };
        let mut selected = Selected {
            changeable,
            claims_recent: claims_recent && view.can_claim(),
            home,
            reach,
            info,
            view,
            read_only,
            seen: seen_book.read(view_is_personal),
            seen_book,
            numbering: snapshot.clone(),
            told: snapshot,
            expunge_pending: false,
            url_key: None,
            recent: Vec::new(),
            saved: Rc::default(),
            contexts: Contexts::default(),
            wanted: Vec::new(),
            arrived: None,
            own: Vec::new(),
            flags_told: None,
        };
        // Without a claim, messages unclaimed now and later are recent for this session.
        let end = match selected.claims_recent {
            true => selected.numbering.status().uid_next,
            false => Uid(u32::MAX),
        };
        selected.mark_recent(first..end);
        Some(selected)
    }

    pub(super) fn mailbox(&self) -> MailboxId {
        self.view.mailbox()
    }

    /// Its account, and its number there.
    pub(super) fn place(&self) -> (AccountId, MailboxId) {
        (self.home.account(), self.mailbox())
    }

    /// Notes that the client knows of this key. Returns whether it took the place of another one.
    pub(super) fn note_url_key(&mut self, key: Option<UrlKey>) -> bool {
        let before = std::mem::replace(&mut self.url_key, key);
        before.is_some() && before != key
    }

    /// The snapshot to which the client's sequence numbers refer.
    pub(super) fn numbering(&self) -> &Snapshot {
        &self.numbering
    }

    /// The newest state that the client knows, apart from expunges that could not be sent yet.
    pub(super) fn told(&self) -> &Snapshot {
        &self.told
    }

    /// `\Seen` as the client knows it: that of the messages of [`Selected::told`].
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// What the user has seen by now, if that is not what the client knows.
    pub(super) fn seen_news(&self) -> Option<Seen> {
        self.seen_book.news(self.view.seen_is_personal(), &self.seen)
    }

    /// Whether the client is told mod-sequences. Not where `\Seen` is the user's own: the mailbox's
    /// mod-sequences do not tell when that changed, and a client that asks for what changed since
    /// one of them would miss it (RFC 7162 3.1.2.2).
    pub(super) fn has_mod_seqs(&self) -> bool {
        !self.seen.is_personal()
    }

    /// The mod-sequence up to which the client knows every change. Of later ones it may know some:
    /// while an EXPUNGE waits, flags do not (RFC 7162 3.2).
    pub(super) fn known_mod_seq(&self) -> ModSeq {
        self.numbering.status().told_mod_seq()
    }

    /// Resolves when the client does not know everything. Cancel-safe.
    pub(super) async fn changed(&self) {
        if !self.view.seen_is_personal() {
            return self.view.changed(&self.told).await;
        }
        let own = async {
            let watch = self.seen_book.watch();
            while self.seen_news().is_none() {
                watch.changed().await;
            }
        };
        or(self.view.changed(&self.told), own).await;
    }

    pub(super) fn expunge_pending(&self) -> bool {
        self.expunge_pending
    }

    /// The message with sequence number `index + 1`, with its flags as last told. A message that
    /// another session expunged is still here until the client is told.
    pub(super) fn message(&self, index: usize) -> Option<Message> {
        let numbered = self.numbering.get(index)?;
        if !self.expunge_pending {
            return Some(self.seen.message(numbered));
        }
        let newer = self.told.index_of(numbered.uid).and_then(|index| self.told.get(index));
        Some(self.seen.message(newer.unwrap_or(numbered)))
    }

    /// Gives [`Selected::message`] to `look`, where it is if the session need not see it otherwise:
    /// a scan of many messages copies none.
    pub(super) fn look_at<T>(&self, index: usize, look: impl FnOnce(&Message) -> T) -> Option<T> {
        match self.expunge_pending || self.seen.is_personal() {
            true => self.message(index).as_ref().map(look),
            false => self.numbering.get(index).map(look),
        }
    }

    /// The UIDs of the messages in `set`, which may cover UIDs that no message has.
    pub(super) fn uid_ranges(&self, uid: bool, set: &SequenceSet) -> Rc<Ranges> {
        if set.is_saved_result() {
            return self.saved.clone();
        }
        if uid {
            return Rc::new(set.resolve(self.last_uid()));
        }
        let uid = |number: u32| Some(self.numbering.get(number as usize - 1)?.uid.0);
        let ranges = set.resolve(self.numbering.len() as u32);
        Rc::new(Ranges::of_ascending(
            ranges.ranges().filter_map(|(first, last)| Some((uid(first)?, uid(last)?))),
        ))
    }

    /// `*` among UIDs: the highest that the client knows of, 0 if there is none.
    pub(super) fn last_uid(&self) -> u32 {
        let last = self.numbering.len().checked_sub(1).and_then(|last| self.numbering.get(last));
        last.map_or(0, |message| message.uid.0)
    }

    /// Keeps a result for `$`: indexes of messages, ascending. False if it has too many parts; then
    /// `$` is empty (RFC 5182 2.5).
    pub(super) fn save(&mut self, indexes: impl IntoIterator<Item = usize>) -> bool {
        self.saved = Rc::default();
        let Some(runs) = runs_of(indexes) else { return false };
        let uid = |index: usize| Some(self.numbering.get(index)?.uid.0);
        let runs = runs.into_iter().filter_map(|(first, last)| Some((uid(first)?, uid(last)?)));
        self.saved = Rc::new(Ranges::of_ascending(runs));
        true
    }

    /// Indexes of the messages in `set`, ascending. A number that no message has is an error (RFC
    /// 3501 9 `seq-number`); a UID that no message has is not (RFC 3501 6.4.8), and neither is an
    /// empty `$` (RFC 5182 2.1), which means the same messages in both forms.
    pub(super) fn indexes(
        &self,
        uid: bool,
        set: &SequenceSet,
    ) -> Result<Vec<Range<usize>>, Failure> {
        if uid || set.is_saved_result() {
            let ranges = self.uid_ranges(uid, set);
            return Ok(ranges
                .ranges()
                .map(|(first, last)| {
                    let after = last.checked_add(1);
                    let end = after
                        .map_or(self.numbering.len(), |it| self.numbering.lower_bound(Uid(it)));
                    self.numbering.lower_bound(Uid(first))..end
                })
                .collect());
        }
        if set.exceeds(self.numbering.len() as u32) {
            return Err(Failure::bad("No message has that number"));
        }
        let ranges = set.resolve(self.numbering.len() as u32);
        Ok(ranges.ranges().map(|(first, last)| first as usize - 1..last as usize).collect())
    }

    /// Advances the flags and keeps the numbers: `told` lacks messages of `numbering`.
    pub(super) fn advance_flags(&mut self, newer: Snapshot, seen: Seen) {
        (self.told, self.seen) = (newer, seen);
        self.expunge_pending = true;
    }

    /// The client was told everything up to `newer`, so that the messages that were at `gone` have
    /// no number any more.
    pub(super) fn advance(&mut self, newer: Snapshot, seen: Seen, gone: &[usize]) {
        self.contexts.renumber(gone, newer.len());
        self.numbering = newer.clone();
        (self.told, self.seen) = (newer, seen);
        self.expunge_pending = false;
    }

    /// Claims `\Recent` for messages that arrived since; call it with the snapshot about to be
    /// told.
    pub(super) fn claim_recent(&mut self, newer: &Snapshot) {
        if !self.claims_recent {
            return;
        }
        if let Some(first) = self.view.claim_recent() {
            self.mark_recent(first..newer.status().uid_next);
        }
    }

    /// EXISTS tells of messages from here on.
    pub(super) fn note_arrived(&mut self, first: Uid) {
        self.arrived = self.arrived.or(Some(first));
    }

    /// The session's client added a message itself.
    pub(super) fn note_own(&mut self, uid: Uid) {
        let next = Uid(uid.0.saturating_add(1));
        if let Some(last) = self.own.last_mut()
            && last.end == uid
        {
            last.end = next;
        } else if self.own.len() < OWN_RANGES_MAX {
            self.own.push(uid..next);
        }
    }

    /// Whether [`Selected::take_arrived`] may have any.
    pub(super) fn has_arrived(&self) -> bool {
        self.arrived.is_some()
    }

    /// Ranges of UIDs, first and last, of the messages that EXISTS has told of since this was
    /// called, but those that the session added itself.
    pub(super) fn take_arrived(&mut self) -> Vec<(Uid, Uid)> {
        let Some(mut first) = self.arrived.take() else { return Vec::new() };
        let end = self.numbering.status().uid_next;
        let mut ranges = Vec::new();
        for own in self.own.extract_if(.., |own| own.start < end) {
            if first < own.start {
                ranges.push((first, Uid(own.start.0 - 1)));
            }
            first = first.max(own.end);
        }
        if first < end {
            ranges.push((first, Uid(end.0 - 1)));
        }
        ranges
    }

    /// The client is not told how flags change from here on.
    pub(super) fn keep_flags(&mut self) {
        if self.flags_told.is_none() {
            self.flags_told = Some((self.told.clone(), self.seen.clone()));
        }
    }

    /// What the client knows of flags; it is about to be told all changes since.
    pub(super) fn take_flags(&mut self) -> (Snapshot, Seen) {
        self.flags_told.take().unwrap_or_else(|| (self.told.clone(), self.seen.clone()))
    }

    pub(super) fn flags_are_kept(&self) -> bool {
        self.flags_told.is_some()
    }

    /// The client is told nothing of `\Recent` (RFC 9051, appendix E).
    pub(super) fn forget_recent(&mut self) {
        self.claims_recent = false;
        self.recent.clear();
    }

    pub(super) fn is_recent(&self, uid: Uid) -> bool {
        // The newest range is last, and most lookups are for recent messages: the last range often
        // decides.
        self.recent.iter().rev().any(|range| range.contains(&uid))
    }

    /// The number in `* n RECENT` (RFC 3501 7.3.2) for `snapshot`.
    pub(super) fn recent_count(&self, snapshot: &Snapshot) -> usize {
        self.recent
            .iter()
            .map(|range| {
                snapshot.lower_bound(range.end).saturating_sub(snapshot.lower_bound(range.start))
            })
            .sum()
    }

    fn mark_recent(&mut self, range: Range<Uid>) {
        if range.is_empty() {
            return;
        }
        if let Some(last) = self.recent.last_mut()
            && last.end >= range.start
        {
            last.end = last.end.max(range.end);
            return;
        }
        if self.recent.len() == RECENT_RANGES_MAX {
            self.recent.remove(0);
        }
        self.recent.push(range);
    }
}

/// Runs (first, last) of consecutive numbers; `None` if they are more than [`SAVED_RUNS_MAX`].
fn runs_of(ascending: impl IntoIterator<Item = usize>) -> Option<Vec<(usize, usize)>> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for index in ascending {
        let count = runs.len();
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ if count == SAVED_RUNS_MAX => return None,
            _ => runs.push((index, index)),
        }
    }
    Some(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scattered_result_is_not_saved() {
        assert_eq!(runs_of([1, 2, 3, 7, 9, 10]), Some(vec![(1, 3), (7, 7), (9, 10)]));
        assert_eq!(runs_of(0..1_000_000), Some(vec![(0, 999_999)]));
        let scattered = |count: usize| runs_of((0..count).map(|number| 2 * number));
        assert_eq!(scattered(SAVED_RUNS_MAX).map(|runs| runs.len()), Some(SAVED_RUNS_MAX));
        assert_eq!(scattered(SAVED_RUNS_MAX + 1), None);
    }
}
