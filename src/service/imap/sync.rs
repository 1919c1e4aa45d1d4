//! Telling the client what changed in its mailbox: EXPUNGE, EXISTS, RECENT, FLAGS, FETCH (RFC 3501
//! 5.2, 7.3, 7.4).
//!
//! Called by the session after each command and by IDLE at once; nothing else moves
//! [`Selected`] forward. STORE and implicit `\Seen` come here too, with what they did themselves
//! ([`OwnChange`]), since the client need not hear that again.

use super::{
    dispatch::Updates,
    reply::{Failure, Leave},
    selected::Selected,
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

/// A FETCH response about flags, owed to the client.
struct FlagNews {
    number: u32,
    message: Message,
    /// False if only the mod-sequence is news.
    flags: bool,
}

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
        let difference = selected.told().difference(&newer);
        let news = flag_news(selected, &newer, &difference, own, self.condstore);
        let keywords = difference.keywords;
        let lost = selected.expunge_pending() || !difference.expunged.is_empty();
        if keywords {
            self.tell_keywords(newer.keywords());
        }
        if lost && !expunges {
            // Numbers stay; what is new waits with the expunges, since it would be numbered wrongly.
            if let Some(selected) = &mut self.selected {
                selected.advance_flags(newer.clone());
            }
            return Ok(self.tell_flags(&news, newer.keywords(), uid).await?);
        }
        let news = self.tell_numbers(&newer, &difference, news).await?;
        Ok(self.tell_flags(&news, newer.keywords(), uid).await?)
    }

    /// Moves on to `newer`: EXPUNGE from the highest number down, so that no number shifts another,
    /// then EXISTS and RECENT. Answers `news` in the new numbers.
    async fn tell_numbers(
        &mut self,
        newer: &Snapshot,
        difference: &Difference,
        mut news: Vec<FlagNews>,
    ) -> Result<Vec<FlagNews>, ConnectionError> {
        let Some(selected) = &mut self.selected else { return Ok(news) };
        let pending;
        let (expunged, added) = if selected.expunge_pending() {
            pending = selected.numbering().difference(newer);
            (&pending.expunged, pending.added)
        } else {
            (&difference.expunged, difference.added)
        };
        selected.claim_recent(newer);
        selected.advance(newer.clone());
        let recent = selected.recent_count(newer);
        if !expunged.is_empty() {
            news.retain_mut(|item| match newer.index_of(item.message.uid) {
                Some(index) => {
                    item.number = index as u32 + 1;
                    true
                }
                None => false,
            });
        }
        for &index in expunged.iter().rev() {
            self.writer().expunge(index as u32 + 1);
            self.flush_if_full().await?;
        }
        if added > 0 {
            self.writer().exists(newer.len() as u32);
            self.writer().recent(recent as u32);
        }
        Ok(news)
    }

    async fn tell_flags(
        &mut self,
        news: &[FlagNews],
        keywords: &[String],
        uid: bool,
    ) -> Result<(), ConnectionError> {
        let condstore = self.condstore;
        for item in news {
            let recent = self.selected.as_ref().is_some_and(|it| it.is_recent(item.message.uid));
            let out = self.connection.output();
            let mut response = FetchResponse::begin(out, item.number);
            if uid {
                response.uid(out, item.message.uid);
            }
            if item.flags {
                response.flags(out, item.message.flags, keywords, recent);
            }
            if condstore {
                response.mod_seq(out, item.message.mod_seq);
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

/// What `difference` (from `told` to `newer`) means for a client that goes by `numbering`.
fn flag_news(
    selected: &Selected,
    newer: &Snapshot,
    difference: &Difference,
    own: Option<OwnChange<'_>>,
    condstore: bool,
) -> Vec<FlagNews> {
    let mut news = Vec::new();
    for &index in &difference.changed {
        let Some(message) = newer.get(index) else { continue };
        let told = selected.told();
        let before = told.index_of(message.uid).and_then(|index| told.get(index));
        // Messages that came while an expunge was pending have no number yet.
        let (Some(before), Some(number)) = (before, selected.numbering().index_of(message.uid))
        else {
            continue;
        };
        let own = own.as_ref().filter(|own| own.uids.binary_search(&message.uid).is_ok());
        let expected = own.map_or(before.flags, |own| own.edit.apply(before.flags));
        let flags = expected != message.flags;
        if flags || condstore && own.is_none_or(|own| own.mod_seqs) {
            news.push(FlagNews { number: number as u32 + 1, message: *message, flags });
        }
    }
    news
}
