//! Parts of a message without their transfer encoding, for BINARY (RFC 3516) and URLFETCH (RFC
//! 5524).
//!
//! The size of what is decoded is announced before it, and is not known before: an encoded part is
//! read twice, in pieces, and neither time kept. A part that is not encoded is a range of the
//! message.

use std::ops::Range;

use super::{
    reader::MessageReader,
    reply::{Failure, Leave},
    state::Session,
};
use crate::protocol::{
    imap::{Code, message::fetch::Partial},
    mime::{PartKind, SectionText, TransferDecoder},
};

/// A part of a message, as BINARY means it.
pub(super) struct BinaryPart {
    range: Range<u64>,
    decoder: TransferDecoder,
    /// It says that there may be any octets in it.
    is_binary: bool,
}

/// What BINARY returns of a part.
pub(super) struct Measured {
    /// Octets before those that are wanted.
    skipped: u64,
    pub size: u64,
    pub has_nul: bool,
    /// Line ends, if the part is encoded.
    pub lines: u64,
}

impl BinaryPart {
    /// The part at `path`, the message itself if that is empty; `None` if there is none.
    ///
    /// # Errors
    /// `UNKNOWN-CTE` if its encoding is unknown.
    pub(super) async fn find(
        reader: &mut MessageReader<'_>,
        path: &[u32],
    ) -> Result<Option<BinaryPart>, Failure> {
        let summary = reader.summary().await?;
        let (Some(part), Some(range)) =
            (summary.part(path), summary.section(path, SectionText::Full))
        else {
            return Ok(None);
        };
        // Composite ones are not encoded (RFC 2045 6.4), and with them the message itself.
        let encoding = match part.filter(|part| part.kind() == PartKind::Leaf) {
            Some(part) => part.encoding(),
            // Any of its parts may be binary.
            None => b"binary",
        };
        let unknown = || Failure::no(Code::UnknownCte, "The encoding of the part is not known");
        let decoder = TransferDecoder::known(encoding).ok_or_else(unknown)?;
        let is_binary = encoding.eq_ignore_ascii_case(b"binary");
        Ok(Some(BinaryPart { range, decoder, is_binary }))
    }

    /// Finds out how much there is of what `partial` asks for, which counts decoded octets (RFC
    /// 3516 4.2). No more is decoded than needed.
    pub(super) async fn measure(
        &self,
        session: &Session,
        reader: &MessageReader<'_>,
        partial: Option<Partial>,
    ) -> Result<Measured, Failure> {
        let offset = partial.map_or(0, |partial| partial.offset);
        let end = partial.map_or(u64::MAX, |it| it.offset.saturating_add(it.count));
        let (mut decoded, mut has_nul, mut lines) = (0, self.is_binary, 0);
        if let TransferDecoder::Identity = self.decoder {
            decoded = self.range.end.saturating_sub(self.range.start);
        } else {
            let mut decoding = self.decode();
            while decoded < end
                && let Some(octets) = decoding.next(session, reader).await?
            {
                decoded += octets.len() as u64;
                has_nul |= memchr::memchr(0, octets).is_some();
                lines += memchr::memchr_iter(b'\n', octets).count() as u64;
            }
        }
        let decoded = decoded.min(end);
        let skipped = offset.min(decoded);
        Ok(Measured { skipped, size: decoded - skipped, has_nul, lines })
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
            decoding.rest.start += skip;
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
        let (decoder, rest) = (self.decoder.clone(), self.range.clone());
        Decoding { decoder, rest, is_at_end: false, octets: Vec::new() }
    }
}

/// A part while it is read and decoded.
struct Decoding {
    decoder: TransferDecoder,
    rest: Range<u64>,
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
        let piece = reader.piece(&self.rest).await?;
        self.rest.start += piece.len() as u64;
        self.decoder.push(&piece, &mut self.octets);
        if self.rest.is_empty() {
            self.is_at_end = true;
            self.decoder.finish(&mut self.octets);
        }
        session.channel.shard.executor.yield_now().await;
        Ok(Some(&self.octets))
    }
}
