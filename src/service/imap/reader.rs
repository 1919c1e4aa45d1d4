//! Reads one stored message: its summary at most once, its octets in pieces.
//!
//! Used by FETCH, SEARCH and CATENATE. Holds no body bytes.

use std::ops::Range;

use bytes::Bytes;

use super::{
    accounts::{CardSource, Reading},
    reply::Failure,
};
use crate::{
    protocol::{
        imap::{
            Code,
            message::fetch::{Section, SectionPart},
        },
        mime::{
            HeaderFilter, SectionText, Summarizer, Summary,
            card::{self, ThreadCard},
            filter_header,
        },
    },
    store::{BODY_CHUNK, Message},
};

/// A longer header is cut to this where it has to be in memory as a whole (HEADER.FIELDS, and
/// header keys of SEARCH).
const HEADER_MAX: u64 = card::HEADER_MAX;

pub(in crate::service::imap) struct MessageReader<'a> {
    reading: &'a Reading,
    message: Message,
    summary: Option<Summary>,
}

impl<'a> MessageReader<'a> {
    pub(in crate::service::imap) fn new(
        reading: &'a Reading,
        message: Message,
    ) -> MessageReader<'a> {
        MessageReader { reading, message, summary: None }
    }

    pub(in crate::service::imap) async fn summary(&mut self) -> Result<&Summary, Failure> {
        if self.summary.is_none() {
            let bytes = self.reading.summary(&self.message).await?;
            let summary = match Summary::decode(&bytes) {
                Ok(summary) => summary,
                // Unreadable or of a later format: the summary is made again from the message.
                Err(_) => self.summarize().await?,
            };
            return Ok(self.summary.insert(summary));
        }
        self.summary.as_ref().ok_or_else(unreadable)
    }

    /// The hash of the message that began the thread (RFC 8474 5.2), from the message's card in
    /// `cards` or from its header.
    pub(crate) async fn thread_root(
        &mut self,
        cards: &mut CardSource,
    ) -> Result<Option<u64>, Failure> {
        if !cards.is_at_hand(&self.message) {
            cards.seek(&self.message).await?;
        }
        if let Ok(thread) = ThreadCard::decode(cards.card()) {
            return Ok(thread.root());
        }
        let size = self.summary().await?.header_size();
        let (header, mut thread) = (self.header(0..size).await?, Vec::new());
        card::write_thread_of_header(&header, &mut thread);
        Ok(ThreadCard::decode(&thread).ok().and_then(|thread| thread.root()))
    }

    /// The next piece of `range`; empty only if `range` is. Pieces end where the store's chunks do,
    /// so that no chunk is read and checked twice.
    pub(in crate::service::imap) async fn piece(
        &self,
        range: &Range<u64>,
    ) -> Result<Bytes, Failure> {
        let in_chunk = BODY_CHUNK as u64 - range.start % BODY_CHUNK as u64;
        let len = range.end.saturating_sub(range.start).min(in_chunk) as usize;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let piece = self.reading.octets(&self.message, range.start, len).await?;
        if piece.is_empty() { Err(unreadable()) } else { Ok(piece) }
    }

    /// Reads `range` into memory, at most [`HEADER_MAX`] octets: for headers only.
    pub(in crate::service::imap) async fn header(
        &self,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Failure> {
        let mut rest = range.start..range.end.min(range.start.saturating_add(HEADER_MAX));
        let mut header = Vec::new();
        while !rest.is_empty() {
            let piece = self.piece(&rest).await?;
            header.extend_from_slice(&piece);
            rest.start += piece.len() as u64;
        }
        Ok(header)
    }

    /// The range of a section in the message, before header fields are selected; `None` if there is
    /// no such part.
    pub(crate) async fn locate(
        &mut self,
        section: &Section<'_>,
    ) -> Result<Option<Range<u64>>, Failure> {
        let what = match section.part {
            SectionPart::Full if section.path.is_empty() => {
                return Ok(Some(0..self.message.body.size));
            }
            SectionPart::Full => SectionText::Full,
            SectionPart::Header
            | SectionPart::HeaderFields(_)
            | SectionPart::HeaderFieldsNot(_) => SectionText::Header,
            SectionPart::Text => SectionText::Text,
            SectionPart::Mime => SectionText::Mime,
        };
        Ok(self.summary().await?.section(&section.path, what))
    }

    /// The fields that a section selects of the header in `range`; `None` if it selects none by
    /// their names.
    pub(crate) async fn fields(
        &self,
        section: &Section<'_>,
        range: Range<u64>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        let (filter, names) = match &section.part {
            SectionPart::HeaderFields(names) => (HeaderFilter::Only, names),
            SectionPart::HeaderFieldsNot(names) => (HeaderFilter::Except, names),
            _ => return Ok(None),
        };
        let size = range.end.saturating_sub(range.start);
        let mut header = self.header(range).await?;
        // A header cut at the limit lacks its last CRLF and the blank line.
        if (header.len() as u64) < size {
            header.extend_from_slice(b"\r\n\r\n");
        }
        Ok(Some(filter_header(&header, filter, names)))
    }

    async fn summarize(&self) -> Result<Summary, Failure> {
        let mut summarizer = Summarizer::new();
        let mut rest = 0..self.message.body.size;
        while !rest.is_empty() {
            let piece = self.piece(&rest).await?;
            summarizer.push(&piece);
            rest.start += piece.len() as u64;
        }
        Ok(summarizer.finish())
    }
}

fn unreadable() -> Failure {
    Failure::no(Code::ServerBug, "The message cannot be read")
}
