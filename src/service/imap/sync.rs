//! Tells the client what changed in its mailbox: EXPUNGE or VANISHED, EXISTS, RECENT, FLAGS, FETCH
//! (RFC 3501 5.2, 7.3, 7.4; RFC 7162 3.2.10), and what that changes of its search results.
//!
//! Called by the conversation after each command, and by IDLE at once; nothing else advances
//! [`super::selected::Selected`]. STORE and implicit `\Seen` call it too, with their own change
//! ([`OwnChange`]), since the client need not be told that again.

use super::{
    accounts::Seen,
    folder,
    reply::{Done, Failure, Leave, Reply},
    selected::Selected,
    state::Session,
    updates::News,
};
use crate::{
    model::{FlagEdit, FlagMask, KEYWORDS_PER_MAILBOX_MAX, Uid},
    protocol::imap::{
        Code, FetchResponse, Status, Updates, Vanished, Writer, session::notify::Events,
    },
    runtime::connection::ConnectionError,
    store::{Difference, Message, Snapshot},
};

/// A change of flags that this session made and its client knows about.
pub(super) struct OwnChange<'a> {
    /// Messages changed, ascending.
    pub uids: &'a [Uid],
    pub edit: FlagEdit,
    /// Send the new mod-sequences all the same, under CONDSTORE (RFC 7162 3.1.3).
    pub mod_seqs: bool,
}

/// What the client is told, and how.
struct Told<'a> {
    expunges: bool,
    /// FETCH responses name the UID.
    uid: bool,
    own: Option<OwnChange<'a>>,
    /// Those that it wants to be told of.
    events: Events,
}

/// Changed messages checked before other sessions get their turn.
const CHANGES_PER_TURN: usize = 256;

impl Session {
    /// Sends what other sessions (and this session's own command) changed, as far as `updates`
    /// allows.
    pub(super) async fn tell_changes(&mut self, updates: Updates) -> Result<(), Failure> {
        if updates != Updates::None && self.note_url_key() {
            // RFC 4467 7: the user has reset it in another session.
            self.writer().untagged(Status::Ok, Some(Code::UrlMech), "The mailbox has another key");
        }
        match updates {
            Updates::None => {}
            Updates::Flags { uid } => {
                self.tell(false, uid, None, self.told_events()).await?;
                self.tell_safe_mod_seq();
            }
            Updates::All { uid } => {
                self.tell(true, uid, None, self.told_events()).await?;
            }
        }
        Ok(())
    }

    /// Sends changes to a client that did not ask, and may use sequence numbers.
    pub(super) async fn tell_but_expunges(&mut self) -> Result<(), Failure> {
        if self.tell(false, true, None, self.told_events()).await? {
            self.tell_safe_mod_seq();
        }
        Ok(())
    }

    /// The same, and also what the client does not want to be told unasked (RFC 5465): of its own
    /// EXPUNGE and MOVE, and before another NOTIFY.
    pub(super) async fn tell_everything(&mut self, uid: bool) -> Result<(), Failure> {
        self.tell(true, uid, None, Events::OF_MESSAGES).await.map(drop)
    }

    /// RFC 7162 3.2: while an expunge waits, the client may have got higher mod-sequences than the
    /// expunge's. If it resynchronized from those after a lost connection, it would miss the
    /// expunge.
    fn tell_safe_mod_seq(&mut self) {
        let waits = self.qresync() && self.selected.as_ref().is_some_and(Selected::expunge_pending);
        if waits && let Some(code) = self.highest_mod_seq() {
            self.writer().untagged(Status::Ok, Some(code), "Not told of all expunges");
        }
    }

    /// Ends a command that expunged messages: it tells of them, and up to which mod-sequence the
    /// client knows the mailbox then (RFC 7162 3.2.7, 3.2.9).
    pub(super) async fn expunged(&mut self, uid: bool, text: &'static str) -> Reply {
        if self.condstore() || self.has_notify() {
            self.tell_everything(uid).await?;
        }
        Ok(Done::Ok { code: self.highest_mod_seq(), text })
    }

    /// The same without EXPUNGE, and without the session's own change of flags, which its client
    /// knows.
    pub(super) async fn tell_changes_but(
        &mut self,
        uid: bool,
        own: OwnChange<'_>,
    ) -> Result<(), Failure> {
        self.tell(false, uid, Some(own), self.told_events()).await.map(drop)
    }

    /// Looks for changes. Sending them is boxed: most commands find none, and an idle session stays
    /// small while it waits. `events`: those that the client wants to be told of. Returns whether
    /// there were any.
    async fn tell(
        &mut self,
        expunges: bool,
        uid: bool,
        own: Option<OwnChange<'_>>,
        events: Events,
    ) -> Result<bool, Failure> {
        let Some(selected) = &self.selected else { return Ok(false) };
        // RFC 2180 3.3: another session deleted the mailbox; no response about it would be true
        // now.
        let Some(newer) = selected.view.current() else {
            return Err(Failure::Leave(Leave::Bye(selected.view.end())));
        };
        let rights = selected.view.rights();
        folder::readable_with(rights)?;
        let changeable = if selected.read_only { FlagMask::NONE } else { rights.flags() };
        if changeable != selected.changeable {
            self.tell_changeable(changeable);
        }
        let selected = self.selected()?;
        let seen = selected.seen_news();
        let is_known = newer.is_same(selected.told()) && seen.is_none();
        let owes_flags = events.contain(Events::FLAG_CHANGE) && selected.flags_are_kept();
        let is_quiet = is_known && !owes_flags && !self.results_are_due();
        if is_quiet && !(expunges && selected.expunge_pending())
            || events.is_empty() && own.is_none()
        {
            return Ok(false);
        }
        let seen = seen.unwrap_or_else(|| selected.seen().clone());
        // RFC 5465 5.1 wants the UID.
        let uid = uid || self.has_notify();
        let told = Told { expunges: expunges && !events.is_empty(), uid, own, events };
        Box::pin(self.tell_news((newer, seen), told)).await?;
        Ok(true)
    }

    async fn tell_news(
        &mut self,
        (newer, newer_seen): (Snapshot, Seen),
        told: Told<'_>,
    ) -> Result<(), Failure> {
        let Told { expunges, uid, own, events } = told;
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let last_uid_before = selected.last_uid();
        let difference = selected.told().difference(&newer);
        // Of messages that came while flags were not told, the client may know some by now.
        let told_since = selected
            .flags_are_kept()
            .then(|| newer.lower_bound(selected.numbering().status().uid_next));
        let is_kept = told_since.is_some();
        let only_own = !events.contain(Events::FLAG_CHANGE);
        let is_others = |index: &usize| {
            let uid = newer.get(*index).map(|message| message.uid);
            let is_in =
                |own: &OwnChange<'_>| uid.is_some_and(|uid| own.uids.binary_search(&uid).is_ok());
            !own.as_ref().is_some_and(is_in)
        };
        let flags = match only_own {
            false => Some(selected.take_flags()),
            true => {
                let seen = selected.seen().changed(&newer_seen, &newer);
                if difference.changed.iter().chain(&seen).any(is_others) {
                    selected.keep_flags();
                }
                own.is_some().then(|| (selected.told().clone(), selected.seen().clone()))
            }
        };
        let since_numbered;
        let numbers = match selected.expunge_pending() {
            true => {
                since_numbered = selected.numbering().difference(&newer);
                &since_numbered
            }
            false => &difference,
        };
        let mut added = 0;
        if !events.is_empty() {
            self.tell_gone(&numbers.expunged).await?;
        }
        if (numbers.expunged.is_empty() || expunges) && !events.is_empty() {
            added = numbers.added;
            self.tell_numbers((&newer, &newer_seen), numbers).await?;
        } else if let Some(selected) = &mut self.selected {
            // Numbers stay; new messages wait until the expunges are sent, since their numbers
            // would be wrong.
            selected.advance_flags(newer.clone(), newer_seen.clone());
        }
        let Some((before, before_seen)) = flags else {
            let changed = &[];
            let results = News { newer: &newer, changed, added, last_uid_before, keywords: false };
            return self.tell_results(&results).await;
        };
        let mut difference = if is_kept { before.difference(&newer) } else { difference };
        // Those that the client has not been told of have their flags fetched.
        let known = newer.len().saturating_sub(difference.added);
        let seen = before_seen.changed(&newer_seen, &newer).into_iter();
        difference.changed.extend(seen.filter(|index| *index < known));
        if let Some(told) = told_since {
            difference.changed.extend(known..told);
        }
        if only_own {
            difference.changed.retain(|index| !is_others(index));
        }
        difference.changed.sort_unstable();
        difference.changed.dedup();
        if difference.keywords {
            self.tell_keywords(newer.keywords());
        }
        if before_seen.is_personal() != newer_seen.is_personal()
            && let Some(selected) = &self.selected
        {
            tell_highest(&mut Writer::new(self.channel.connection.output()), selected);
        }
        let (changed, keywords) = (&difference.changed[..], difference.keywords);
        let results = News { newer: &newer, changed, added, last_uid_before, keywords };
        let (before, newer) = ((&before, &before_seen), (&newer, &newer_seen));
        let news = FlagNews { before, newer, own, only_own, uid };
        self.tell_flags(&news, changed).await?;
        self.tell_results(&results).await
    }

    /// Advances to `newer`: EXPUNGE from the highest number down, so that none shifts a later one,
    /// or VANISHED; then EXISTS and RECENT.
    async fn tell_numbers(
        &mut self,
        (newer, seen): (&Snapshot, &Seen),
        Difference { expunged, added, .. }: &Difference,
    ) -> Result<(), ConnectionError> {
        let by_uid = self.tells_vanished();
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let older = selected.numbering().clone();
        if *added > 0 {
            selected.note_arrived(older.status().uid_next);
        }
        selected.claim_recent(newer);
        selected.advance(newer.clone(), seen.clone(), expunged);
        let recent = selected.recent_count(newer);
        if by_uid {
            let mut vanished = Vanished::begin(false);
            for &index in expunged {
                if let Some(Message { uid: Uid(uid), .. }) = older.get(index) {
                    vanished.push(self.channel.connection.output(), *uid, *uid);
                    self.channel.flush_if_full().await?;
                }
            }
            vanished.end(self.channel.connection.output());
        } else {
            for &index in expunged.iter().rev() {
                self.writer().expunge(index as u32 + 1);
                self.channel.flush_if_full().await?;
            }
        }
        if *added > 0 {
            self.writer().exists(newer.len() as u32);
            if !self.rev2() {
                self.writer().recent(recent as u32);
            }
        }
        Ok(())
    }

    /// FETCH responses for those of `changed` (indexes in the newer snapshot) that the client must
    /// be told.
    async fn tell_flags(
        &mut self,
        news: &FlagNews<'_>,
        changed: &[usize],
    ) -> Result<(), ConnectionError> {
        let naming = self.naming(news.uid);
        for (count, &index) in changed.iter().enumerate() {
            if count % CHANGES_PER_TURN == CHANGES_PER_TURN - 1 {
                self.channel.shard.executor.yield_now().await;
            }
            let (newer, seen) = news.newer;
            let Some(message) = newer.get(index) else { continue };
            let Some(selected) = &self.selected else { break };
            // Messages that came while an expunge is pending have no number yet.
            let Some(number) = selected.numbering().index_of(message.uid) else { continue };
            let (flags, mod_seq) = news.about(message, self.condstore());
            if !(flags || mod_seq) {
                continue;
            }
            let recent = selected.is_recent(message.uid);
            let out = self.channel.connection.output();
            let number = number as u32 + 1;
            let mut response = FetchResponse::about(out, naming, number, message.uid);
            if flags {
                response.flags(out, seen.flags(message), newer.keywords(), recent);
            }
            if mod_seq {
                response.mod_seq(out, message.mod_seq);
            }
            response.end(out);
            self.channel.flush_if_full().await?;
        }
        Ok(())
    }

    /// The user's rights became others (RFC 4314): the client is told which flags it can change
    /// now.
    fn tell_changeable(&mut self, changeable: FlagMask) {
        let Some(selected) = &mut self.selected else { return };
        selected.changeable = changeable;
        let told = selected.told().clone();
        tell_permanent_flags(&mut self.writer(), told.keywords(), changeable);
    }

    /// The keyword table grew: the client is told the names before it sees them on a message.
    pub(super) fn tell_keywords(&mut self, keywords: &[String]) {
        let changeable = folder::changeable_flags(self);
        let mut writer = self.writer();
        writer.flags(keywords);
        tell_permanent_flags(&mut writer, keywords, changeable);
    }
}

/// PERMANENTFLAGS (RFC 3501 7.1): those that the session can change (RFC 4314 4).
pub(super) fn tell_permanent_flags(
    writer: &mut Writer<'_>,
    keywords: &[String],
    changeable: FlagMask,
) {
    let keywords = if changeable.keywords { keywords } else { &[] };
    let more = changeable.keywords && keywords.len() < KEYWORDS_PER_MAILBOX_MAX;
    writer.permanent_flags(changeable.system, keywords, more);
}

/// HIGHESTMODSEQ or NOMODSEQ (RFC 7162 3.1.2).
pub(super) fn tell_highest(writer: &mut Writer<'_>, selected: &Selected) {
    if selected.has_mod_seqs() {
        let highest = Code::HighestModSeq(selected.known_mod_seq());
        return writer.untagged(Status::Ok, Some(highest), "Highest");
    }
    writer.untagged(Status::Ok, Some(Code::NoModSeq), "Seen flags are each user's own");
}

/// The two states between which changes of flags are sent.
struct FlagNews<'a> {
    before: (&'a Snapshot, &'a Seen),
    newer: (&'a Snapshot, &'a Seen),
    own: Option<OwnChange<'a>>,
    /// Others' changes are not told.
    only_own: bool,
    /// FETCH responses name the UID.
    uid: bool,
}

impl FlagNews<'_> {
    /// Whether the client must be told the message's flags, and its mod-sequence.
    fn about(&self, message: &Message, condstore: bool) -> (bool, bool) {
        let (before, before_seen) = self.before;
        let index = before.index_of(message.uid);
        let Some(before) = index.and_then(|index| before.get(index)) else {
            return (true, condstore);
        };
        let own = self.own.as_ref().filter(|own| own.uids.binary_search(&message.uid).is_ok());
        if self.only_own && own.is_none() {
            return (false, false);
        }
        let before = before_seen.flags(before);
        let expected = own.map_or(before, |own| own.edit.apply(before));
        let flags = expected != self.newer.1.flags(message);
        (flags, condstore && (flags || own.is_none_or(|own| own.mod_seqs)))
    }
}
