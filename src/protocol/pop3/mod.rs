//! POP3 (RFC 1939) with CAPA (RFC 2449), STLS (RFC 2595), AUTH (RFC 5034), UTF8 and LANG
//! (RFC 6856): what is legal, and how it is written.
//!
//! `service::pop3` drives it: a [`Session`] parses the client's lines and returns the required
//! action as an [`Event`]; a [`Maildrop`] has the numbers and deletion marks of the messages
//! present at log-in and writes the listings; a [`MultilineWriter`] turns message octets into a
//! dot-stuffed response.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod command;
mod maildrop;
mod multiline;
mod session;

pub use self::{
    command::{COMMAND_MAX, Command, CommandError, parse},
    maildrop::{Listing, ListingKind, Maildrop},
    multiline::MultilineWriter,
    session::{Answer, Event, Offer, Session, Step},
};

/// Longest line that a session reads, CRLF not counted: an answer in an AUTH exchange (RFC 5034 4);
/// commands have a smaller limit.
pub const LINE_MAX: usize = super::sasl::RESPONSE_MAX;

/// Appends a one-line positive response.
pub fn write_ok(output: &mut Vec<u8>, text: &str) {
    write_line(output, "+OK ", text);
}

/// Appends a one-line negative response; `text` begins with its response code, if it has one
/// (RFC 2449 8, RFC 3206).
pub fn write_err(output: &mut Vec<u8>, text: &str) {
    write_line(output, "-ERR ", text);
}

fn write_line(output: &mut Vec<u8>, start: &str, text: &str) {
    for part in [start, text, "\r\n"] {
        output.extend_from_slice(part.as_bytes());
    }
}
