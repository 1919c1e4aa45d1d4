//! Reading on: whoever reads one entry after the other gets those that follow in the file with the
//! same read.
//!
//! Held by the reader, for one command of a session. What was read ahead only saves reads: an entry
//! that it does not hold whole and intact, as one that was still being written, is read by itself.

use std::cell::RefCell;

use bytes::Bytes;

use super::{
    ENTRY_HEADER, EntryHeader, Log, Place,
    entry::{decode_header, decode_payload},
    failed,
};
use crate::{model::Lsn, store::error::StoreError};

/// Most bytes read at once, unless one entry has more. They are still in the processor's cache when
/// the last of them are sent.
const AHEAD_MAX: usize = 256 * 1024;

/// Entries at most this many bytes apart are read together.
const GAP_MAX: u64 = 16 * 1024;

/// How much more is read at a time, as long as enough of it is used.
const GROWTH: usize = 4;

/// A part of a segment's file.
#[derive(Default)]
pub struct Ahead {
    span: RefCell<Span>,
    /// The entry taken last, and how often the log had been reopened: it may be wanted again, for
    /// another part of the message.
    latest: RefCell<Option<(Lsn, u64, EntryHeader, Bytes)>>,
}

#[derive(Default)]
struct Span {
    /// The segment's epoch, and how often the log had been reopened.
    of: (u64, u64),
    /// Offset in the file of the first byte.
    start: u64,
    bytes: Bytes,
    /// Offset behind the entry taken last.
    next: u64,
    /// Bytes of entries that were taken.
    used: usize,
}

impl Span {
    /// `len` bytes at `offset`, if they are here.
    fn take(&mut self, of: (u64, u64), offset: u64, len: usize) -> Option<Bytes> {
        let start = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let end = start.checked_add(len)?;
        if of != self.of || end > self.bytes.len() {
            return None;
        }
        self.next = offset + len as u64;
        self.used += len;
        Some(self.bytes.slice(start..end))
    }

    /// How many bytes to read for an entry of `len` at `offset`.
    fn plan(&self, of: (u64, u64), offset: u64, len: usize) -> usize {
        let follows = of == self.of && (self.next..=self.next + GAP_MAX).contains(&offset);
        match follows && self.used * GROWTH >= self.bytes.len() {
            true => (self.bytes.len() * GROWTH).min(AHEAD_MAX).max(len),
            false => len,
        }
    }
}

impl Log {
    /// As [`Log::read_sized`], of entries in order.
    pub async fn read_on(
        &self,
        lsn: Lsn,
        entry_len: u32,
        ahead: &Ahead,
    ) -> Result<(EntryHeader, Bytes), StoreError> {
        let generation = self.generation();
        if let Some((latest, of, header, payload)) = &*ahead.latest.borrow()
            && (*latest, *of) == (lsn, generation)
        {
            return Ok((*header, payload.clone()));
        }
        let segment = loop {
            match self.find(lsn)? {
                Place::Memory(header, payload) => return Ok((header, payload)),
                Place::Flight => self.landed(lsn).await,
                Place::Disk(segment) => break segment,
            }
        };
        let (inner, len) = (&*self.0, (entry_len as usize).max(ENTRY_HEADER));
        let offset = segment.locate(&*inner.device, &inner.index_cache, lsn).await?;
        let of = (segment.epoch, generation);
        let known = ahead.span.borrow_mut().take(of, offset, len);
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let opens = segment.file.borrow().is_none();
                let file = segment.open(&*inner.device).await?;
                let wanted = ahead.span.borrow().plan(of, offset, len);
                let read = file.read_at(offset, wanted).await.map_err(failed);
                self.note_opened(opens, segment);
                let bytes = Bytes::from(read.unwrap_or_default());
                let span = &mut *ahead.span.borrow_mut();
                *span = Span { of, start: offset, bytes, ..Span::default() };
                span.take(of, offset, len).unwrap_or_default()
            }
        };
        let entry = decode_header(&bytes, lsn).and_then(|stored| {
            let len = decode_payload(&bytes, &stored)?.len();
            Ok((stored.header, bytes.slice(ENTRY_HEADER..ENTRY_HEADER + len)))
        });
        match entry {
            Ok((header, payload)) => {
                *ahead.latest.borrow_mut() = Some((lsn, generation, header, payload.clone()));
                Ok((header, payload))
            }
            Err(_) => {
                ahead.span.take();
                self.read_sized(lsn, entry_len).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_read_as_long_as_it_is_used() {
        let mut span = Span::default();
        let mut read = |offset: u64, len: usize| {
            if span.take((1, 0), offset, len).is_some() {
                return 0;
            }
            let wanted = span.plan((1, 0), offset, len);
            let bytes = Bytes::from(vec![0; wanted]);
            span = Span { of: (1, 0), start: offset, bytes, ..Span::default() };
            assert_eq!(span.take((1, 0), offset, len).unwrap().len(), len);
            wanted
        };
        // (offset, bytes, bytes read)
        for (offset, len, expected) in [
            (1_000_000, 1_000, 1_000),
            (1_001_000, 1_000, 4_000),
            (1_002_000, 3_000, 0),
            (1_005_000, 1_000, 16_000),
            (1_008_000, 1_000, 0),
            // Too little of it was used.
            (1_021_000, 1_000, 1_000),
            (1_022_000, 1_000, 4_000),
            (1_023_000, 1_000, 0),
            // Too far away; then back.
            (1_060_000, 1_000, 1_000),
            (1_000_000, 1_000, 1_000),
            (1_001_000, 100_000, 100_000),
            (1_101_000, 1_000, AHEAD_MAX),
            (1_102_000, AHEAD_MAX + 1, AHEAD_MAX + 1),
        ] {
            assert_eq!(read(offset, len), expected, "{offset}");
        }
        assert!(span.take((2, 0), 1_102_000, 1).is_none());
        assert!(span.take((1, 1), 1_102_000, 1).is_none());
    }
}
