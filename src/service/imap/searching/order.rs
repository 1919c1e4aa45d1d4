//! Sorting what a search found (RFC 5256 3, RFC 5957): keys from cards, sorted as numbers.
//!
//! Each criterion is a column of keys, read once. Eight octets of each key at a time are sorted as
//! one number, together with the message's position: first those behind what all keys begin with,
//! then, of messages with the same eight, those behind what these begin with. So no string is
//! compared with another one, and a column of numbers is sorted in the same way. Other sessions get
//! their turn between pieces of all loops.

use std::{cmp::Ordering, ops::Range};

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

/// Messages whose keys are read before other sessions get their turn.
const MESSAGES_PER_TURN: usize = 2_048;

/// Messages that are sorted or merged before other sessions get their turn, some 0.2 ms.
const ROWS_PER_TURN: usize = 8_192;

/// Octets of a string that are compared; strings that differ only behind them are equal.
const KEY_OCTETS_MAX: usize = 512;

/// Octets of most strings; room is made for as much.
const TEXT_TYPICAL: usize = 32;

/// Octets of all keys of one command.
const KEYS_OCTETS_MAX: usize = 64 << 20;

/// Octets of a text that are sorted by at a time.
const WORD: usize = size_of::<u64>();

/// The keys of one criterion, by position in what is sorted.
#[derive(Default)]
struct Keys {
    reverse: bool,
    is_text: bool,
    numbers: Vec<u64>,
    /// All texts, and where each ends.
    texts: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    fn push_number(&mut self, number: i64) {
        // So that negative numbers are below the others.
        self.numbers.push(number as u64 ^ 1 << 63);
    }

    fn push_text(&mut self, text: &str, collation: Collation) -> Result<(), Failure> {
        let start = self.texts.len();
        collation.push_order_key(text, &mut self.texts);
        self.texts.truncate(start + KEY_OCTETS_MAX);
        if self.texts.len() > KEYS_OCTETS_MAX {
            return Err(Failure::no(Code::Limit, "The messages have too long fields to sort by"));
        }
        self.ends.push(self.texts.len() as u32);
        Ok(())
    }

    fn reserve(&mut self, count: usize) {
        match self.is_text {
            true => {
                self.ends.reserve_exact(count);
                self.texts.reserve(count * TEXT_TYPICAL);
            }
            false => self.numbers.reserve_exact(count),
        }
    }

    fn number(&self, at: u32) -> u64 {
        self.numbers.get(at as usize).copied().unwrap_or_default()
    }

    fn text(&self, at: u32) -> &[u8] {
        let end = |at: usize| self.ends.get(at).map_or(0, |end| *end as usize);
        let start = (at as usize).checked_sub(1).map_or(0, end);
        self.texts.get(start..end(at as usize)).unwrap_or_default()
    }

    /// What a message is sorted by: its number, or the octets of its text from `depth` on.
    fn word(&self, at: u32, depth: usize) -> u64 {
        let word = match self.is_text {
            true => word_of(self.text(at).get(depth..).unwrap_or_default()),
            false => self.number(at),
        };
        if self.reverse { !word } else { word }
    }

    /// One of its keys with one of `other`, which are of the same criterion.
    fn compare(&self, a: u32, other: &Keys, b: u32) -> Ordering {
        let order = match self.is_text {
            true => self.text(a).cmp(other.text(b)),
            false => self.number(a).cmp(&other.number(b)),
        };
        if self.reverse { order.reverse() } else { order }
    }

    fn clear(&mut self) {
        self.numbers.clear();
        self.texts.clear();
        self.ends.clear();
    }
}

/// The first octets of a text as a number. Octets that are not there are zeros: no text has one of
/// those.
fn word_of(text: &[u8]) -> u64 {
    if let Some(word) = text.first_chunk() {
        return u64::from_be_bytes(*word);
    }
    let octets = text.iter().fold(0, |word, octet| word << 8 | u64::from(*octet));
    // Of fewer than eight.
    octets << (8 * (WORD - text.len()) as u32 % u64::BITS)
}

/// How many octets two texts have in common at their beginning.
fn shared(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<WORD>().0.iter().zip(b.as_chunks::<WORD>().0);
    let whole = WORD * words.take_while(|(a, b)| a == b).count();
    let rests = a.iter().zip(b).skip(whole);
    whole + rests.take_while(|(a, b)| a == b).count()
}

/// A message being sorted: what it is sorted by just now, and its position before. As one number,
/// so that rows are compared without a branch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Row(u128);

impl Row {
    fn new(word: u64, at: u32) -> Row {
        Row(u128::from(word) << 32 | u128::from(at))
    }

    fn word(self) -> u64 {
        (self.0 >> 32) as u64
    }

    fn at(self) -> u32 {
        self.0 as u32
    }
}

/// Rows that are equal by all criteria before one, and in the order of the mailbox.
struct Equals {
    rows: Range<usize>,
    /// The criterion that they are to be sorted by.
    criterion: usize,
    /// The octets of its texts in which they are known to be equal.
    depth: usize,
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
    let columns = read_columns(hits, order, selected, reading, executor).await?;
    let rows = sort_rows(hits.len() as u32, &columns, executor).await;
    *hits = rows.iter().filter_map(|row| hits.get(row.at() as usize).copied()).collect();
    Ok(())
}

/// Positions below `count` in the order of their keys.
async fn sort_rows(count: u32, columns: &[Keys], executor: &dyn Executor) -> Vec<Row> {
    let mut rows: Vec<Row> = (0..count).map(|at| Row::new(0, at)).collect();
    let mut open = vec![Equals { rows: 0..rows.len(), criterion: 0, depth: 0 }];
    let mut work = 0;
    while let Some(equals) = open.pop() {
        let Some(keys) = columns.get(equals.criterion) else { continue };
        let Some(group) = rows.get_mut(equals.rows.clone()) else { continue };
        let mut depth = equals.depth;
        if keys.is_text {
            let Some(difference) = first_difference(group, keys, depth, executor).await else {
                open.push(Equals { criterion: equals.criterion + 1, depth: 0, ..equals });
                continue;
            };
            depth = difference;
        }
        for piece in group.chunks_mut(ROWS_PER_TURN) {
            piece.iter_mut().for_each(|row| *row = Row::new(keys.word(row.at(), depth), row.at()));
            work += piece.len();
            if work > ROWS_PER_TURN {
                work = 0;
                executor.yield_now().await;
            }
        }
        merge_sort(group, executor).await;
        let mut start = equals.rows.start;
        for run in group.chunk_by(|a, b| a.word() == b.word()) {
            let rows = start..start + run.len();
            start = rows.end;
            if rows.len() > 1 {
                let (criterion, depth) = match keys.is_text {
                    true => (equals.criterion, depth + WORD),
                    false => (equals.criterion + 1, 0),
                };
                open.push(Equals { rows, criterion, depth });
            }
        }
    }
    rows
}

/// How many octets the texts of `group` have in common, which are at least `depth`; `None` if they
/// are the same.
async fn first_difference(
    group: &[Row],
    keys: &Keys,
    depth: usize,
    executor: &dyn Executor,
) -> Option<usize> {
    let text = |row: &Row| keys.text(row.at()).get(depth..).unwrap_or_default();
    let (first, others) = group.split_first()?;
    let first = text(first);
    let (mut common, mut is_same) = (first.len(), true);
    for piece in others.chunks(ROWS_PER_TURN) {
        for row in piece {
            let other = text(row);
            is_same &= other.len() == first.len();
            let begin = first.get(..common).unwrap_or_default();
            if !other.starts_with(begin) {
                common = shared(begin, other);
            }
        }
        if piece.len() == ROWS_PER_TURN {
            executor.yield_now().await;
        }
    }
    let differs = !is_same || common < first.len();
    differs.then_some(depth + common)
}

/// Sorts pieces, and merges them.
async fn merge_sort(rows: &mut [Row], executor: &dyn Executor) {
    if rows.len() <= ROWS_PER_TURN {
        rows.sort_unstable();
        return;
    }
    for piece in rows.chunks_mut(ROWS_PER_TURN) {
        piece.sort_unstable();
        executor.yield_now().await;
    }
    let mut width = ROWS_PER_TURN;
    let mut merged = Vec::with_capacity(rows.len());
    while width < rows.len() {
        merged.clear();
        for pair in rows.chunks(2 * width) {
            let (mut left, mut right) = pair.split_at(width.min(pair.len()));
            while let (Some(a), Some(b)) = (left.first(), right.first()) {
                // Without a branch: which one is less cannot be foreseen.
                let from_right = b < a;
                merged.push(if from_right { *b } else { *a });
                left = left.get(usize::from(!from_right)..).unwrap_or_default();
                right = right.get(usize::from(from_right)..).unwrap_or_default();
                if merged.len().is_multiple_of(ROWS_PER_TURN) {
                    executor.yield_now().await;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        rows.copy_from_slice(&merged);
        width *= 2;
    }
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
        keys.reserve(hits.len());
        for (count, hit) in hits.iter().enumerate() {
            if count % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
                executor.yield_now().await;
            }
            let look = |message: &Message| reader.read_at_hand(message, &mut keys);
            let Some(was_at_hand) = selected.look_at(hit.index, look) else { continue };
            if !was_at_hand? {
                let Some(message) = selected.message(hit.index) else { continue };
                reader.read(&message, &mut keys).await?;
            }
        }
        octets += keys.texts.len();
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
        KeyReader { criterion, comparator, column }
    }

    fn keys(&self) -> Keys {
        let Criterion { key, reverse } = self.criterion;
        let is_text = !matches!(key, SortKey::Arrival | SortKey::Size | SortKey::Date);
        let reverse = reverse != (is_text && self.comparator.descending);
        Keys { reverse, is_text, ..Keys::default() }
    }

    /// Appends the message's key if nothing has to be waited for, which is so until a block of
    /// cards ends. False if it was not appended.
    fn read_at_hand(&mut self, message: &Message, keys: &mut Keys) -> Result<bool, Failure> {
        match self.criterion.key {
            SortKey::Date => {
                let sent = self.column.at_hand(message).and_then(|it| card::sent_seconds(it).ok());
                let Some(sent) = sent else { return Ok(false) };
                keys.push_number(sent.unwrap_or(message.internal_date.unix_seconds()));
            }
            SortKey::Subject => {
                let card = self.column.at_hand(message);
                let subject = card.and_then(|card| card::base_subject(card).ok());
                let Some((text, _)) = subject else { return Ok(false) };
                keys.push_text(text, self.comparator.collation)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Appends the message's key.
    async fn read(&mut self, message: &Message, keys: &mut Keys) -> Result<(), Failure> {
        let KeyReader { criterion, comparator: ActiveComparator { collation, .. }, column } = self;
        match criterion.key {
            SortKey::Arrival => keys.push_number(message.internal_date.unix_seconds()),
            SortKey::Size => keys.push_number(message.body.size.min(i64::MAX as u64) as i64),
            SortKey::Date => keys.push_number(sent_seconds(column, message).await?),
            SortKey::Subject => {
                let mut pushed = Ok(());
                let take = |card: &[u8]| {
                    let (text, _) = card::base_subject(card)?;
                    pushed = keys.push_text(text, *collation);
                    Ok(())
                };
                if !column.read(message, take).await? {
                    keys.push_text("", *collation)?;
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
                keys.push_text(&text, *collation)?;
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::runtime::simulation::Simulation;

    /// The order that comparing the keys themselves gives.
    fn expected(count: u32, columns: &[Keys]) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_by(|a, b| {
            let mut orders = columns.iter().map(|keys| keys.compare(*a, keys, *b));
            orders.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        order
    }

    fn check(count: u32, columns: &[Keys]) {
        let simulation = Simulation::new(1);
        let rows = simulation.run_until(sort_rows(count, columns, &simulation));
        let order: Vec<u32> = rows.iter().map(|row| row.at()).collect();
        assert_eq!(order, expected(count, columns));
    }

    fn texts<'t>(reverse: bool, texts: impl IntoIterator<Item = &'t str>) -> Keys {
        let mut keys = Keys { reverse, is_text: true, ..Keys::default() };
        for text in texts {
            keys.push_text(text, Collation::Octet).ok().unwrap();
        }
        keys
    }

    fn numbers(reverse: bool, numbers: impl IntoIterator<Item = i64>) -> Keys {
        let mut keys = Keys { reverse, ..Keys::default() };
        numbers.into_iter().for_each(|number| keys.push_number(number));
        keys
    }

    #[test]
    fn many_are_sorted_in_pieces() {
        let count = 3 * ROWS_PER_TURN as u32 + 100;
        let scattered = |at: u32| at.wrapping_mul(2_654_435_761);
        let names: Vec<String> =
            (0..count).map(|at| format!("the same beginning {}", scattered(at) % 10_000)).collect();
        let same: Vec<&str> = (0..count).map(|_| "the same text, of some length").collect();
        let dates = || (0..count).map(|at| i64::from(scattered(at) % 1_000) - 500);
        for reverse in [false, true] {
            let names = || texts(reverse, names.iter().map(String::as_str));
            let same = || texts(reverse, same.iter().copied());
            check(count, &[names()]);
            check(count, &[numbers(reverse, dates()), names()]);
            check(count, &[same(), numbers(!reverse, dates()), names(), same()]);
        }
        check(0, &[texts(false, [])]);
        check(5, &[]);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_the_keys(
            parts in vec((vec("[ab]{0,12}", 3), -2i64..2), 0..60),
            beginning in "a{0,20}",
            reverse: [bool; 3],
        ) {
            let text = |n: usize| {
                let text = |(parts, _): &(Vec<String>, i64)| format!("{beginning}{}", parts[n]);
                let all: Vec<String> = parts.iter().map(text).collect();
                texts(reverse[n], all.iter().map(String::as_str))
            };
            let columns = [
                texts(reverse[0], parts.iter().map(|(parts, _)| parts[0].get(..2).unwrap_or("a"))),
                numbers(reverse[1], parts.iter().map(|(_, number)| *number)),
                text(1),
                text(2),
            ];
            check(parts.len() as u32, &columns);
            check(parts.len() as u32, &columns[2..]);
            check(parts.len() as u32, &columns[1..2]);
        }

        #[test]
        fn words_are_in_the_order_of_texts(a in "[a-c]{0,10}", b in "[a-c]{0,10}") {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let first = |text: &[u8]| text[..text.len().min(WORD)].to_vec();
            prop_assert_eq!(word_of(a).cmp(&word_of(b)), first(a).cmp(&first(b)));
            let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(shared(a, b), common);
        }
    }
}
