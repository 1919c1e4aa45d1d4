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
//!
//! The protocol may end compression (RFC 8437 4.1), and the peer may send other octets right behind
//! the message that asks for it. So after what may be such a message nothing more is opened until
//! the session has looked at it. Peers end their stream in several ways: what is left of its last
//! block, and empty blocks, are then skipped.

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

/// Octets of a stored block (RFC 1951 3.2.4).
const STORED_MAX: usize = 65_535;

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

/// Octets below this begin no line of text, but the rest of a stream: an empty block (RFC 1951
/// 3.2.3), its length or its padding.
const TEXT_FROM: u8 = 4;

/// Whether the stream may end behind these octets.
pub(super) type MayEnd = fn(&[u8]) -> bool;

/// Deflate in both directions.
pub(super) struct Deflate {
    may_end: MayEnd,
    phase: Phase,
    opener: Opener,
    window: Window,
    /// Opening stopped at its limit, with more to come of the octets that it has.
    has_more: bool,
    /// The peer ended its stream.
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// What is sealed is stored, so that nothing follows it.
    Last,
    /// Nothing is sealed; of the peer's stream the end may still come.
    Ended,
    /// Nothing is opened, either.
    Spent,
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

impl Deflate {
    /// `may_end` is asked about all that is opened and not consumed by the session.
    pub(super) fn new(may_end: MayEnd) -> Deflate {
        let opener = Opener::Between(BlockBoundaryState::default());
        let (window, phase) = (Window::Plain(Vec::new()), Phase::Open);
        Deflate { may_end, phase, opener, window, has_more: false, ended: false }
    }

    /// Opens blocks, as far as `sealed` has them; returns the octets processed.
    fn open_blocks(
        &mut self,
        sealed: &[u8],
        opened: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
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

    /// Opens the end of a stream, block by block, and lets through what follows it.
    fn open_end(
        &mut self,
        sealed: &mut [u8],
        opened: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        let mut done = 0;
        self.has_more = false;
        while let Some(rest @ [next, ..]) = sealed.get(done..) {
            let is_between = matches!(self.opener, Opener::Between(_));
            if self.ended || is_between && *next >= TEXT_FROM {
                self.phase = Phase::Spent;
                opened.extend_from_slice(rest);
                return Ok(sealed.len());
            }
            match self.open_blocks(rest, opened)? {
                0 => break,
                count => done += count,
            }
        }
        self.has_more = false;
        Ok(done)
    }

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
        let mut block = before;
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
            let is_told = between && opened.len() > block && (self.may_end)(opened);
            if between {
                block = opened.len();
            }
            let is_last_block = self.phase == Phase::Ended && between;
            let waits = is_told || is_last_block || opened.len() - before >= OPENED_MAX;
            self.has_more = goes_on && waits;
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
        match self.phase {
            Phase::Open | Phase::Last => {}
            Phase::Ended => return self.open_end(sealed, opened),
            Phase::Spent => {
                opened.extend_from_slice(sealed);
                return Ok(sealed.len());
            }
        }
        if self.ended || sealed.is_empty() && !self.has_more {
            // Nothing follows the end of a stream.
            return Ok(sealed.len());
        }
        self.open_blocks(sealed, opened)
    }

    fn seal(
        &mut self,
        message: &[u8],
        _: &mut [u8],
        _: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> Result<usize, ConnectionError> {
        if matches!(self.phase, Phase::Ended | Phase::Spent) {
            outgoing.extend_from_slice(message);
            return Ok(0);
        }
        if message.len() < STORED_BELOW || self.phase == Phase::Last {
            message.chunks(STORED_MAX).for_each(|part| store(part, outgoing));
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
        self.ended && matches!(self.phase, Phase::Open | Phase::Last)
    }

    fn has_more(&self) -> bool {
        self.has_more
    }

    fn rest(&mut self) {
        self.window.pack();
    }

    fn seal_last(&mut self) {
        self.phase = Phase::Last;
    }

    fn end(&mut self) {
        (self.phase, self.has_more) = (Phase::Ended, true);
    }

    fn is_spent(&self) -> bool {
        self.phase == Phase::Spent
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
