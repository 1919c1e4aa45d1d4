//! Tells the client how the results of its searches change: ADDTO and REMOVEFROM (RFC 5267 4.3).
//!
//! Called by [`super::sync`] with what it tells of the mailbox: so the client hears of a result
//! when it hears of the cause, and nothing is looked at but what changed.

use std::{ops::Range, time::Duration};

use futures_lite::future;

use super::{
    context::{Context, Members, Sorted},
    folder,
    query::{Order, Query},
    reply::Failure,
    searching::{Hit, places, scan_among},
    selected::Wanted,
    state::Session,
};
use crate::{
    model::{Rights, Uid},
    protocol::imap::{Code, ResultChange, Status},
    runtime::{connection::ConnectionError, executor::Executor},
    store::Snapshot,
};

/// Most messages that one response names.
const NUMBERS_PER_RESPONSE: usize = 4_096;

/// UIDs of a sorted result walked before other sessions get their turn.
const UIDS_PER_TURN: usize = 65_536;

/// How often results are looked at that change with time (RFC 5032 2).
const AGES_EVERY: Duration = Duration::from_secs(60);

/// What sync has just told.
pub(super) struct News<'a> {
    pub newer: &'a Snapshot,
    /// Indexes in `newer` of messages of which something changed.
    pub changed: &'a [usize],
    /// Messages that have a number now, the last ones.
    pub added: usize,
    /// As the client knew the mailbox before.
    pub last_uid_before: u32,
    /// There are new keywords.
    pub keywords: bool,
}

/// Messages of a result that follow each other in it.
struct Place {
    /// Where the first one is, from 1; 0 in the order of the mailbox.
    position: u32,
    numbers: Vec<u32>,
}

impl Session {
    /// Whether the result of a new command with this tag would be taken for that of another one
    /// (RFC 5267 4.3).
    pub(super) fn check_tag(&self, tag: &str) -> Result<(), Failure> {
        match self.selected()?.contexts.has(tag) {
            true => Err(Failure::bad("The tag is that of a search whose changes are told")),
            false => Ok(()),
        }
    }

    /// Tells changes of what a command found from now on, or that this is too much. `order` is that
    /// of SORT, `fetch` what is wanted of new messages.
    pub(super) fn follow(
        &mut self,
        (tag, uid, fetch): (&str, bool, Option<&[u8]>),
        query: Query,
        order: Option<Order>,
        hits: &[Hit],
    ) {
        let Some(selected) = &mut self.selected else { return };
        let found = hits.iter().map(|hit| hit.index);
        let members = Members::of(selected.numbering().len(), found);
        let sorted = order.map(|order| {
            let uids = hits.iter().map(|hit| hit.uid).collect();
            Sorted { order, uids }
        });
        let mut context = Context::new(tag, uid, query, members, sorted);
        context.fetch = fetch.map(<[u8]>::to_vec);
        if let Err(why) = selected.contexts.add(context) {
            self.refuse_updates(tag.to_owned(), why);
        }
    }

    /// No further changes are told of those results.
    pub(super) fn end_contexts(&mut self, ended: impl Fn(&Context) -> bool, why: &str) {
        let mut at = 0;
        while let Some(context) = self.selected.as_ref().and_then(|it| it.contexts.get(at)) {
            match ended(context) {
                true => self.end_context(at, why),
                false => at += 1,
            }
        }
    }

    fn end_context(&mut self, at: usize, why: &str) {
        let ended = self.selected.as_mut().and_then(|it| it.contexts.remove(at));
        if let Some(context) = ended {
            self.refuse_updates(context.tag, why);
        }
    }

    pub(super) fn refuse_updates(&mut self, tag: String, why: &str) {
        self.writer().untagged(Status::No, Some(Code::NoUpdate(tag)), why);
    }

    /// Whether a result has to be looked at because time has passed.
    pub(super) fn results_are_due(&self) -> bool {
        let now = self.channel.shard.executor.now().unix_seconds();
        self.contexts().any(|context| is_due(context, now))
    }

    /// Resolves when results may have changed because time has passed.
    pub(super) fn results_aged(&self) -> impl Future<Output = ()> + use<> {
        let executor = self.channel.shard.executor.clone();
        let changes_with_time = self.contexts().any(|context| !context.query.ages.is_empty());
        async move {
            match changes_with_time {
                true => executor.sleep(AGES_EVERY).await,
                false => future::pending().await,
            }
        }
    }

    fn contexts(&self) -> impl Iterator<Item = &Context> {
        self.selected.iter().flat_map(|selected| selected.contexts.iter())
    }

    /// REMOVEFROM for messages that are gone, before the client is told so (RFC 5267 4.3.4): their
    /// indexes in its numbering.
    pub(super) async fn tell_gone(&mut self, gone: &[usize]) -> Result<(), ConnectionError> {
        let count = self.contexts().count();
        for at in 0..count {
            let Some(context) = self.contexts().nth(at) else { break };
            let left: Vec<usize> =
                gone.iter().copied().filter(|it| context.contains(*it)).collect();
            self.leave(at, &left).await?;
        }
        Ok(())
    }

    /// Looks again at what was changed and added.
    pub(super) async fn tell_results(&mut self, news: &News<'_>) -> Result<(), Failure> {
        let now = self.channel.shard.executor.now().unix_seconds();
        let Some(selected) = self.selected.as_ref().filter(|it| !it.contexts.is_empty()) else {
            return Ok(());
        };
        let numbering = selected.numbering().clone();
        let number = |&index| numbering.index_of(news.newer.get(index)?.uid);
        let changed: Vec<usize> = news.changed.iter().filter_map(number).collect();
        let added = numbering.len().saturating_sub(news.added)..numbering.len();
        let mut at = 0;
        while let Some(selected) = &mut self.selected
            && let Some(context) = selected.contexts.get_mut(at)
        {
            let query = &mut context.query;
            if news.keywords {
                query.find_keywords(news.newer.keywords());
            }
            let mut candidates = if query.varies { changed.clone() } else { Vec::new() };
            candidates.extend(added.clone());
            let last = numbering.len().checked_sub(1).and_then(|last| numbering.get(last));
            let last_uid = last.map_or(0, |message| message.uid.0);
            if !query.open.is_empty() && last_uid != news.last_uid_before {
                query.set_last_uid(last_uid);
                candidates.extend(numbering.index_of(Uid(news.last_uid_before)));
                candidates.extend(numbering.len().checked_sub(1));
            }
            if is_due(context, now) {
                let windows = windows(&context.query.ages, context.query.now, now);
                context.query.now = now;
                self.aged(&numbering, &windows, &mut candidates).await;
            }
            candidates.sort_unstable();
            candidates.dedup();
            match self.look_again(at, candidates).await {
                Ok(()) => {
                    self.want(at, &numbering, added.clone());
                    at += 1;
                }
                Err(Failure::No { text, .. } | Failure::Bad { text, .. }) => {
                    self.end_context(at, &text);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Notes which of the new messages are in the result, if they are to be fetched then (RFC 5465
    /// 7).
    fn want(&mut self, at: usize, numbering: &Snapshot, added: Range<usize>) {
        let Some(selected) = &mut self.selected else { return };
        let Some(context) = selected.contexts.get(at) else { return };
        let Some(fetch) = context.fetch.clone() else { return };
        let found = added.filter(|index| context.contains(*index));
        let uids: Vec<Uid> = found.filter_map(|at| Some(numbering.get(at)?.uid)).collect();
        if !uids.is_empty() {
            selected.wanted.push(Wanted { fetch, uids });
        }
    }

    /// The messages whose internal date is in one of `windows`.
    async fn aged(&self, numbering: &Snapshot, windows: &[(i64, i64)], aged: &mut Vec<usize>) {
        for (index, message) in numbering.iter_from(0).enumerate() {
            let date = message.internal_date.unix_seconds();
            let after = windows.partition_point(|(first, _)| *first <= date);
            let window = after.checked_sub(1).and_then(|at| windows.get(at));
            if window.is_some_and(|(_, last)| date <= *last) {
                aged.push(index);
            }
            self.turn_of_scan(index).await;
        }
    }

    /// Which of `candidates` are in the result by now.
    async fn look_again(&mut self, at: usize, mut candidates: Vec<usize>) -> Result<(), Failure> {
        let selected = self.selected()?;
        if selected.expunge_pending() {
            // REMOVEFROM was told of those that are gone.
            let is_there = |index: &usize| {
                let numbered = selected.numbering().get(*index);
                numbered.is_some_and(|message| selected.told().index_of(message.uid).is_some())
            };
            candidates.retain(is_there);
        }
        if candidates.is_empty() {
            return Ok(());
        }
        let folder = folder::selected(self, Rights::NONE).await?;
        let (selected, reading) = (self.selected()?, folder.reading());
        let executor = self.channel.shard.executor.clone();
        let Some(context) = selected.contexts.get(at) else { return Ok(()) };
        let among = candidates.iter().copied();
        let hits = scan_among(among, &context.query, selected, &reading, &*executor).await?;
        let is_hit = |index| hits.binary_search_by_key(&index, |hit| hit.index).is_ok();
        let was_in = |index| context.contains(index);
        let left: Vec<usize> =
            candidates.iter().copied().filter(|&it| was_in(it) && !is_hit(it)).collect();
        let joined: Vec<Hit> = hits.iter().copied().filter(|hit| !was_in(hit.index)).collect();
        self.leave(at, &left).await?;
        self.join(at, joined).await
    }

    /// The messages at `left`, which ascend, are not in the result any more.
    async fn leave(&mut self, at: usize, left: &[usize]) -> Result<(), ConnectionError> {
        let executor = self.channel.shard.executor.clone();
        let Some(selected) = self.selected.as_mut().filter(|_| !left.is_empty()) else {
            return Ok(());
        };
        let numbering = selected.numbering().clone();
        let Some(context) = selected.contexts.get_mut(at) else { return Ok(()) };
        context.set(left, false);
        let uid = context.uid;
        let places = match &mut context.sorted {
            None => {
                let numbers = left.iter().filter_map(|&index| number(&numbering, index, uid));
                vec![Place { position: 0, numbers: numbers.collect() }]
            }
            Some(Sorted { uids, .. }) => {
                let left = left.iter().filter_map(|&index| Some(numbering.get(index)?.uid));
                let removed = remove_uids(uids, &left.collect::<Vec<_>>(), &*executor).await;
                let name = |uids: Vec<Uid>| named(&numbering, uids, uid);
                let place = |(position, uids)| Place { position, numbers: name(uids) };
                removed.into_iter().map(place).collect()
            }
        };
        self.tell_places(at, ResultChange::Removed, &places).await
    }

    /// Those messages are in it now.
    async fn join(&mut self, at: usize, mut joined: Vec<Hit>) -> Result<(), Failure> {
        if joined.is_empty() {
            return Ok(());
        }
        let found = self.find_places(at, &mut joined).await?;
        let Some(selected) = &mut self.selected else { return Ok(()) };
        if selected.contexts.is_full(at, joined.len()) {
            return Err(Failure::no(Code::Limit, "The contexts take too much memory"));
        }
        let Some(context) = selected.contexts.get_mut(at) else { return Ok(()) };
        let indexes: Vec<usize> = joined.iter().map(|hit| hit.index).collect();
        context.set(&indexes, true);
        let number = |hit: &Hit| hit.number(context.uid);
        let places = match &mut context.sorted {
            None => vec![Place { position: 0, numbers: joined.iter().map(number).collect() }],
            Some(Sorted { uids, .. }) => {
                insert_uids(uids, &joined, &found);
                let mut places: Vec<Place> = Vec::new();
                let mut before = None;
                for (count, (hit, place)) in joined.iter().zip(found).enumerate() {
                    match places.last_mut() {
                        Some(last) if before == Some(place) => last.numbers.push(number(hit)),
                        _ => {
                            let position = (place + count) as u32 + 1;
                            places.push(Place { position, numbers: vec![number(hit)] });
                        }
                    }
                    before = Some(place);
                }
                places
            }
        };
        Ok(self.tell_places(at, ResultChange::Added, &places).await?)
    }

    /// Brings `joined` into the order of a sorted result, and returns how many messages of it are
    /// before each.
    async fn find_places(&self, at: usize, joined: &mut Vec<Hit>) -> Result<Vec<usize>, Failure> {
        let folder = folder::selected(self, Rights::NONE).await?;
        let (selected, reading) = (self.selected()?, folder.reading());
        let executor = self.channel.shard.executor.clone();
        let sorted = selected.contexts.get(at).and_then(|context| context.sorted.as_ref());
        let Some(Sorted { order, uids }) = sorted else { return Ok(Vec::new()) };
        places(joined, uids, order, selected, &reading, &*executor).await
    }

    /// In as many responses as it takes.
    async fn tell_places(
        &mut self,
        at: usize,
        change: ResultChange,
        places: &[Place],
    ) -> Result<(), ConnectionError> {
        let Some(context) = self.contexts().nth(at) else { return Ok(()) };
        let (tag, uid) = (context.tag.clone(), context.uid);
        let mut count = 0;
        let mut pieces: Vec<(u32, &[u32])> = Vec::new();
        for Place { position, numbers } in places {
            let mut position = *position;
            for piece in numbers.chunks(NUMBERS_PER_RESPONSE) {
                if count + piece.len() > NUMBERS_PER_RESPONSE {
                    self.writer().result_change(&tag, uid, change, &pieces);
                    self.channel.flush_if_full().await?;
                    count = 0;
                    pieces.clear();
                }
                pieces.push((position, piece));
                count += piece.len();
                // What follows a removed piece has moved to its place.
                if position > 0 && change == ResultChange::Added {
                    position += piece.len() as u32;
                }
            }
        }
        if !pieces.is_empty() {
            self.writer().result_change(&tag, uid, change, &pieces);
        }
        self.channel.flush_if_full().await
    }
}

/// As the result names the message at `index`.
fn number(numbering: &Snapshot, index: usize, uid: bool) -> Option<u32> {
    match uid {
        true => numbering.get(index).map(|message| message.uid.0),
        false => Some(index as u32 + 1),
    }
}

/// The same of several.
fn named(numbering: &Snapshot, uids: Vec<Uid>, uid: bool) -> Vec<u32> {
    let named = |it: Uid| if uid { Some(it.0) } else { Some(numbering.index_of(it)? as u32 + 1) };
    uids.into_iter().filter_map(named).collect()
}

/// Takes `left`, which ascend, out of a sorted result. Returns those that followed each other, and
/// the position from 1 of the first of them, once those before are out.
async fn remove_uids(
    uids: &mut Vec<Uid>,
    left: &[Uid],
    executor: &dyn Executor,
) -> Vec<(u32, Vec<Uid>)> {
    let (Some(&first), Some(&last)) = (left.first(), left.last()) else { return Vec::new() };
    let mut removed: Vec<(u32, Vec<Uid>)> = Vec::new();
    let mut kept = 0;
    for from in 0..uids.len() {
        let Some(&uid) = uids.get(from) else { break };
        if (first..=last).contains(&uid) && left.binary_search(&uid).is_ok() {
            match removed.last_mut() {
                Some((position, run)) if *position == kept as u32 + 1 => run.push(uid),
                _ => removed.push((kept as u32 + 1, vec![uid])),
            }
        } else {
            uids.swap(kept, from);
            kept += 1;
        }
        if from % UIDS_PER_TURN == UIDS_PER_TURN - 1 {
            executor.yield_now().await;
        }
    }
    uids.truncate(kept);
    removed
}

/// Puts `joined`, which are in order, into a sorted result; `places` has how many of its messages
/// are before each.
fn insert_uids(uids: &mut Vec<Uid>, joined: &[Hit], places: &[usize]) {
    let mut from = uids.len();
    uids.resize(from + joined.len(), Uid::default());
    for (count, (hit, &place)) in joined.iter().zip(places).enumerate().rev() {
        let place = place.min(from);
        uids.copy_within(place..from, place + count + 1);
        if let Some(uid) = uids.get_mut(place + count) {
            *uid = hit.uid;
        }
        from = place;
    }
}

fn is_due(context: &Context, now: i64) -> bool {
    let since = now.abs_diff(context.query.now);
    !context.query.ages.is_empty() && since >= AGES_EVERY.as_secs()
}

/// From when to when messages were received that have come of one of the `ages` between two
/// moments: ascending, and none overlaps the next.
fn windows(ages: &[u64], before: i64, now: i64) -> Vec<(i64, i64)> {
    let (first, last) = (before.min(now), before.max(now));
    let window = |&age| (first.saturating_sub_unsigned(age), last.saturating_sub_unsigned(age));
    let mut windows: Vec<(i64, i64)> = ages.iter().map(window).collect();
    windows.sort_unstable();
    windows.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_messages_come_of_age() {
        assert_eq!(windows(&[10, 500, 70], 1_000, 1_060), [(500, 560), (930, 1_050)]);
        // A clock that was put back.
        assert_eq!(windows(&[10], 1_060, 1_000), [(990, 1_050)]);
        assert_eq!(windows(&[u64::MAX], 0, 60).len(), 1);
    }
}
