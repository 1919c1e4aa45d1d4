//! SEARCH (RFC 3501 6.4.4, RFC 4731, RFC 5032, RFC 5182, RFC 7162 3.1.5) by an exact scan, cheap
//! keys first.
//!
//! A message is read only if flags, dates and sizes leave it undecided, and then its cards first
//! (sent date, envelope fields), then the header, then the text; text is decoded in pieces and not
//! kept. Other sessions get their turn between pieces and between batches of messages.

use super::{
    super::{
        accounts::{CardSource, Reading},
        folder,
        handler::Handler,
        reply::{Done, Failure, Reply},
        selected::Selected,
        state::Session,
    },
    reader::MessageReader,
    search_key::{Known, Need, Query, Verdict},
};
use crate::{
    model::{ModSeq, Rights, Uid},
    protocol::{
        imap::{
            Code, SearchResult,
            message::search::{Search, SearchReturn},
        },
        mime::{DateTime, EnvelopeCard, MessageSearch, Needle, Scope, card, date},
    },
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
struct Hit {
    index: usize,
    uid: Uid,
    mod_seq: ModSeq,
}

impl Hit {
    /// As the command names messages.
    fn number(&self, uid: bool) -> u32 {
        if uid { self.uid.0 } else { self.index as u32 + 1 }
    }
}

impl Handler for Search<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let answered = answer(self, session, tag).await;
        // RFC 5182 2.1: a NO to a search that should save its result leaves an empty one.
        if self.returns.is_some_and(|returns| returns.save)
            && matches!(answered, Err(Failure::No { .. }))
            && let Some(selected) = &mut session.selected
        {
            selected.save([]);
        }
        answered
    }
}

async fn answer(search: &Search<'_>, session: &mut Session, tag: &str) -> Reply {
    let folder = folder::selected(session, Rights::NONE).await?;
    let selected = session.selected()?;
    let now = session.channel.shard.executor.now();
    let query = Query::new(&search.key, search.charset.as_deref(), selected, now)?;
    if query.mod_seq {
        session.check_mod_seqs()?;
        session.enable_condstore();
    }
    let selected = session.selected()?;
    let executor = session.channel.shard.executor.clone();
    let hits = scan(&query, selected, &folder.reading(), &*executor).await?;
    // RFC 9051 6.4.4: the answer is always ESEARCH.
    let all = SearchReturn { all: true, ..SearchReturn::default() };
    match search.returns.or(session.rev2().then_some(all)) {
        None => {
            let mod_seq = highest(&hits).filter(|_| query.mod_seq);
            let numbers = hits.iter().map(|hit| hit.number(search.uid));
            session.writer().search(numbers, mod_seq);
        }
        Some(returns) => {
            if returns.save {
                save(session, returns, &hits)?;
            }
            if !returns.is_silent() {
                tell_extended(session, search, tag, returns, query.mod_seq, &hits);
            }
        }
    }
    Done::ok("SEARCH completed")
}

/// RFC 5182 2.4: beside MIN and MAX alone, only these messages are saved.
fn save(session: &mut Session, returns: SearchReturn, hits: &[Hit]) -> Result<(), Failure> {
    let Some(selected) = &mut session.selected else { return Ok(()) };
    let is_part = (returns.min || returns.max) && !returns.all && !returns.count;
    let is_saved = match is_part {
        true => {
            let first = hits.first().filter(|_| returns.min);
            let last = hits.last().filter(|_| returns.max);
            let mut ends: Vec<usize> = first.into_iter().chain(last).map(|hit| hit.index).collect();
            ends.dedup();
            selected.save(ends)
        }
        false => selected.save(hits.iter().map(|hit| hit.index)),
    };
    let too_many = || Failure::no(Code::NotSaved, "The result is too scattered to be saved");
    is_saved.then_some(()).ok_or_else(too_many)
}

async fn scan(
    query: &Query,
    selected: &Selected,
    reading: &Reading,
    executor: &dyn Executor,
) -> Result<Vec<Hit>, Failure> {
    let mut hits = Vec::new();
    let mut keys = 0;
    let mut cards = Cards {
        dates: reading.cards(card::DATES),
        threads: reading.cards(card::THREAD),
        envelopes: reading.cards(card::ENVELOPE),
        scratch: Vec::new(),
        octets: 0,
    };
    for index in 0..selected.numbering().len() {
        keys += query.keys;
        if keys >= KEYS_PER_TURN {
            keys = 0;
            executor.yield_now().await;
        }
        let Some(message) = selected.message(index) else { continue };
        let subject = Subject { query, selected, executor, message: &message };
        if subject.matches(reading, &mut cards).await? {
            hits.push(Hit { index, uid: message.uid, mod_seq: message.mod_seq });
        }
    }
    Ok(hits)
}

/// The cards of a mailbox that SEARCH reads.
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
        loop {
            match self.query.test(self.message, self.selected, &known) {
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

fn highest<'h>(hits: impl IntoIterator<Item = &'h Hit>) -> Option<ModSeq> {
    hits.into_iter().map(|hit| hit.mod_seq).max()
}

/// RFC 4731 3.1, and RFC 7162 3.1.10 on the mod-sequence that goes with each result option.
fn tell_extended(
    session: &mut Session,
    search: &Search<'_>,
    tag: &str,
    returns: SearchReturn,
    with_mod_seq: bool,
    hits: &[Hit],
) {
    let (first, last) = (hits.first(), hits.last());
    let mod_seq = match returns {
        SearchReturn { all: false, count: false, min, max, .. } if min || max => {
            highest(first.filter(|_| min).into_iter().chain(last.filter(|_| max)))
        }
        _ => highest(hits),
    };
    let all: Vec<u32> = hits.iter().map(|hit| hit.number(search.uid)).collect();
    let result = SearchResult {
        min: first.filter(|_| returns.min).map(|hit| hit.number(search.uid)),
        max: last.filter(|_| returns.max).map(|hit| hit.number(search.uid)),
        all: returns.all.then_some(&all),
        count: returns.count.then_some(hits.len() as u32),
        mod_seq: mod_seq.filter(|_| with_mod_seq),
    };
    session.writer().esearch(tag, search.uid, &result);
}
