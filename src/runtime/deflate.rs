//! Deflate (RFC 1951) as a layer of a stream, as IMAP's COMPRESS has it (RFC 4978).
//!
//! A connection holds no compressor. A shard has one, for all its connections: what is sealed at a
//! time (a reply, or 64 KiB of one) is compressed by itself and flushed, so that nothing later
//! refers to it. So an idle connection costs nothing for what it has sent, and what one client is
//! sent never tells of what another was. Short replies gain nothing from compression alone; they
//! are sent as stored blocks.
//!
//! Of what it has received, a connection keeps the last 32 KiB, to which the peer may refer, and
//! between blocks nothing else: the inflater (10 KiB) is kept only in the middle of a block.
//! [`Layer::rest`] compresses the 32 KiB.
//!
//! A few octets can stand for thousands. [`Layer::open`] opens at most [`OPENED_MAX`] and leaves
//! the rest for the next call; until then the connection receives nothing.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{cell::RefCell, io, mem};

use miniz_oxide::{
    DataFormat,
    deflate::core::{
        CompressionStrategy, CompressorOxide, TDEFLFlush, TDEFLStatus, compress_to_output,
    },
    inflate::{
        TINFLStatus,
        core::{BlockBoundaryState, DecompressorOxide, decompress, inflate_flags::*},
    },
};

use super::{connection::ConnectionError, layers::Layer, resources::SCRATCH_SIZE};

/// How far back a stream may refer (RFC 1951 2).
const WINDOW: usize = 32 * 1024;

/// Octets opened by one call.
pub(super) const OPENED_MAX: usize = SCRATCH_SIZE;

/// Most sealed octets that are not opened yet: what is received at a time, and what TLS may have
/// opened besides.
const KEPT_MAX: usize = 2 * SCRATCH_SIZE;

/// Shorter messages are sent as they are: without anything before them that they could refer to,
/// they hardly become shorter.
const STORED_BELOW: usize = 128;

/// A window that is shorter is left as it is while the connection rests.
const PACKED_ABOVE: usize = 1024;

/// The fastest level that finds repetitions: the shard waits for it.
const LEVEL: u8 = 1;

const FLAGS: u32 = TINFL_FLAG_HAS_MORE_INPUT
    | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
    | TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;

/// What the connections of a shard use in turn.
struct Tools {
    compressor: Option<Box<CompressorOxide>>,
    inflater: Option<Box<DecompressorOxide>>,
    /// The window, and behind it what is opened.
    room: Vec<u8>,
}

thread_local! {
    static TOOLS: RefCell<Tools> =
        const { RefCell::new(Tools { compressor: None, inflater: None, room: Vec::new() }) };
}

/// Deflate in both directions.
pub(super) struct Deflate {
    opener: Opener,
    window: Window,
    /// Opening stopped at its limit, with more to come of the octets that it has.
    has_more: bool,
    /// The peer ended its stream.
    ended: bool,
}

/// Where the peer's stream stands.
enum Opener {
    Between(BlockBoundaryState),
    Within(Box<DecompressorOxide>),
}

/// The last octets opened.
enum Window {
    Plain(Vec<u8>),
    Packed(Vec<u8>),
}

impl Default for Deflate {
    fn default() -> Deflate {
        let opener = Opener::Between(BlockBoundaryState::default());
        Deflate { opener, window: Window::Plain(Vec::new()), has_more: false, ended: false }
    }
}

impl Deflate {
    /// Opens `sealed` with `inflater`; returns the octets processed, and whether they end between
    /// two blocks.
    fn inflate(
        &mut self,
        inflater: &mut DecompressorOxide,
        room: &mut Vec<u8>,
        sealed: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<(usize, bool), ConnectionError> {
        room.resize(2 * WINDOW, 0);
        let before = opened.len();
        let mut window = self.window.take(room)?;
        let mut done = 0;
        self.has_more = false;
        let (status, between) = loop {
            let rest = sealed.get(done..).unwrap_or_default();
            let (status, taken, made) = decompress(inflater, rest, room, window, FLAGS);
            done += taken;
            opened.extend_from_slice(room.get(window..window + made).unwrap_or_default());
            window += made;
            if window > WINDOW {
                room.copy_within(window - WINDOW..window, 0);
                window = WINDOW;
            }
            let between = status == TINFLStatus::BlockBoundary;
            let goes_on = match status {
                TINFLStatus::HasMoreOutput => true,
                TINFLStatus::BlockBoundary => done < sealed.len(),
                _ => false,
            };
            self.has_more = goes_on && opened.len() - before >= OPENED_MAX;
            if self.has_more || !goes_on {
                break (status, between);
            }
        };
        self.window = Window::Plain(room.get(..window).unwrap_or_default().to_vec());
        match status {
            TINFLStatus::Done => self.ended = true,
            TINFLStatus::NeedsMoreInput
            | TINFLStatus::HasMoreOutput
            | TINFLStatus::BlockBoundary => {}
            _ => return Err(broken("not a deflate stream")),
        }
        Ok((done, between))
    }
}

impl Layer for Deflate {
    fn open(
        &mut self,
        sealed: &mut [u8],
        opened: &mut Vec<u8>,
        _: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        if self.ended || sealed.is_empty() && !self.has_more {
            // Nothing follows the end of a stream.
            return Ok(sealed.len());
        }
        TOOLS.with_borrow_mut(|tools| {
            let start = Opener::Between(BlockBoundaryState::default());
            let mut inflater = match mem::replace(&mut self.opener, start) {
                Opener::Within(inflater) => inflater,
                Opener::Between(state) => {
                    let mut inflater = tools.inflater.take().unwrap_or_default();
                    *inflater = DecompressorOxide::from_block_boundary_state(&state);
                    inflater
                }
            };
            let (done, between) = self.inflate(&mut inflater, &mut tools.room, sealed, opened)?;
            self.opener = match inflater.block_boundary_state().filter(|_| between) {
                Some(state) => {
                    tools.inflater = Some(inflater);
                    Opener::Between(state)
                }
                None => Opener::Within(inflater),
            };
            Ok(done)
        })
    }

    fn seal(
        &mut self,
        message: &[u8],
        _: &mut [u8],
        _: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        if message.len() < STORED_BELOW {
            store(message, outgoing);
            return Ok(0);
        }
        TOOLS.with_borrow_mut(|tools| {
            let compressor = tools.compressor.get_or_insert_with(|| Box::new(compressor()));
            let append = |octets: &[u8]| {
                outgoing.extend_from_slice(octets);
                true
            };
            let (status, taken) = compress_to_output(compressor, message, TDEFLFlush::Full, append);
            if status != TDEFLStatus::Okay || taken != message.len() {
                tools.compressor = None;
                return Err(broken("compression failed"));
            }
            Ok(0)
        })
    }

    /// A stream may end anywhere between two blocks.
    fn seal_end(&mut self, _: &mut [u8], _: &mut Vec<u8>) -> Result<(), ConnectionError> {
        Ok(())
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn rest(&mut self) {
        self.window.pack();
    }

    fn kept_max(&self) -> usize {
        KEPT_MAX
    }
}

impl Window {
    /// Moves the octets to the beginning of `room`; returns how many they are.
    fn take(&mut self, room: &mut [u8]) -> Result<usize, ConnectionError> {
        let plain = match mem::replace(self, Window::Plain(Vec::new())) {
            Window::Plain(plain) => plain,
            Window::Packed(packed) => zstd::bulk::decompress(&packed, WINDOW)?,
        };
        if let Some(place) = room.get_mut(..plain.len()) {
            place.copy_from_slice(&plain);
        }
        Ok(plain.len())
    }

    /// Compresses the octets, which may be referred to again or never.
    fn pack(&mut self) {
        if let Window::Plain(plain) = self
            && plain.len() > PACKED_ABOVE
            && let Ok(mut packed) = zstd::bulk::compress(plain, 1)
        {
            packed.shrink_to_fit();
            *self = Window::Packed(packed);
        }
    }
}

fn compressor() -> CompressorOxide {
    CompressorOxide::with_params(DataFormat::Raw, LEVEL, CompressionStrategy::Default, 15)
}

/// Appends a stored block (RFC 1951 3.2.4). Only between blocks that end with an octet, as all of
/// ours do.
fn store(message: &[u8], outgoing: &mut Vec<u8>) {
    let len = message.len() as u16;
    outgoing.push(0);
    outgoing.extend_from_slice(&len.to_le_bytes());
    outgoing.extend_from_slice(&(!len).to_le_bytes());
    outgoing.extend_from_slice(message);
}

fn broken(what: &'static str) -> ConnectionError {
    ConnectionError::Io(io::Error::new(io::ErrorKind::InvalidData, what))
}
