//! Telling the client what changed in its mailbox: EXPUNGE, EXISTS, RECENT, FLAGS, FETCH (RFC 3501
//! 5.2, 7.3, 7.4).
//!
//! Called by the session after each command and by IDLE at once; nothing else moves
//! [`Selected`] forward. STORE and implicit `\Seen` come here too, with what they did themselves
//! ([`OwnChange`]), since the client need not hear that again.

use super::{
    dispatch::Updates,
    reply::{Failure, Leave},
    session::Session,
};
use crate::{
    model::{FlagSet, Flags, KeywordSet, Uid},
    protocol::imap::{Code, FetchResponse, Status},
    runtime::connection::ConnectionError,
    store::{Difference, Message, Snapshot},
};

/// A change of flags that this session made and its client knows about.
pub(super) struct OwnChange<'a> {
    /// Messages changed, ascending.
    pub uids: &'a [Uid],
    pub edit: FlagEdit,
    /// Tell the new mod-sequences even so, under CONDSTORE (RFC 7162 3.1.3).
    pub mod_seqs: bool,
}

/// What STORE does to the flags of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum FlagEdit {
    Add(FlagSet),
    Remove(FlagSet),
    Replace(FlagSet),
}

impl FlagEdit {
    pub fn apply(self, before: FlagSet) -> FlagSet {
        match self {
            FlagEdit::Add(flags) => FlagSet {
                system: before.system | flags.system,
                keywords: before.keywords.union(flags.keywords),
            },
            FlagEdit::Remove(flags) => FlagSet {
                system: before.system & !flags.system,
                keywords: before.keywords.without(flags.keywords),
            },
            FlagEdit::Replace(flags) => flags,
        }
    }

    /// The flags named by a command, as bits of the mailbox's `table`. Call it after the store took
    /// the command: new keywords are in the table then.
    pub fn bits(system: Flags, keywords: &[String], table: &[String]) -> FlagSet {
        let mut bits = KeywordSet::default();
        for keyword in keywords {
            if let Some(index) = table.iter().position(|name| name.eq_ignore_ascii_case(keyword)) {
                bits.insert(index);
            }
        }
        FlagSet { system, keywords: bits }
    }
}

/// Changed messages looked at before other sessions get their turn.
const CHANGES_PER_TURN: usize = 256;

impl Session {
    /// Tells what others (and this session's own command) changed, as far as `updates` allows.
    pub async fn tell_changes(&mut self, updates: Updates) -> Result<(), Failure> {
        match updates {
            Updates::None => Ok(()),
            Updates::Flags { uid } => self.tell(false, uid, None).await,
            Updates::All { uid } => self.tell(true, uid, None).await,
        }
    }

    /// The same without EXPUNGE, and without the session's own change of flags: its client knows.
    pub async fn tell_changes_but(&mut self, uid: bool, own: OwnChange<'_>) -> Result<(), Failure> {
        self.tell(false, uid, Some(own)).await
    }

    async fn tell(
        &mut self,
        expunges: bool,
        uid: bool,
        own: Option<OwnChange<'_>>,
    ) -> Result<(), Failure> {
        let Some(selected) = &mut self.selected else { return Ok(()) };
        // RFC 2180 3.3: the mailbox was deleted under us; no answer about it would be true now.
        let Some(newer) = selected.view.current() else {
            return Err(Failure::Leave(Leave::Bye("The selected mailbox was deleted")));
        };
        let before = selected.told().clone();
        let difference = before.difference(&newer);
        let lost = selected.expunge_pending() || !difference.expunged.is_empty();
        if lost && !expunges {
            // Numbers stay; what is new waits with the expunges, since it would be numbered wrongly.
            selected.advance_flags(newer.clone());
        } else {
            self.tell_numbers(&newer, &difference).await?;
        }
        if difference.keywords {
            self.tell_keywords(newer.keywords());
        }
        let news = FlagNews { before: &before, newer: &newer, own, uid };
        Ok(self.tell_flags(&news, &difference.changed).await?)
    }

    /// Moves on to `newer`: EXPUNGE from the highest number down, so that no number shifts another,
    /// then EXISTS and RECENT.
    async fn tell_numbers(
        &mut self,
        newer: &Snapshot,
        difference: &Difference,
    ) -> Result<(), ConnectionError> {
        let Some(selected) = &mut self.selected else { return Ok(()) };
        let since_numbered;
        let (expunged, added) = if selected.expunge_pending() {
            since_numbered = selected.numbering().difference(newer);
            (&since_numbered.expunged, since_numbered.added)
        } else {
            (&difference.expunged, difference.added)
        };
        selected.claim_recent(newer);
        selected.advance(newer.clone());
        let recent = selected.recent_count(newer);
        for &index in expunged.iter().rev() {
            self.writer().expunge(index as u32 + 1);
            self.flush_if_full().await?;
        }
        if added > 0 {
            self.writer().exists(newer.len() as u32);
            self.writer().recent(recent as u32);
        }
        Ok(())
    }

    /// FETCH responses for those of `changed` (indexes in the newer snapshot) that are news.
    async fn tell_flags(
        &mut self,
        news: &FlagNews<'_>,
        changed: &[usize],
    ) -> Result<(), ConnectionError> {
        for (count, &index) in changed.iter().enumerate() {
            if count % CHANGES_PER_TURN == CHANGES_PER_TURN - 1 {
                self.shard.executor.yield_now().await;
            }
            let Some(message) = news.newer.get(index) else { continue };
            let Some(selected) = &self.selected else { break };
            // Messages that came while an expunge is pending have no number yet.
            let Some(number) = selected.numbering().index_of(message.uid) else { continue };
            let (flags, mod_seq) = news.about(message, self.condstore);
            if !(flags || mod_seq) {
                continue;
            }
            let recent = selected.is_recent(message.uid);
            let out = self.connection.output();
            let mut response = FetchResponse::begin(out, number as u32 + 1);
            if news.uid {
                response.uid(out, message.uid);
            }
            if flags {
                response.flags(out, message.flags, news.newer.keywords(), recent);
            }
            if mod_seq {
                response.mod_seq(out, message.mod_seq);
            }
            response.end(out);
            self.flush_if_full().await?;
        }
        Ok(())
    }

    /// The keyword table grew: the client learns the names before it sees them on a message.
    pub fn tell_keywords(&mut self, keywords: &[String]) {
        let read_only = self.selected.as_ref().is_some_and(|it| it.read_only);
        let mut writer = self.writer();
        writer.flags(keywords);
        writer.untagged(Status::Ok, Some(permanent_flags(keywords, read_only)), "Flags permitted");
    }
}

/// PERMANENTFLAGS (RFC 3501 7.1): none in a mailbox that is examined.
pub(super) fn permanent_flags(keywords: &[String], read_only: bool) -> Code<'_> {
    if read_only {
        return Code::PermanentFlags { system: Flags::default(), keywords: &[], more: false };
    }
    let more = keywords.len() < crate::model::KEYWORDS_PER_MAILBOX_MAX;
    Code::PermanentFlags { system: !Flags::default(), keywords, more }
}

/// Between what snapshots changes of flags are told.
struct FlagNews<'a> {
    before: &'a Snapshot,
    newer: &'a Snapshot,
    own: Option<OwnChange<'a>>,
    /// FETCH responses name the UID.
    uid: bool,
}

impl FlagNews<'_> {
    /// Whether the client has to hear of the message's flags, and of its mod-sequence.
    fn about(&self, message: &Message, condstore: bool) -> (bool, bool) {
        let index = self.before.index_of(message.uid);
        let Some(before) = index.and_then(|index| self.before.get(index)) else {
            return (true, condstore);
        };
        let own = self.own.as_ref().filter(|own| own.uids.binary_search(&message.uid).is_ok());
        let expected = own.map_or(before.flags, |own| own.edit.apply(before.flags));
        let flags = expected != message.flags;
        (flags, condstore && (flags || own.is_none_or(|own| own.mod_seqs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(system: Flags, keywords: &[usize]) -> FlagSet {
        let mut bits = KeywordSet::default();
        keywords.iter().for_each(|&keyword| bits.insert(keyword));
        FlagSet { system, keywords: bits }
    }

    #[test]
    fn edits() {
        let before = flags(Flags::SEEN | Flags::DRAFT, &[1, 70]);
        let edit = flags(Flags::SEEN | Flags::FLAGGED, &[70, 2]);
        let all = flags(Flags::SEEN | Flags::DRAFT | Flags::FLAGGED, &[1, 2, 70]);
        assert_eq!(FlagEdit::Add(edit).apply(before), all);
        assert_eq!(FlagEdit::Remove(edit).apply(before), flags(Flags::DRAFT, &[1]));
        assert_eq!(FlagEdit::Replace(edit).apply(before), edit);
    }

    #[test]
    fn keywords_are_found_without_case() {
        let table = ["$Junk".to_owned(), "Work".to_owned()];
        let named = ["WORK".to_owned(), "unknown".to_owned()];
        assert_eq!(FlagEdit::bits(Flags::SEEN, &named, &table), flags(Flags::SEEN, &[1]));
    }
}
