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
    /// `limited`: from the highest UID down (RFC 9738 3.1).
    pub(super) fn tell_search(&self, session: &mut Session, limited: bool) {
        let mod_seq = highest(self.hits).filter(|_| self.with_mod_seq);
        let numbers = self.hits.iter().map(|hit| hit.number(self.uid));
        match limited {
            false => session.writer().search(numbers, mod_seq),
            true => session.writer().search(numbers.rev(), mod_seq),
        }
    }

    /// RFC 7162 3.1.6: as for SEARCH.
    pub(super) fn tell_sort(&self, session: &mut Session) {
        let mod_seq = highest(self.hits).filter(|_| self.with_mod_seq);
        session.writer().sort(self.hits.iter().map(|hit| hit.number(self.uid)), mod_seq);
    }

    /// RFC 5182 2.4, RFC 9394 3.2: beside MIN, MAX and PARTIAL alone, only what these return is
    /// saved.
    pub(super) fn save(&self, session: &mut Session, returns: SearchReturn) -> Result<(), Failure> {
        let Some(selected) = session.selected.as_mut().filter(|_| returns.save) else {
            return Ok(());
        };
        let mut found: Vec<usize> = self.returned(returns).map(|hit| hit.index).collect();
        found.sort_unstable();
        found.dedup();
        let too_many = || Failure::no(Code::NotSaved, "The result is too scattered to be saved");
        selected.save(found).then_some(()).ok_or_else(too_many)
    }

    /// The page of PARTIAL.
    fn page(&self, returns: SearchReturn) -> &[Hit] {
        let range = returns.partial.map(|range| range.of(self.hits.len()));
        range.and_then(|range| self.hits.get(range)).unwrap_or_default()
    }

    /// What MIN, MAX and PARTIAL return, if the other options do not ask for all.
    fn returned(&self, returns: SearchReturn) -> impl Iterator<Item = &Hit> {
        let SearchReturn { min, max, all, count, partial, .. } = returns;
        let is_part = (min || max || partial.is_some()) && !all && !count;
        let first = self.hits.first().filter(|_| is_part && min);
        let last = self.hits.last().filter(|_| is_part && max);
        let others = if is_part { self.page(returns) } else { self.hits };
        first.into_iter().chain(last).chain(others)
    }

    /// RFC 4731 3.1, and RFC 7162 3.1.10 on the mod-sequence that goes with each result option.
    pub(super) fn tell(&self, session: &mut Session, returns: SearchReturn) {
        if returns.is_silent() {
            return;
        }
        let (first, last) = (self.hits.first(), self.hits.last());
        let mod_seq = highest(self.returned(returns));
        let number = |hit: &Hit| hit.number(self.uid);
        let all: Vec<u32> = match returns.all {
            true => self.hits.iter().map(number).collect(),
            false => Vec::new(),
        };
        let page: Vec<u32> = self.page(returns).iter().map(number).collect();
        let result = SearchResult {
            min: first.filter(|_| returns.min).map(number),
            max: last.filter(|_| returns.max).map(number),
            all: returns.all.then_some(&all),
            partial: returns.partial.map(|range| (range, &page[..])),
            count: returns.count.then_some(self.hits.len() as u32),
            mod_seq: mod_seq.filter(|_| self.with_mod_seq),
        };
        session.writer().esearch(self.tag, self.uid, &result);
    }
}

fn highest<'h>(hits: impl IntoIterator<Item = &'h Hit>) -> Option<ModSeq> {
    hits.into_iter().map(|hit| hit.mod_seq).max()
}
