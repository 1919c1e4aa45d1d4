//! What SEARCH and SORT found, told and kept (RFC 4731, RFC 5182, RFC 5267 3).

use super::super::{
    reply::{Failure, Reply},
    searching::Hit,
    state::Session,
};
use crate::{
    model::ModSeq,
    protocol::imap::{Code, SearchResult, message::returns::SearchReturn},
};

/// RFC 5182 2.1: a NO to a search that should save its result leaves an empty one.
pub(super) fn unsave_if_refused(session: &mut Session, returns: SearchReturn, reply: &Reply) {
    if returns.save
        && matches!(reply, Err(Failure::No { .. }))
        && let Some(selected) = &mut session.selected
    {
        selected.save([]);
    }
}

/// The result of one command.
pub(super) struct Results<'a> {
    pub tag: &'a str,
    /// It names UIDs.
    pub uid: bool,
    /// RFC 7162 3.1.5: a key asked for mod-sequences.
    pub with_mod_seq: bool,
    /// In the order that the command asks for.
    pub hits: &'a [Hit],
}

impl Results<'_> {
    pub(super) fn tell_search(&self, session: &mut Session) {
        let mod_seq = highest(self.hits).filter(|_| self.with_mod_seq);
        let numbers = self.hits.iter().map(|hit| hit.number(self.uid));
        session.writer().search(numbers, mod_seq);
    }

    /// RFC 7162 3.1.6: as for SEARCH.
    pub(super) fn tell_sort(&self, session: &mut Session) {
        let mod_seq = highest(self.hits).filter(|_| self.with_mod_seq);
        session.writer().sort(self.hits.iter().map(|hit| hit.number(self.uid)), mod_seq);
    }

    /// RFC 5182 2.4: beside MIN and MAX alone, only these messages are saved.
    pub(super) fn save(&self, session: &mut Session, returns: SearchReturn) -> Result<(), Failure> {
        let Some(selected) = session.selected.as_mut().filter(|_| returns.save) else {
            return Ok(());
        };
        let is_part = (returns.min || returns.max) && !returns.all && !returns.count;
        let mut found: Vec<usize> = match is_part {
            true => {
                let first = self.hits.first().filter(|_| returns.min);
                let last = self.hits.last().filter(|_| returns.max);
                first.into_iter().chain(last).map(|hit| hit.index).collect()
            }
            false => self.hits.iter().map(|hit| hit.index).collect(),
        };
        found.sort_unstable();
        found.dedup();
        let too_many = || Failure::no(Code::NotSaved, "The result is too scattered to be saved");
        selected.save(found).then_some(()).ok_or_else(too_many)
    }

    /// RFC 4731 3.1, and RFC 7162 3.1.10 on the mod-sequence that goes with each result option.
    pub(super) fn tell(&self, session: &mut Session, returns: SearchReturn) {
        if returns.is_silent() {
            return;
        }
        let (first, last) = (self.hits.first(), self.hits.last());
        let mod_seq = match returns {
            SearchReturn { all: false, count: false, min, max, .. } if min || max => {
                highest(first.filter(|_| min).into_iter().chain(last.filter(|_| max)))
            }
            _ => highest(self.hits),
        };
        let number = |hit: &Hit| hit.number(self.uid);
        let all: Vec<u32> = self.hits.iter().map(number).collect();
        let result = SearchResult {
            min: first.filter(|_| returns.min).map(number),
            max: last.filter(|_| returns.max).map(number),
            all: returns.all.then_some(&all),
            count: returns.count.then_some(self.hits.len() as u32),
            mod_seq: mod_seq.filter(|_| self.with_mod_seq),
        };
        session.writer().esearch(self.tag, self.uid, &result);
    }
}

fn highest<'h>(hits: impl IntoIterator<Item = &'h Hit>) -> Option<ModSeq> {
    hits.into_iter().map(|hit| hit.mod_seq).max()
}
