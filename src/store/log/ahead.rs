//! Reading on: whoever reads one entry after the other gets those that follow in the file with the
//! same read.
//!
//! Held by the reader, for one command of a session. What was read ahead only saves reads: an entry
//! that it does not hold whole and intact, as one that was still being written, is read by itself.

use std::cell::{Cell, RefCell};

use bytes::Bytes;

use super::{
    ENTRY_HEADER, EntryHeader, Log, Place,
    entry::{decode_header, decode_payload},
    failed,
};
use crate::{model::Lsn, runtime::device::File, store::error::StoreError};

/// Most bytes read at once, unless one entry has more. They are still in the processor's cache when
/// the last of them are sent.
const AHEAD_MAX: usize = 256 * 1024;

/// Entries at most this many bytes apart are read together.
const GAP_MAX: u64 = 16 * 1024;

/// The device is asked to fetch so much beyond what was read, at first and at the most, and asked
/// again when a half of that is left.
const FETCHED_MIN: u64 = 512 << 10;
const FETCHED_MAX: u64 = 8 << 20;

/// How much more is read at a time, as long as enough of it is used.
const GROWTH: usize = 4;

/// A part of a segment's file.
#[derive(Default)]
pub struct Ahead {
    span: RefCell<Span>,
    /// The device was asked to fetch the file of this epoch to this offset, and this much at once.
    fetched: Cell<(u64, u64, u64)>,
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

impl Ahead {
    /// The bytes from `from` on will be read.
    fn fetch(&self, file: &dyn File, epoch: u64, from: u64) {
        let (of, end, size) = self.fetched.get();
        let end = if of == epoch { end.max(from) } else { from };
        if end - from <= size / 2 {
            let size = (2 * size).clamp(FETCHED_MIN, FETCHED_MAX);
            file.read_ahead(end, from + size - end);
            self.fetched.set((epoch, from + size, size));
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
                if wanted >= AHEAD_MAX {
                    ahead.fetch(&*file, of.0, offset + wanted as u64);
                }
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
    use std::io;

    use super::*;
    use crate::runtime::LocalFuture;

    /// A file that notes what it is asked to fetch.
    #[derive(Default)]
    struct Asked(RefCell<Vec<(u64, u64)>>);

    impl File for Asked {
        fn append(&self, _: u64, bytes: Vec<u8>) -> LocalFuture<'_, (io::Result<()>, Vec<u8>)> {
            Box::pin(async { (Ok(()), bytes) })
        }

        fn read_at(&self, _: u64, _: usize) -> LocalFuture<'_, io::Result<Vec<u8>>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn read_ahead(&self, offset: u64, len: u64) {
            self.0.borrow_mut().push((offset, len));
        }

        fn sync(&self) -> LocalFuture<'_, io::Result<()>> {
            Box::pin(async { Ok(()) })
        }

        fn len(&self) -> LocalFuture<'_, io::Result<u64>> {
            Box::pin(async { Ok(0) })
        }
    }

    #[test]
    fn more_is_fetched_as_reading_goes_on() {
        const KIB: u64 = 1024;
        let (file, ahead) = (Asked::default(), Ahead::default());
        (1..200).for_each(|n| ahead.fetch(&file, 1, n * 256 * KIB));
        let mut end = 256 * KIB;
        for (at, (offset, len)) in file.0.take().into_iter().enumerate() {
            assert_eq!(offset, end, "without gaps");
            assert!(len <= FETCHED_MAX && (at > 0 || len == FETCHED_MIN), "{len}");
            end += len;
        }
        let last = 199 * 256 * KIB;
        assert!((last + FETCHED_MAX / 2..=last + FETCHED_MAX).contains(&end), "{end}");
        // Another file, and one read from elsewhere.
        ahead.fetch(&file, 2, 0);
        ahead.fetch(&file, 2, 64 << 20);
        assert_eq!(file.0.take(), [(0, FETCHED_MAX), (64 << 20, FETCHED_MAX)]);
    }

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
