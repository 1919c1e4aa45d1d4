//! Parts of a message without their transfer encoding, for BINARY (RFC 3516) and URLFETCH (RFC
//! 5524).
//!
//! The size of what is decoded is announced before it, and is not known before, nor is whether it
//! has NUL: a part is read twice, in pieces, and neither time kept. A part that is not encoded is a
//! range of the message.

use std::ops::Range;

use bytes::Bytes;

use super::{
    reader::MessageReader,
    reply::{Failure, Leave},
    state::Session,
};
use crate::protocol::{
    imap::{
        Code,
        message::fetch::{Partial, Section, SectionPart},
    },
    mime::{PartKind, TransferDecoder},
};

/// A part of a message, as BINARY means it.
pub(super) struct BinaryPart {
    content: Content,
    decoder: TransferDecoder,
    /// It says that there may be any octets in it.
    is_binary: bool,
}

/// What is decoded.
#[derive(Clone)]
enum Content {
    /// Of the message.
    Range(Range<u64>),
    /// Fields of a header.
    Fields(Bytes),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Content::Range(range) => range.end.saturating_sub(range.start),
            Content::Fields(fields) => fields.len() as u64,
        }
    }

    /// All but the first `octets`.
    fn skip(&mut self, octets: u64) {
        let octets = octets.min(self.size());
        match self {
            Content::Range(range) => range.start += octets,
            Content::Fields(fields) => drop(fields.split_to(octets as usize)),
        }
    }

    /// The next piece; empty at the end.
    async fn next(&mut self, reader: &MessageReader<'_>) -> Result<Bytes, Failure> {
        match self {
            Content::Range(range) => {
                let piece = reader.piece(range).await?;
                range.start += piece.len() as u64;
                Ok(piece)
            }
            Content::Fields(fields) => Ok(std::mem::take(fields)),
        }
    }
}

/// What BINARY returns of a part.
pub(super) struct Measured {
    /// Octets before those that are wanted.
    skipped: u64,
    pub size: u64,
    pub has_nul: bool,
    /// Line ends, if the part is encoded.
    pub lines: u64,
    /// Whether no octet has its highest bit set, if the part is encoded.
    pub is_ascii: bool,
}

impl BinaryPart {
    /// What `section` means; `None` if there is no such part.
    ///
    /// # Errors
    /// `UNKNOWN-CTE` if its encoding is unknown.
    pub(super) async fn find(
        reader: &mut MessageReader<'_>,
        section: &Section<'_>,
    ) -> Result<Option<BinaryPart>, Failure> {
        let Some(range) = reader.locate(section).await? else { return Ok(None) };
        let content = match reader.fields(section, range.clone()).await? {
            Some(fields) => Content::Fields(fields.into()),
            None => Content::Range(range),
        };
        // Headers are not encoded, nor are composite parts (RFC 2045 6.4), and with them the
        // message itself.
        let encoding = match (&section.part, reader.summary().await?.part(&section.path)) {
            (_, None) => return Ok(None),
            (SectionPart::Full, Some(Some(part))) if part.kind() == PartKind::Leaf => {
                part.encoding()
            }
            _ => b"8bit",
        };
        let unknown = || Failure::no(Code::UnknownCte, "The encoding of the part is not known");
        let decoder = TransferDecoder::known(encoding).ok_or_else(unknown)?;
        let is_binary = encoding.eq_ignore_ascii_case(b"binary");
        Ok(Some(BinaryPart { content, decoder, is_binary }))
    }

    /// Octets of it, decoded.
    pub(super) async fn size(
        &self,
        session: &Session,
        reader: &MessageReader<'_>,
    ) -> Result<u64, Failure> {
        match self.decoder {
            TransferDecoder::Identity => Ok(self.content.size()),
            _ => Ok(self.measure(session, reader, None).await?.size),
        }
    }

    /// Finds out how much there is of what `partial` asks for, which counts decoded octets (RFC
    /// 3516 4.2), and whether it has NUL. No more is decoded than needed.
    pub(super) async fn measure(
        &self,
        session: &Session,
        reader: &MessageReader<'_>,
        partial: Option<Partial>,
    ) -> Result<Measured, Failure> {
        let offset = partial.map_or(0, |partial| partial.offset);
        let end = partial.map_or(u64::MAX, |it| it.offset.saturating_add(it.count));
        let (mut decoded, mut has_nul, mut lines, mut is_ascii) = (0, self.is_binary, 0, true);
        let is_encoded = !matches!(self.decoder, TransferDecoder::Identity);
        let mut decoding = self.decode();
        if !is_encoded {
            decoded = offset.min(self.content.size());
            decoding.rest.skip(offset);
        }
        while decoded < end
            && (is_encoded || !has_nul)
            && let Some(octets) = decoding.next(session, reader).await?
        {
            let at = |place: u64| {
                let place = usize::try_from(place.saturating_sub(decoded)).unwrap_or(usize::MAX);
                place.min(octets.len())
            };
            let wanted = octets.get(at(offset)..at(end)).unwrap_or_default();
            has_nul |= memchr::memchr(0, wanted).is_some();
            decoded += octets.len() as u64;
            lines += memchr::memchr_iter(b'\n', octets).count() as u64;
            is_ascii &= octets.is_ascii();
        }
        if !is_encoded {
            decoded = self.content.size();
        }
        let decoded = decoded.min(end);
        let skipped = offset.min(decoded);
        Ok(Measured { skipped, size: decoded - skipped, has_nul, lines, is_ascii })
    }

    /// Whether the part is the same without its encoding.
    pub(super) fn is_identity(&self) -> bool {
        matches!(self.decoder, TransferDecoder::Identity)
    }

    /// Appends what was measured to the output, after its announcement: from then on a failure can
    /// only end the session.
    pub(super) async fn stream(
        &self,
        session: &mut Session,
        reader: &MessageReader<'_>,
        measured: &Measured,
    ) -> Result<(), Failure> {
        let (mut skip, mut left) = (measured.skipped, measured.size);
        let mut decoding = self.decode();
        if let TransferDecoder::Identity = self.decoder {
            decoding.rest.skip(skip);
            skip = 0;
        }
        while left > 0 {
            let octets = decoding.next(session, reader).await;
            let Ok(Some(octets)) = octets else { return Err(Failure::Leave(Leave::Lost)) };
            let skipped = skip.min(octets.len() as u64) as usize;
            skip -= skipped as u64;
            let octets = octets.get(skipped..).unwrap_or_default();
            let wanted = usize::try_from(left).map_or(octets.len(), |left| left.min(octets.len()));
            let octets = octets.get(..wanted).unwrap_or_default();
            left -= octets.len() as u64;
            session.channel.connection.output().extend_from_slice(octets);
            session.channel.flush_if_full().await?;
        }
        Ok(())
    }

    fn decode(&self) -> Decoding {
        let (decoder, rest) = (self.decoder.clone(), self.content.clone());
        Decoding { decoder, rest, is_at_end: false, octets: Vec::new() }
    }
}

/// A part while it is read and decoded.
struct Decoding {
    decoder: TransferDecoder,
    rest: Content,
    is_at_end: bool,
    /// Of the last piece.
    octets: Vec<u8>,
}

impl Decoding {
    /// The next octets, maybe none; `None` at the end.
    async fn next(
        &mut self,
        session: &Session,
        reader: &MessageReader<'_>,
    ) -> Result<Option<&[u8]>, Failure> {
        self.octets.clear();
        if self.is_at_end {
            return Ok(None);
        }
        let piece = self.rest.next(reader).await?;
        self.decoder.push(&piece, &mut self.octets);
        if self.rest.size() == 0 {
            self.is_at_end = true;
            self.decoder.finish(&mut self.octets);
        }
        session.channel.shard.executor.yield_now().await;
        Ok(Some(&self.octets))
    }
}
