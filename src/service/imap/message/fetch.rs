//! FETCH (RFC 3501 6.4.5, 7.4.2): answers from the snapshot first, then the summary, then octets
//! straight from the log.
//!
//! Memory does not grow with the mailbox or the messages: output is sent whenever a buffer is full,
//! and bodies pass in pieces of the store's chunk size. Messages that other sessions expunge
//! meanwhile are still answered from the session's snapshot, which keeps their bodies readable.

use std::ops::Range;

use super::{
    super::{
        accounts::{CardSource, Reading},
        binary::BinaryPart,
        folder::{self, Folder},
        handler::Handler,
        reader::MessageReader,
        reply::{Done, Failure, Leave, Reply},
        resync,
        state::Session,
        sync::OwnChange,
    },
    limit::{self, Limited, part_of},
};
use crate::{
    model::{FlagAction, FlagEdit, FlagMask, FlagSet, Flags, PartitionId, Right, Rights, Uid},
    protocol::{
        imap::{
            Code, FetchResponse, Naming, ObjectId, WrittenParts,
            message::fetch::{Fetch, FetchItem, Partial, Section},
        },
        mime::{EnvelopeCard, Preview, Summary, append_without_nul, card},
    },
    store::{FlagChange, Message},
};

/// A FETCH of at least this many messages is answered from the mailbox's cards: opening a block of
/// cards costs as much as reading the entries of some ten messages.
const CARDS_FOR: usize = 16;

impl Handler for Fetch<'_> {
    async fn run(&self, session: &mut Session, _: &str) -> Reply {
        let folder = folder::selected(session, Rights::NONE).await?;
        let mut indexes = session.selected()?.indexes(self.uid, &self.set)?;
        if let Some(range) = self.partial {
            let (first, last) = range.ends;
            let size = last.abs_diff(first).saturating_add(1);
            if let Some(limit) = session.imap().limit_of_messages().filter(|it| size > *it) {
                let code = Code::MessageLimit(limit, None);
                return Err(Failure::no(code, "More messages than one command may have"));
            }
            let count = indexes.iter().map(ExactSizeIterator::len).sum();
            indexes = part_of(&indexes, range.of(count));
        }
        let limited = Limited::cut_ranges(session, &mut indexes)?;
        let asks_mod_seq = self.items.contains(&FetchItem::ModSeq);
        if asks_mod_seq || self.changed_since.is_some() {
            session.check_mod_seqs()?;
        }
        if asks_mod_seq {
            session.enable_condstore();
        }
        if let Some(since) = self.changed_since.filter(|_| self.vanished) {
            if !session.qresync() {
                return Err(Failure::bad("ENABLE QRESYNC first"));
            }
            let vanished = resync::vanished(&folder, session.selected()?, since, &self.set);
            let vanished = vanished.await?;
            session.tell_vanished(&vanished).await?;
        }
        let wanted = |message: &Message| self.changed_since.is_none_or(|it| message.mod_seq > it);
        let seen_now = set_seen(session, &folder, self, &indexes, wanted).await?;
        let reading = folder.reading();
        let keywords = session.selected()?.told().clone();
        let count: usize = indexes.iter().map(ExactSizeIterator::len).sum();
        let by_cards = count >= CARDS_FOR && !self.items.iter().any(FetchItem::has_octets);
        let mut cards = by_cards.then(|| Cards::new(&reading));
        let mut threads = reading.cards(card::THREAD);
        let mut written = WrittenParts::default();
        let partition = session.selected()?.home.partition();
        let mut trouble = None;
        // RFC 9738 3.1: from the highest UID down, if there are too many.
        let order: Box<dyn Iterator<Item = usize>> = match limited {
            None => Box::new(indexes.into_iter().flatten()),
            Some(_) => Box::new(indexes.into_iter().rev().flat_map(Iterator::rev)),
        };
        for index in order {
            // With CHANGEDSINCE there may be nothing to send for a large mailbox, and so nothing to
            // wait for.
            session.turn_of_scan(index).await;
            let Some(message) = session.selected()?.message(index) else { continue };
            if !(wanted(&message) || seen_now.binary_search(&message.uid).is_ok()) {
                continue;
            }
            let mut answer = Answer {
                reader: MessageReader::new(&reading, message),
                cards: cards.as_mut(),
                written: &mut written,
                number: index as u32 + 1,
                recent: session.selected()?.is_recent(message.uid),
                keywords: keywords.keywords(),
                tell_flags: seen_now.binary_search(&message.uid).is_ok(),
                message,
                partition,
                threads: &mut threads,
            };
            let start = (session.channel.flushes(), session.channel.connection.output().len());
            match answer.write(session, self).await {
                Ok(None) => {}
                // Of an item that it has not got.
                Ok(failure) => trouble = failure,
                Err(Failure::Leave(leave)) => return Err(Failure::Leave(leave)),
                // Nothing of it has been sent: leave this message out and go on with the others.
                Err(failure) if session.channel.flushes() == start.0 => {
                    session.channel.connection.output().truncate(start.1);
                    trouble = Some(failure);
                }
                Err(_) => return Err(Failure::Leave(Leave::Lost)),
            }
            session.channel.flush_if_full().await?;
        }
        let reply = trouble.map_or_else(|| Done::ok("FETCH completed"), Err);
        limit::answer(session, limited, reply)
    }
}

/// Sets `\Seen` on the messages about to be read (RFC 3501 6.4.5), all at once. Returns the UIDs on
/// which it was set: their FETCH responses include the flags, and no other response does.
async fn set_seen(
    session: &mut Session,
    folder: &Folder,
    fetch: &Fetch<'_>,
    indexes: &[Range<usize>],
    wanted: impl Fn(&Message) -> bool,
) -> Result<Vec<Uid>, Failure> {
    let selected = session.selected()?;
    // RFC 4314 4: without the right, messages are read and stay unseen.
    let may_set = !selected.read_only && folder.rights().contain(Right::Seen);
    if !may_set || !fetch.items.iter().any(FetchItem::sets_seen) {
        return Ok(Vec::new());
    }
    let mut reads = fetch.items.iter().filter(|it| it.sets_seen());
    let only_binary = reads.all(|it| matches!(it, FetchItem::Binary { .. }));
    let reading = folder.reading();
    let mut unseen: Vec<Uid> = Vec::new();
    for index in indexes.iter().cloned().flatten() {
        session.turn_of_scan(index).await;
        let message = selected.message(index).filter(&wanted);
        let message = message.filter(|message| !message.flags.system.contains(Flags::SEEN));
        let Some(message) = message else { continue };
        // RFC 3516 4.3: nothing of it is sent, so it is not read.
        if only_binary && !has_known_part(MessageReader::new(&reading, message), fetch).await {
            continue;
        }
        unseen.push(message.uid);
    }
    if unseen.is_empty() {
        return Ok(unseen);
    }
    let change = FlagChange::add(Flags::SEEN, Vec::new());
    // A full or broken disk must not prevent reading: then \Seen is not set.
    let Ok(outcome) = folder.store_flags(session.selected()?, &unseen, change, None).await else {
        return Ok(Vec::new());
    };
    let uids: Vec<Uid> = outcome.updated.iter().map(|(uid, _)| *uid).collect();
    let flags = FlagSet { system: Flags::SEEN, ..FlagSet::default() };
    let edit = FlagEdit { action: FlagAction::Add, flags, within: FlagMask::ALL };
    session.tell_changes_but(fetch.uid, OwnChange { uids: &uids, edit, mod_seqs: false }).await?;
    Ok(uids)
}

/// The cards of a mailbox that FETCH reads.
struct Cards {
    envelopes: CardSource,
    structures: CardSource,
    previews: CardSource,
    /// Buffer for the structure of the current message.
    structure: Summary,
}

impl Cards {
    fn new(reading: &Reading) -> Cards {
        Cards {
            envelopes: reading.cards(card::ENVELOPE),
            structures: reading.cards(card::STRUCTURE),
            previews: reading.cards(card::PREVIEW),
            structure: Summary::spent(),
        }
    }
}

/// One message's FETCH response being written.
struct Answer<'a> {
    reader: MessageReader<'a>,
    /// Set if the items are answered from cards.
    cards: Option<&'a mut Cards>,
    written: &'a mut WrittenParts,
    number: u32,
    message: Message,
    /// Where it is kept.
    partition: PartitionId,
    threads: &'a mut CardSource,
    recent: bool,
    keywords: &'a [String],
    /// Send FLAGS even if not requested: this command changed them.
    tell_flags: bool,
}

impl Answer<'_> {
    /// Returns why it lacks an item: a part of a transfer encoding that is not known is no reason
    /// to withhold the others.
    async fn write(
        &mut self,
        session: &mut Session,
        fetch: &Fetch<'_>,
    ) -> Result<Option<Failure>, Failure> {
        let (mut lacking, mut has_items) = (None, self.tell_flags);
        let (condstore, uid_only) = (session.condstore(), session.uid_only());
        // RFC 7162 3.2.4: it tells of a change, too.
        let adds_uid = self.tell_flags
            && session.changes_have_uids()
            && !fetch.items.contains(&FetchItem::Uid);
        let out = session.channel.connection.output();
        let naming = match uid_only {
            true => Naming::Uid,
            false if adds_uid => Naming::Both,
            false => Naming::Number,
        };
        let mut response = FetchResponse::about(out, naming, self.number, self.message.uid);
        if self.tell_flags {
            if !fetch.items.contains(&FetchItem::Flags) {
                self.flags(&mut response, out);
            }
            if condstore && !fetch.items.contains(&FetchItem::ModSeq) {
                response.mod_seq(out, self.message.mod_seq);
            }
        }
        for item in &fetch.items {
            let out = session.channel.connection.output();
            match item {
                // RFC 9586 3.3: the response begins with it.
                FetchItem::Uid if uid_only && fetch.uid_is_implied => {}
                FetchItem::Uid => response.uid(out, self.message.uid),
                FetchItem::Flags => self.flags(&mut response, out),
                FetchItem::ModSeq => response.mod_seq(out, self.message.mod_seq),
                FetchItem::Rfc822Size => response.size(out, self.message.body.size),
                FetchItem::InternalDate => {
                    response.internal_date(out, self.message.internal_date);
                }
                FetchItem::EmailId => {
                    let id = ObjectId::Email(self.partition, self.message.body.lsn);
                    response.email_id(out, id);
                }
                FetchItem::ThreadId => {
                    let root = self.reader.thread_root(self.threads).await?;
                    let alone = ObjectId::Alone(self.partition, self.message.body.lsn);
                    let id = root.map_or(alone, ObjectId::Thread);
                    response.thread_id(session.channel.connection.output(), id);
                }
                FetchItem::SaveDate => response.save_date(out, self.message.save_date),
                item => match self.write_content(session, &mut response, item).await {
                    Err(failure) if is_unknown_encoding(&failure) => {
                        lacking = Some(failure);
                        continue;
                    }
                    written => written?,
                },
            }
            has_items |= !(fetch.uid_is_implied && *item == FetchItem::Uid);
            // A hundred items may each be as long as the longest header.
            session.channel.flush_if_full().await?;
        }
        if let Some(failure) = lacking.take_if(|_| !has_items) {
            return Err(failure);
        }
        response.end(session.channel.connection.output());
        Ok(lacking)
    }

    fn flags(&self, response: &mut FetchResponse, out: &mut Vec<u8>) {
        response.flags(out, self.message.flags, self.keywords, self.recent);
    }

    /// Items for which the summary or the message has to be read.
    async fn write_content(
        &mut self,
        session: &mut Session,
        response: &mut FetchResponse,
        item: &FetchItem<'_>,
    ) -> Result<(), Failure> {
        match item {
            FetchItem::Envelope => {
                if let Some(cards) = &mut self.cards {
                    if !cards.envelopes.is_at_hand(&self.message) {
                        cards.envelopes.seek(&self.message).await?;
                    }
                    if let Some(card) = EnvelopeCard::decode(cards.envelopes.card()) {
                        response.envelope(session.channel.connection.output(), &card.envelope());
                        return Ok(());
                    }
                }
                let summary = self.reader.summary().await?;
                response.envelope(session.channel.connection.output(), &summary.envelope());
            }
            FetchItem::Body | FetchItem::BodyStructure => {
                let write = match item {
                    FetchItem::Body => FetchResponse::body,
                    _ => FetchResponse::body_structure,
                };
                if self.structure_card().await?.is_some()
                    && let Some(cards) = &self.cards
                {
                    let out = session.channel.connection.output();
                    write(response, out, &cards.structure, self.written);
                    return Ok(());
                }
                let summary = self.reader.summary().await?;
                write(response, session.channel.connection.output(), summary, self.written);
            }
            FetchItem::Preview => {
                if let Some(cards) = &mut self.cards {
                    if !cards.previews.is_at_hand(&self.message) {
                        cards.previews.seek(&self.message).await?;
                    }
                    if let Ok(text) = card::preview(cards.previews.card()) {
                        response.preview(session.channel.connection.output(), text);
                        return Ok(());
                    }
                }
                let text = self.preview().await?;
                response.preview(session.channel.connection.output(), &text);
            }
            FetchItem::Rfc822 => self.rfc822(session, response, "RFC822").await?,
            FetchItem::Rfc822Header => self.rfc822(session, response, "RFC822.HEADER").await?,
            FetchItem::Rfc822Text => self.rfc822(session, response, "RFC822.TEXT").await?,
            FetchItem::Section { section, partial, .. } => {
                self.section(session, response, section, *partial).await?;
            }
            FetchItem::Binary { section, partial, .. } => {
                self.binary(session, response, section, *partial).await?;
            }
            FetchItem::BinarySize(section) => {
                let size = match BinaryPart::find(&mut self.reader, section).await? {
                    Some(part) => part.size(session, &self.reader).await?,
                    None => 0,
                };
                response.binary_size(session.channel.connection.output(), section, size);
            }
            FetchItem::Uid
            | FetchItem::Flags
            | FetchItem::ModSeq
            | FetchItem::Rfc822Size
            | FetchItem::InternalDate
            | FetchItem::SaveDate
            | FetchItem::EmailId
            | FetchItem::ThreadId => {}
        }
        Ok(())
    }

    /// The first words of the message, empty if it has none (RFC 8970 3.2), without its card.
    async fn preview(&mut self) -> Result<String, Failure> {
        let summary = self.reader.summary().await?;
        if let Some(text) = summary.preview() {
            return Ok(text.to_owned());
        }
        let Some(source) = Preview::of(summary) else { return Ok(String::new()) };
        let (mut octets, mut rest) = (Vec::new(), source.range.clone());
        while !rest.is_empty() {
            let piece = self.reader.piece(&rest).await?;
            octets.extend_from_slice(&piece);
            rest.start += piece.len() as u64;
        }
        Ok(source.text(&octets))
    }

    /// The message's structure, if the items are answered from cards and there is one.
    async fn structure_card(&mut self) -> Result<Option<&Summary>, Failure> {
        let Some(cards) = &mut self.cards else { return Ok(None) };
        if !cards.structures.is_at_hand(&self.message) {
            cards.structures.seek(&self.message).await?;
        }
        let is_there = cards.structure.decode_again(cards.structures.card()).is_ok();
        Ok(is_there.then_some(&cards.structure))
    }

    /// The three items that predate sections: RFC822, RFC822.HEADER and RFC822.TEXT.
    async fn rfc822(
        &mut self,
        session: &mut Session,
        response: &mut FetchResponse,
        name: &str,
    ) -> Result<(), Failure> {
        let all = 0..self.message.body.size;
        let range = match name {
            "RFC822" => all,
            "RFC822.HEADER" => 0..self.reader.summary().await?.header_size(),
            _ => self.reader.summary().await?.header_size()..all.end,
        };
        let announce = |out: &mut Vec<u8>, size| response.rfc822_literal(out, name, size);
        self.stream(session, range, announce).await
    }

    async fn section(
        &mut self,
        session: &mut Session,
        response: &mut FetchResponse,
        section: &Section<'_>,
        partial: Option<Partial>,
    ) -> Result<(), Failure> {
        let origin = partial.map(|partial| partial.offset);
        let Some(range) = self.reader.locate(section).await? else {
            response.section(session.channel.connection.output(), section, origin, None);
            return Ok(());
        };
        if let Some(fields) = self.reader.fields(section, range.clone()).await? {
            session.channel.shard.executor.yield_now().await;
            let cut = clip(0..fields.len() as u64, partial);
            let text = fields.get(cut.start as usize..cut.end as usize).unwrap_or_default();
            let out = session.channel.connection.output();
            response.section_literal(out, section, origin, text.len() as u64);
            append_without_nul(text, out);
            return Ok(());
        }
        let announce =
            |out: &mut Vec<u8>, size| response.section_literal(out, section, origin, size);
        self.stream(session, clip(range, partial), announce).await
    }

    /// BINARY: a part without its transfer encoding.
    async fn binary(
        &mut self,
        session: &mut Session,
        response: &mut FetchResponse,
        section: &Section<'_>,
        partial: Option<Partial>,
    ) -> Result<(), Failure> {
        let origin = partial.map(|partial| partial.offset);
        let Some(part) = BinaryPart::find(&mut self.reader, section).await? else {
            response.no_binary(session.channel.connection.output(), section, origin);
            return Ok(());
        };
        let measured = part.measure(session, &self.reader, partial).await?;
        let announced = (measured.size, measured.has_nul);
        response.binary_literal(session.channel.connection.output(), section, origin, announced);
        part.stream(session, &self.reader, &measured).await
    }

    /// Streams a literal from the log. The first piece is read before the literal is announced:
    /// until then the response can be withdrawn; after that a failure can only end the session.
    async fn stream(
        &mut self,
        session: &mut Session,
        range: Range<u64>,
        announce: impl FnOnce(&mut Vec<u8>, u64),
    ) -> Result<(), Failure> {
        let mut piece = self.reader.piece(&range).await?;
        announce(session.channel.connection.output(), range.end.saturating_sub(range.start));
        let mut rest = range;
        loop {
            append_without_nul(&piece, session.channel.connection.output());
            rest.start += piece.len() as u64;
            session.channel.flush_if_full().await?;
            if rest.is_empty() {
                return Ok(());
            }
            let Ok(next) = self.reader.piece(&rest).await else {
                return Err(Failure::Leave(Leave::Lost));
            };
            piece = next;
        }
    }
}

/// Whether one of the parts that BINARY asks for has an encoding that is known.
async fn has_known_part(mut reader: MessageReader<'_>, fetch: &Fetch<'_>) -> bool {
    for item in &fetch.items {
        let FetchItem::Binary { section, peek: false, .. } = item else { continue };
        match BinaryPart::find(&mut reader, section).await {
            Err(failure) if is_unknown_encoding(&failure) => {}
            _ => return true,
        }
    }
    false
}

/// It is found before anything of the item is written.
fn is_unknown_encoding(failure: &Failure) -> bool {
    matches!(failure, Failure::No { code: Some(Code::UnknownCte), .. })
}

/// `range` cut to what a partial fetch asks for (RFC 3501 6.4.5).
fn clip(range: Range<u64>, partial: Option<Partial>) -> Range<u64> {
    let Some(partial) = partial else { return range };
    let start = range.start.saturating_add(partial.offset).min(range.end);
    start..start.saturating_add(partial.count).min(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // they are ranges
    fn parts_of_what_a_set_means() {
        let ranges = [2..5, 7..8, 10..20];
        for (positions, expected) in [
            (0..1, vec![2..3]),
            (1..4, vec![3..5, 7..8]),
            (2..6, vec![4..5, 7..8, 10..12]),
            (4..14, vec![10..20]),
            (3..3, vec![]),
            (14..14, vec![]),
        ] {
            assert_eq!(part_of(&ranges, positions.clone()), expected, "{positions:?}");
        }
    }

    #[test]
    fn partials_are_clipped() {
        type Case = (Range<u64>, Option<(u64, u64)>, Range<u64>);
        const CASES: &[Case] = &[
            (10..20, None, 10..20),
            (10..20, Some((0, 5)), 10..15),
            (10..20, Some((5, 100)), 15..20),
            (10..20, Some((10, 1)), 20..20),
            (10..20, Some((u64::MAX, u64::MAX)), 20..20),
            (0..0, Some((0, 1)), 0..0),
        ];
        for (range, partial, expected) in CASES {
            let partial = partial.map(|(offset, count)| Partial { offset, count });
            assert_eq!(clip(range.clone(), partial), *expected, "{range:?} {partial:?}");
        }
    }
}
