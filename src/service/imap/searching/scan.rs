//! Finding the messages that a query means, by an exact scan, cheap keys first.
//!
//! A message is read only if flags, dates and sizes leave it undecided, and then its cards first
//! (sent date, envelope fields), then the header, then the text; text is decoded in pieces and not
//! kept. Other sessions get their turn between pieces and between batches of messages.

use super::super::{
    accounts::{CardSource, Reading},
    query::{Known, Need, Query, Verdict},
    reader::MessageReader,
    reply::Failure,
    selected::Selected,
};
use crate::{
    model::{ModSeq, Uid},
    protocol::mime::{DateTime, EnvelopeCard, MessageSearch, Needle, Scope, card, date},
    runtime::executor::Executor,
    store::Message,
};

/// Keys tested against messages, without reading, before other sessions get their turn: under 1 ms
/// of work. A query may have thousands of keys.
const KEYS_PER_TURN: usize = 4_096;

/// Octets of text decoded and searched for one string before other sessions get their turn, under 1
/// ms of work; divided by the number of strings.
const TEXT_PIECE: usize = 64 * 1024;

/// A message that matches.
#[derive(Clone, Copy, Debug)]
pub(in crate::service::imap) struct Hit {
    /// Of the message in the client's numbering.
    pub index: usize,
    pub uid: Uid,
    pub mod_seq: ModSeq,
}

impl Hit {
    /// As the command names messages.
    pub(in crate::service::imap) fn number(&self, uid: bool) -> u32 {
        if uid { self.uid.0 } else { self.index as u32 + 1 }
    }
}

/// The messages of the selected mailbox that `query` means, of those at `indexes`, which ascend.
pub(in crate::service::imap) async fn scan_among(
    indexes: impl IntoIterator<Item = usize>,
    query: &Query,
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<Vec<Hit>, Failure> {
    let mut hits = Vec::new();
    let mut keys = 0;
    let mut test = Test::new(query, reading, executor);
    for index in indexes {
        keys += query.keys;
        if keys >= KEYS_PER_TURN {
            keys = 0;
            executor.yield_now().await;
        }
        let look = |message: &Message| {
            let hit = Hit { index, uid: message.uid, mod_seq: message.mod_seq };
            (hit, test.decide(selected, message))
        };
        let Some((hit, decided)) = selected.look_at(index, look) else { continue };
        let matches = match decided {
            Some(matches) => matches,
            None => {
                let Some(message) = selected.message(index) else { continue };
                test.matches(selected, &message).await?
            }
        };
        if matches {
            hits.push(hit);
        }
    }
    Ok(hits)
}

/// Tests messages of a mailbox, in the order of their UIDs.
pub(super) struct Test<'a> {
    query: &'a Query,
    reading: &'a Reading,
    executor: &'a dyn Executor,
    cards: Cards,
}

impl<'a> Test<'a> {
    pub(super) fn new(
        query: &'a Query,
        reading: &'a Reading,
        executor: &'a dyn Executor,
    ) -> Test<'a> {
        let cards = Cards {
            dates: reading.cards(card::DATES),
            threads: reading.cards(card::THREAD),
            envelopes: reading.cards(card::ENVELOPE),
            scratch: Vec::new(),
            octets: 0,
        };
        Test { query, reading, executor, cards }
    }

    /// Whether the message matches, if nothing has to be read to know it.
    fn decide(&self, selected: &Selected, message: &Message) -> Option<bool> {
        let is_recent = || selected.is_recent(message.uid);
        match self.query.test(message, is_recent, &Known::default()) {
            Verdict::Yes => Some(true),
            Verdict::No => Some(false),
            Verdict::Needs(_) => None,
        }
    }

    pub(super) async fn matches(
        &mut self,
        selected: &Selected,
        message: &Message,
    ) -> Result<bool, Failure> {
        let Test { query, reading, executor, cards } = self;
        Subject { query, selected, executor: *executor, message }.matches(reading, cards).await
    }
}

/// The cards of a mailbox that a search reads.
struct Cards {
    dates: CardSource,
    threads: CardSource,
    envelopes: CardSource,
    scratch: Vec<u8>,
    /// Octets searched since other sessions had their turn.
    octets: usize,
}

/// One message under search.
struct Subject<'a> {
    query: &'a Query,
    selected: &'a Selected,
    executor: &'a dyn Executor,
    message: &'a Message,
}

impl Subject<'_> {
    /// Tests the message, and reads what the test needs, until it is decided. Each need is read
    /// once.
    async fn matches(&self, reading: &Reading, cards: &mut Cards) -> Result<bool, Failure> {
        let mut reader = MessageReader::new(reading, *self.message);
        let mut known = Known::default();
        let is_recent = || self.selected.is_recent(self.message.uid);
        loop {
            match self.query.test(self.message, is_recent, &known) {
                Verdict::Yes => return Ok(true),
                Verdict::No => return Ok(false),
                Verdict::Needs(Need::SentDay) => {
                    known.sent_day = Some(self.sent_day(cards, &mut reader).await?);
                }
                Verdict::Needs(Need::Thread) => {
                    known.thread = Some(reader.thread_root(&mut cards.threads).await?);
                }
                Verdict::Needs(Need::Header) => {
                    known.header = Some(match self.search_card(cards).await? {
                        Some(found) => found,
                        None => self.search_header(&mut reader).await?,
                    });
                }
                Verdict::Needs(Need::Text) => {
                    known.found = Some(self.search_text(&mut reader).await?);
                }
            }
        }
    }

    async fn sent_day(
        &self,
        cards: &mut Cards,
        reader: &mut MessageReader<'_>,
    ) -> Result<Option<i64>, Failure> {
        if !cards.dates.is_at_hand(self.message) {
            cards.dates.seek(self.message).await?;
        }
        if let Ok(day) = card::sent_day(cards.dates.card()) {
            return Ok(day);
        }
        let date = reader.summary().await?.date().and_then(date::parse);
        Ok(date.map(DateTime::days))
    }

    /// Answers all header keys of the query from the message's card, if the card suffices.
    async fn search_card(&self, cards: &mut Cards) -> Result<Option<Vec<bool>>, Failure> {
        if !self.query.asks_cards() {
            return Ok(None);
        }
        if !cards.envelopes.is_at_hand(self.message) {
            cards.envelopes.seek(self.message).await?;
        }
        let mut found = Vec::with_capacity(self.query.headers.len());
        for key in &self.query.headers {
            let Some(card) = EnvelopeCard::decode(cards.envelopes.card()) else { return Ok(None) };
            let Ok((is_in, octets)) = key.is_in_card(&card, &mut cards.scratch) else {
                return Ok(None);
            };
            found.push(is_in);
            cards.octets += octets;
            if cards.octets > TEXT_PIECE {
                cards.octets = 0;
                self.executor.yield_now().await;
            }
        }
        Ok(Some(found))
    }

    /// Answers all header keys of the query. Each one scans the header, which may have a mebibyte:
    /// other sessions get their turn between keys.
    async fn search_header(&self, reader: &mut MessageReader<'_>) -> Result<Vec<bool>, Failure> {
        let size = reader.summary().await?.header_size();
        let header = reader.header(0..size).await?;
        let mut found = Vec::with_capacity(self.query.headers.len());
        let mut octets = 0;
        for key in &self.query.headers {
            found.push(key.is_in(&header));
            octets += header.len();
            if octets > TEXT_PIECE {
                octets = 0;
                self.executor.yield_now().await;
            }
        }
        Ok(found)
    }

    /// Looks for all strings of the query at once, in one reading of the message.
    async fn search_text(&self, reader: &mut MessageReader<'_>) -> Result<Vec<bool>, Failure> {
        let needles: Vec<(Scope, &Needle)> =
            self.query.needles.iter().map(|(scope, needle)| (*scope, needle)).collect();
        let summary = reader.summary().await?.clone();
        let mut search = MessageSearch::new(&summary, &needles);
        let piece_size = (TEXT_PIECE / needles.len().max(1)).max(1);
        let mut rest = search.seek()..self.message.body.size;
        while !rest.is_empty() {
            let piece = reader.piece(&rest).await?;
            for mut part in piece.chunks(piece_size) {
                while !part.is_empty() {
                    part = part.get(search.take(part)..).unwrap_or_default();
                    while search.look_on() {
                        self.executor.yield_now().await;
                    }
                    if search.is_done() {
                        return Ok(search.finish());
                    }
                }
                self.executor.yield_now().await;
            }
            rest.start = search.seek();
        }
        Ok(search.finish())
    }
}
