//! Where a command ends: lines and literals (RFC 3501 2.2.1, 4.3, RFC 7888).
//!
//! The service calls [`Framer::next`] with everything unread of the connection, always from the
//! first byte of the same command until a frame was returned and consumed. No byte is looked at
//! twice, however the input is split. The framer owns no input.
//!
//! Invariant: at most [`Limits::command`] bytes are asked for before a frame or a refusal; the
//! message of an APPEND is not among them: it is announced ([`Frame::Append`]) and streamed by the
//! service.

use memchr::memchr;

/// What one command may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Octets of a command outside of its literals.
    pub line: usize,
    /// Octets of a whole command, literals and line ends included, without APPEND's message.
    pub command: usize,
    /// Octets of APPEND's message.
    pub message: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { line: 64 * 1024, command: 256 * 1024, message: 50 * 1024 * 1024 }
    }
}

/// What the input starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Not enough input: fill, then ask again.
    More,
    /// The client waits for a continuation (a synchronising literal inside a command): send
    /// `+ OK`, then ask again with at least the same input.
    Continue,
    /// `input[..size]` is a whole command for [`super::parse`]: parse, then consume `size`.
    Command { size: usize },
    /// `input[..prefix]` is an APPEND up to its message for [`super::parse`] (consume `prefix`);
    /// `size` octets of message follow, if `sync` only after a continuation. After them comes the
    /// command's last line, by [`Framer::line`], which must be empty.
    Append { prefix: usize, size: u64, sync: bool },
    /// A synchronising literal is larger than allowed, and the client waits: answer the tag of
    /// `input[..size]` with `NO [LIMIT]` (see [`super::tag_of`]), consume `size`, go on.
    Refused { size: usize, what: &'static str },
    /// The rest of the stream cannot be made out: `BYE` with this text, then close.
    Bye(&'static str),
}

/// Finds commands in a connection's input.
#[derive(Clone, Debug)]
pub struct Framer {
    limits: Limits,
}

impl Framer {
    pub fn new(limits: Limits) -> Framer {
        Framer { limits }
    }

    /// New limits, from the next command on (a client that logged in may send more).
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub fn next(&mut self, _input: &[u8]) -> Frame {
        todo!()
    }

    /// A line without literals: a SASL response, `DONE`, the end of an APPEND. `Frame::Command` if
    /// there is one; its CRLF is in `size`.
    pub fn line(&mut self, input: &[u8]) -> Frame {
        let _ = memchr(b'\n', input);
        todo!()
    }
}
