//! Compression of bodies (zstd, RFC 8878) on their way into the log, where it pays.
//!
//! Called by `write` and `read`, for one body or chunk at a time, never more than [`BODY_CHUNK`].
//! Long work is done off the shard. Contexts are big (about 1 MiB) and expensive to create, so each
//! thread keeps one for its lifetime.

use std::cell::{Cell, RefCell};

use zstd::bulk::{Compressor, Decompressor};

use super::super::format::body::BODY_CHUNK;
use crate::runtime::executor::{Executor, offload};

/// How bodies are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compression {
    /// zstd's: 1 is the fastest, 19 the smallest.
    pub level: i32,
    /// Shorter bodies are stored uncompressed, octets: they are most of the messages but few of the
    /// bytes.
    pub body_min: usize,
}

impl Default for Compression {
    fn default() -> Compression {
        Compression { level: 1, body_min: 8 * 1024 }
    }
}

/// Pieces of this size or more are compressed by another thread, and all of them at a level above
/// [`FAST_LEVEL_MAX`]: a hop is then cheaper than holding the shard (docs/performance.md).
const OFFLOAD_MIN: usize = 64 * 1024;
const FAST_LEVEL_MAX: i32 = 3;

/// Minimum saving for it to pay, as a share: one tenth.
const SAVED_MIN: usize = 10;

/// Bytes as they are in the log.
pub struct Packed {
    pub bytes: Vec<u8>,
    /// Bytes of the body that these represent; if equal to their number, they are uncompressed.
    pub raw: usize,
}

impl Packed {
    pub fn plain(bytes: Vec<u8>) -> Packed {
        Packed { raw: bytes.len(), bytes }
    }

    pub fn is_compressed(&self) -> bool {
        self.bytes.len() != self.raw
    }
}

/// Octets of bodies received, and octets written for them, since the partition was opened.
#[derive(Default)]
pub(crate) struct BodyCounters {
    pub raw: Cell<u64>,
    pub stored: Cell<u64>,
    chunks_raw: Cell<u64>,
    chunks_stored: Cell<u64>,
}

impl BodyCounters {
    pub(crate) fn count(&self, stored: u32, raw: u32) {
        self.raw.set(self.raw.get() + u64::from(raw));
        self.stored.set(self.stored.get() + u64::from(stored));
    }

    pub(crate) fn count_chunk(&self, stored: u32, raw: u32) {
        self.count(stored, raw);
        self.chunks_raw.set(self.chunks_raw.get() + u64::from(raw));
        self.chunks_stored.set(self.chunks_stored.get() + u64::from(stored));
    }

    /// Estimated bytes in the log of the chunks of a body of `size`, by what others took.
    pub(crate) fn chunks_of(&self, size: u64) -> u64 {
        let (raw, stored) = (self.chunks_raw.get(), self.chunks_stored.get());
        match raw {
            0 => size,
            raw => (u128::from(size) * u128::from(stored) / u128::from(raw)) as u64,
        }
    }
}

/// `raw` compressed if that pays, otherwise unchanged.
pub(crate) async fn pack(
    executor: &dyn Executor,
    how: Option<Compression>,
    raw: Vec<u8>,
) -> Packed {
    let Some(Compression { level, body_min }) = how else { return Packed::plain(raw) };
    if raw.len() < body_min.max(1) {
        return Packed::plain(raw);
    }
    if raw.len() < OFFLOAD_MIN && level <= FAST_LEVEL_MAX {
        return compress(raw, level);
    }
    offload(executor, move || compress(raw, level)).await
}

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `raw` as one frame, or unchanged if that saves too little or zstd fails (for lack of memory).
pub fn compress(raw: Vec<u8>, level: i32) -> Packed {
    let room = raw.len() - raw.len() / SAVED_MIN;
    let packed = COMPRESSOR.with_borrow_mut(|kept| {
        let (at, compressor) = match kept {
            Some(kept) => kept,
            None => kept.insert((level, Compressor::new(level).ok()?)),
        };
        if *at != level {
            compressor.set_compression_level(level).ok()?;
            *at = level;
        }
        // A frame that does not fit would not pay.
        let mut frame = Vec::with_capacity(room);
        compressor.compress_to_buffer(&raw, &mut frame).ok()?;
        frame.shrink_to_fit();
        (frame.len() < raw.len()).then_some(frame)
    });
    match packed {
        Some(bytes) => Packed { raw: raw.len(), bytes },
        None => Packed::plain(raw),
    }
}

/// Bytes that are not a frame, or one of another length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a zstd frame of {raw} bytes")]
pub struct NotTheBody {
    raw: usize,
}

/// The `raw` bytes that `frame` expands to.
///
/// # Errors
/// If it is not one complete frame of exactly that many bytes, or they are more than a body's piece
/// may have. Takes no more memory than that.
pub fn decompress(frame: &[u8], raw: usize) -> Result<Vec<u8>, NotTheBody> {
    if raw > BODY_CHUNK {
        return Err(NotTheBody { raw });
    }
    let mut bytes = Vec::with_capacity(raw);
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(kept) => kept,
            None => kept.insert(Decompressor::new().map_err(|_| NotTheBody { raw })?),
        };
        match decompressor.decompress_to_buffer(frame, &mut bytes) {
            Ok(len) if len == raw => Ok(()),
            Ok(_) | Err(_) => Err(NotTheBody { raw }),
        }
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(len: usize) -> Vec<u8> {
        b"Dear reader, this goes on and on.\r\n".iter().copied().cycle().take(len).collect()
    }

    #[test]
    fn what_does_not_pay_stays_as_it_is() {
        let noise: Vec<u8> =
            (0..9000u64).map(|n| crate::runtime::simulation::split_mix(n) as u8).collect();
        let packed = compress(noise.clone(), 1);
        assert!(!packed.is_compressed() && packed.bytes == noise);
        let packed = compress(text(9000), 1);
        assert!(packed.is_compressed() && packed.bytes.len() < 1000);
        assert_eq!(decompress(&packed.bytes, packed.raw).unwrap(), text(9000));
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused_within_bounds() {
        let packed = compress(text(100_000), 1);
        for raw in [0, 1, 99_999, 100_001, BODY_CHUNK, BODY_CHUNK + 1, usize::MAX] {
            assert!(decompress(&packed.bytes, raw).is_err(), "{raw}");
        }
        let cut = &packed.bytes[..packed.bytes.len() - 1];
        assert!(decompress(cut, packed.raw).is_err());
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(decompress(&bomb, BODY_CHUNK).is_err());
    }

    proptest! {
        #[test]
        fn levels_round_trip(
            raw in prop::collection::vec(prop::sample::select(b"abcdef \r\n".to_vec()), 0..5000),
            level in 1..20,
        ) {
            let packed = compress(raw.clone(), level);
            let back = match packed.is_compressed() {
                true => decompress(&packed.bytes, packed.raw).unwrap(),
                false => packed.bytes,
            };
            prop_assert_eq!(back, raw);
        }

        #[test]
        fn garbage_never_panics(
            frame in prop::collection::vec(any::<u8>(), 0..300),
            raw in 0..9000usize,
        ) {
            let _ = decompress(&frame, raw);
        }
    }
}
