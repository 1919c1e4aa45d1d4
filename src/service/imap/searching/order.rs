//! Sorting what a search found (RFC 5256 3, RFC 5957): keys from cards, compared as numbers and
//! octets.
//!
//! Each criterion is a column of keys, read once. A key begins with eight octets that compare as a
//! number; most comparisons end there. Nothing is allocated while messages are compared, and other
//! sessions get their turn between pieces of all loops.

use std::cmp::Ordering;

use super::{
    super::{accounts::Reading, query::Order, reply::Failure, selected::Selected},
    column::Column,
    scan::Hit,
};
use crate::{
    model::Uid,
    protocol::{
        imap::{
            Code,
            message::sort::{Criterion, SortKey},
        },
        mime::{
            ActiveComparator, Address, Collation, EnvelopeCard, EnvelopeField, card, encoded_word,
        },
    },
    runtime::executor::Executor,
    store::Message,
};

/// Messages whose keys are read, or that are sorted or merged, before other sessions get their
/// turn.
const MESSAGES_PER_TURN: usize = 2_048;

/// Octets of a string that are compared; strings that differ only behind them are equal.
const KEY_OCTETS_MAX: usize = 512;

/// Octets of all keys of one command.
const KEYS_OCTETS_MAX: usize = 64 << 20;

/// The keys of one criterion, by position in what is sorted.
#[derive(Default)]
struct Keys {
    reverse: bool,
    /// The first eight octets of each; a number as a whole.
    starts: Vec<u64>,
    /// What follows of each, and where it ends.
    rests: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    fn push_number(&mut self, number: i64) {
        // So that negative numbers are below the others.
        self.starts.push(number as u64 ^ 1 << 63);
    }

    fn push_text(
        &mut self,
        text: &str,
        collation: Collation,
        scratch: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        scratch.clear();
        collation.push_order_key(text, scratch);
        scratch.truncate(KEY_OCTETS_MAX);
        let mut start = [0; 8];
        let (first, rest) = scratch.split_at(scratch.len().min(8));
        start.iter_mut().zip(first).for_each(|(octet, from)| *octet = *from);
        self.starts.push(u64::from_be_bytes(start));
        if self.rests.len() + rest.len() > KEYS_OCTETS_MAX {
            return Err(Failure::no(Code::Limit, "The messages have too long fields to sort by"));
        }
        self.rests.extend_from_slice(rest);
        self.ends.push(self.rests.len() as u32);
        Ok(())
    }

    fn start(&self, at: u32) -> u64 {
        self.starts.get(at as usize).copied().unwrap_or_default()
    }

    fn rest(&self, at: u32) -> &[u8] {
        let end = |at: usize| self.ends.get(at).map_or(0, |end| *end as usize);
        let start = (at as usize).checked_sub(1).map_or(0, end);
        self.rests.get(start..end(at as usize)).unwrap_or_default()
    }

    /// Whether a start is not a whole key.
    fn has_rests(&self) -> bool {
        !self.rests.is_empty()
    }

    fn compare_rests(&self, a: u32, other: &Keys, b: u32) -> Ordering {
        // Octets that are not there are zeros of the start: no text has one of those.
        let order = self.rest(a).cmp(other.rest(b));
        if self.reverse { order.reverse() } else { order }
    }

    /// One of its keys with one of `other`, which are of the same criterion.
    fn compare(&self, a: u32, other: &Keys, b: u32) -> Ordering {
        let order = self.start(a).cmp(&other.start(b));
        let order = if self.reverse { order.reverse() } else { order };
        order.then_with(|| self.compare_rests(a, other, b))
    }

    fn clear(&mut self) {
        self.starts.clear();
        self.rests.clear();
        self.ends.clear();
    }
}

/// A message being sorted: the start of its first key, inverted if that is reversed, and its
/// position before. As one number, so that rows are compared without a branch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row(u128);

impl Row {
    fn new(start: u64, at: u32) -> Row {
        Row(u128::from(start) << 32 | u128::from(at))
    }

    fn start(self) -> u64 {
        (self.0 >> 32) as u64
    }

    fn at(self) -> u32 {
        self.0 as u32
    }
}

/// Brings `hits`, which are in the order of the mailbox, into `order`. Where that leaves messages
/// equal they stay in the order of the mailbox, whatever is reversed (RFC 5256 3).
pub(in crate::service::imap) async fn sort(
    hits: &mut Vec<Hit>,
    order: &Order,
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<(), Failure> {
    let keys = read_columns(hits, order, selected, reading, executor).await?;
    let Some((first, others)) = keys.split_first() else { return Ok(()) };
    let row = |at: u32| {
        let start = first.start(at);
        Row::new(if first.reverse { !start } else { start }, at)
    };
    let mut rows = merge_sort((0..hits.len() as u32).map(row).collect(), Row::cmp, executor).await;
    if first.has_rests() || !others.is_empty() {
        // Of the same start.
        let compare = |a: &Row, b: &Row| {
            let (a, b) = (a.at(), b.at());
            first
                .compare_rests(a, first, b)
                .then_with(|| {
                    let decide =
                        |keys: &Keys| Some(keys.compare(a, keys, b)).filter(|it| it.is_ne());
                    others.iter().find_map(decide).unwrap_or(Ordering::Equal)
                })
                .then(a.cmp(&b))
        };
        let mut count = 0;
        for equal in rows.chunk_by_mut(|a, b| a.start() == b.start()).filter(|it| it.len() > 1) {
            count += equal.len();
            if equal.len() > MESSAGES_PER_TURN {
                let sorted = merge_sort(equal.to_vec(), compare, executor).await;
                equal.copy_from_slice(&sorted);
                continue;
            }
            equal.sort_unstable_by(compare);
            if count > MESSAGES_PER_TURN {
                count = 0;
                executor.yield_now().await;
            }
        }
    }
    *hits = rows.iter().filter_map(|row| hits.get(row.at() as usize).copied()).collect();
    Ok(())
}

/// Sorts pieces, and merges them.
async fn merge_sort<T: Copy>(
    mut rows: Vec<T>,
    compare: impl Fn(&T, &T) -> Ordering,
    executor: &dyn Executor,
) -> Vec<T> {
    for piece in rows.chunks_mut(MESSAGES_PER_TURN) {
        piece.sort_unstable_by(&compare);
        executor.yield_now().await;
    }
    let mut width = MESSAGES_PER_TURN;
    let mut merged = Vec::with_capacity(rows.len());
    while width < rows.len() {
        merged.clear();
        for pair in rows.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let (Some((a, left_rest)), Some((b, right_rest))) =
                (left.split_first(), right.split_first())
            {
                match compare(b, a).is_lt() {
                    true => {
                        merged.push(*b);
                        right = right_rest;
                    }
                    false => {
                        merged.push(*a);
                        left = left_rest;
                    }
                }
                if merged.len().is_multiple_of(MESSAGES_PER_TURN) {
                    executor.yield_now().await;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        std::mem::swap(&mut rows, &mut merged);
        width *= 2;
    }
    rows
}

/// The keys of `hits` by each criterion.
async fn read_columns(
    hits: &[Hit],
    order: &Order,
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<Vec<Keys>, Failure> {
    let mut columns = Vec::with_capacity(order.criteria.len());
    let mut octets = 0;
    for criterion in &order.criteria {
        let mut reader = KeyReader::new(*criterion, order.comparator, reading);
        let mut keys = reader.keys();
        keys.starts.reserve_exact(hits.len());
        for (count, hit) in hits.iter().enumerate() {
            if count % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
                executor.yield_now().await;
            }
            let Some(message) = selected.message(hit.index) else { continue };
            reader.read(&message, &mut keys).await?;
        }
        octets += keys.rests.len();
        if octets > KEYS_OCTETS_MAX {
            return Err(Failure::no(Code::Limit, "The messages have too long fields to sort by"));
        }
        columns.push(keys);
    }
    Ok(columns)
}

/// Reads the keys of messages by one criterion.
struct KeyReader<'r> {
    criterion: Criterion,
    comparator: ActiveComparator,
    column: Column<'r>,
    scratch: Vec<u8>,
}

impl<'r> KeyReader<'r> {
    fn new(
        criterion: Criterion,
        comparator: ActiveComparator,
        reading: &'r Reading,
    ) -> KeyReader<'r> {
        let part = match criterion.key {
            SortKey::Arrival | SortKey::Size | SortKey::Date => card::DATES,
            SortKey::Subject => card::SUBJECT,
            _ => card::ENVELOPE,
        };
        let column = Column::new(reading, part);
        KeyReader { criterion, comparator, column, scratch: Vec::new() }
    }

    fn keys(&self) -> Keys {
        let Criterion { key, reverse } = self.criterion;
        let is_text = !matches!(key, SortKey::Arrival | SortKey::Size | SortKey::Date);
        let reverse = reverse != (is_text && self.comparator.descending);
        Keys { reverse, ..Keys::default() }
    }

    /// Appends the message's key.
    async fn read(&mut self, message: &Message, keys: &mut Keys) -> Result<(), Failure> {
        let KeyReader {
            criterion,
            comparator: ActiveComparator { collation, .. },
            column,
            scratch,
        } = self;
        match criterion.key {
            SortKey::Arrival => keys.push_number(message.internal_date.unix_seconds()),
            SortKey::Size => keys.push_number(message.body.size.min(i64::MAX as u64) as i64),
            SortKey::Date => keys.push_number(sent_seconds(column, message).await?),
            SortKey::Subject => {
                let mut pushed = Ok(());
                let take = |card: &[u8]| {
                    let (text, _) = card::base_subject(card)?;
                    pushed = keys.push_text(text, *collation, scratch);
                    Ok(())
                };
                if !column.read(message, take).await? {
                    keys.push_text("", *collation, scratch)?;
                }
                pushed?;
            }
            key => {
                let mut text = String::new();
                let take = |card: &[u8]| {
                    let card = EnvelopeCard::decode(card).ok_or(card::Unanswered)?;
                    text = address_text(&card, key);
                    Ok(())
                };
                column.read(message, take).await?;
                keys.push_text(&text, *collation, scratch)?;
            }
        }
        Ok(())
    }
}

/// Where messages come into a sorted result: brings `joined`, which are in the order of the
/// mailbox, into `order`, and returns for each how many of `sorted` are before it.
///
/// A few are looked for by halves, so that little is read; many are sorted together with those that
/// are there, which costs no more than the first time.
pub(in crate::service::imap) async fn places(
    joined: &mut Vec<Hit>,
    sorted: &[Uid],
    order: &Order,
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<Vec<usize>, Failure> {
    let steps = sorted.len().checked_ilog2().map_or(0, |halves| halves as usize + 1);
    if joined.len() * steps > sorted.len() {
        return places_among_all(joined, sorted, order, selected, reading, executor).await;
    }
    sort(joined, order, selected, reading, executor).await?;
    let ours = read_columns(joined, order, selected, reading, executor).await?;
    let reader = |criterion: &Criterion| KeyReader::new(*criterion, order.comparator, reading);
    let mut readers: Vec<KeyReader<'_>> = order.criteria.iter().map(reader).collect();
    let mut theirs: Vec<Keys> = readers.iter().map(KeyReader::keys).collect();
    let mut places = Vec::with_capacity(joined.len());
    let mut low = 0;
    for (at, hit) in joined.iter().enumerate() {
        let mut high = sorted.len();
        while low < high {
            let middle = low.midpoint(high);
            let uid = sorted.get(middle).copied().unwrap_or_default();
            let index = selected.numbering().index_of(uid);
            let Some(message) = index.and_then(|index| selected.message(index)) else { break };
            for (reader, keys) in readers.iter_mut().zip(&mut theirs) {
                keys.clear();
                reader.read(&message, keys).await?;
            }
            let mut orders =
                ours.iter().zip(&theirs).map(|(ours, it)| it.compare(0, ours, at as u32));
            let order = orders.find(|order| order.is_ne()).unwrap_or(uid.cmp(&hit.uid));
            match order {
                Ordering::Less => low = middle + 1,
                _ => high = middle,
            }
        }
        places.push(low);
        executor.yield_now().await;
    }
    Ok(places)
}

async fn places_among_all(
    joined: &mut Vec<Hit>,
    sorted: &[Uid],
    order: &Order,
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<Vec<usize>, Failure> {
    let numbering = selected.numbering();
    let mut all = Vec::with_capacity(joined.len() + sorted.len());
    all.extend_from_slice(joined);
    for (count, uid) in sorted.iter().enumerate() {
        if count % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
            executor.yield_now().await;
        }
        let Some(index) = numbering.index_of(*uid) else { continue };
        let Some(message) = numbering.get(index) else { continue };
        all.push(Hit { index, uid: *uid, mod_seq: message.mod_seq });
    }
    all.sort_unstable_by_key(|hit| hit.index);
    let new: Vec<usize> = joined.iter().map(|hit| hit.index).collect();
    sort(&mut all, order, selected, reading, executor).await?;
    joined.clear();
    let mut places = Vec::with_capacity(new.len());
    for (count, hit) in all.iter().enumerate() {
        if new.binary_search(&hit.index).is_ok() {
            places.push(count - joined.len());
            joined.push(*hit);
        }
    }
    Ok(places)
}

/// RFC 5256 2.2: without a Date that can be read, the internal date.
pub(super) async fn sent_seconds(
    dates: &mut Column<'_>,
    message: &Message,
) -> Result<i64, Failure> {
    let mut sent = None;
    let take = |card: &[u8]| {
        sent = card::sent_seconds(card)?;
        Ok(())
    };
    dates.read(message, take).await?;
    Ok(sent.unwrap_or(message.internal_date.unix_seconds()))
}

/// The string by which addresses are sorted; empty if there is none.
fn address_text(card: &EnvelopeCard<'_>, key: SortKey) -> String {
    let (field, displayed) = match key {
        SortKey::DisplayFrom => (EnvelopeField::FROM, true),
        SortKey::DisplayTo => (EnvelopeField::TO, true),
        SortKey::From => (EnvelopeField::FROM, false),
        SortKey::To => (EnvelopeField::TO, false),
        _ => (EnvelopeField::CC, false),
    };
    let Some(Address { name, mailbox, host, .. }) = card.first_address(field) else {
        return String::new();
    };
    let mailbox = mailbox.unwrap_or_default();
    if !displayed {
        return String::from_utf8_lossy(&mailbox).into_owned();
    }
    // RFC 5957 3; a group has a name only.
    match (name, host) {
        (Some(name), _) => encoded_word::decode_value(&name).text,
        (None, Some(host)) if !host.is_empty() => {
            format!("{}@{}", String::from_utf8_lossy(&mailbox), String::from_utf8_lossy(&host))
        }
        (None, _) => encoded_word::decode_value(&mailbox).text,
    }
}
