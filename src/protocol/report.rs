//! Delivery status notifications: the message that tells a sender what became of a message
//! (RFC 3461 6, RFC 3464, in a multipart/report of RFC 6522; with addresses in UTF-8, RFC 6533).
//!
//! The queue calls [`Report::append_head`], streams the original message or its header behind it,
//! and ends with [`Report::append_tail`]; [`HeaderEnd`] finds where a streamed header stops. The
//! return path of a report is null (RFC 3461 6.1), which is the queue's concern, as is the choice
//! of who gets one.
//!
//! Invariant: the remote side's words, the addresses and the client's identifiers cannot end a line
//! or begin a field: every value passes [`safe`], which replaces control characters, and is cut to
//! a named length. Nothing is read back from here.

mod advice;
pub(super) mod writing;

use super::{
    mime::date::write_rfc5322,
    smtp::parameter::{BodyKind, decode_xtext, escape_utf8, unescape_utf8},
};
use crate::model::Timestamp;
use writing::{append_field, append_prose, cut, safe, to_ascii};

/// Octets of the remote server's text that a report quotes.
pub const DIAGNOSTIC_MAX: usize = 1024;
/// Octets of any other value in a report: addresses, host names, identifiers.
const VALUE_MAX: usize = 2048;
/// Octets of the id that are used: a boundary has at most 70 (RFC 2046 5.1.1).
const ID_OCTETS: usize = 60;

/// What became of the message for a recipient (RFC 3464 2.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Failed,
    /// Not yet delivered; attempts go on.
    Delayed,
    /// In the recipient's mailbox.
    Delivered,
    /// Given to a server that does not send such reports.
    Relayed,
    /// Delivered to an alias or list, and sent on to its members.
    Expanded,
}

impl Action {
    fn keyword(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }

    /// The status if the caller's is not one (RFC 3463 3.1: other or undefined).
    fn undefined_status(self) -> &'static str {
        match self {
            Action::Failed => "5.0.0",
            Action::Delayed => "4.0.0",
            Action::Delivered | Action::Relayed | Action::Expanded => "2.0.0",
        }
    }
}

/// What is reported about one recipient (RFC 3464 2.3).
#[derive(Clone, Copy, Debug)]
pub struct RecipientReport<'a> {
    /// The mailbox that was tried last, without brackets.
    pub final_recipient: &'a str,
    /// ORCPT as the client gave it: `addr-type ";" xtext`.
    pub original_recipient: Option<&'a str>,
    pub action: Action,
    /// RFC 3463, e.g. `5.1.1`.
    pub status: &'a str,
    /// The reply that decided, with its code, or our own reason; lines separated by LF.
    pub diagnostic: Option<Diagnostic<'a>>,
    /// The host that gave the reply.
    pub remote_mta: Option<&'a str>,
    pub last_attempt: Option<Timestamp>,
    /// When attempts end: only if delayed.
    pub retry_until: Option<Timestamp>,
}

/// Who gave the reason (RFC 3464 2.3.6: the field's type says whose words they are).
#[derive(Clone, Copy, Debug)]
pub enum Diagnostic<'a> {
    /// An SMTP or LMTP reply of the remote server.
    Reply(&'a str),
    /// Our own finding, such as "connection timed out".
    Finding(&'a str),
}

impl<'a> Diagnostic<'a> {
    fn text(self) -> &'a str {
        match self {
            Diagnostic::Reply(text) | Diagnostic::Finding(text) => text,
        }
    }
}

/// What follows the report itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returned {
    /// RET=FULL: the whole message follows the head.
    Message,
    /// RET=HDRS: its header follows the head.
    Header,
    /// Nothing follows.
    Nothing,
}

/// One report about one message.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// Our host name.
    pub hostname: &'a str,
    /// The reverse-path of the original message; the report goes there.
    pub to: &'a str,
    /// Letters, digits and `-._`, unique and not to be foreseen when the original was written:
    /// Message-ID and boundary are made of it.
    pub id: &'a str,
    pub now: Timestamp,
    /// When the original was accepted.
    pub arrival: Timestamp,
    /// ENVID as the client gave it: xtext.
    pub envelope_id: Option<&'a str>,
    /// The original's Message-ID with its brackets, so that the report is shown below it.
    pub original_message_id: Option<&'a str>,
    pub recipients: &'a [RecipientReport<'a>],
    pub returned: Returned,
    /// Of what follows the head.
    pub returned_body: BodyKind,
    /// The original came with SMTPUTF8, so its header may be UTF-8 (RFC 6533 4).
    pub returned_utf8: bool,
    /// Write addresses in UTF-8 (RFC 6533). The report then needs SMTPUTF8 on its way. Without,
    /// they are written as `\x{…}`, and the report's address must be ASCII.
    pub utf8: bool,
}

impl Report<'_> {
    /// Whether addresses of the report are not ASCII, so that `utf8` writes them as they are.
    pub fn has_utf8_addresses(&self) -> bool {
        let of_utf8_type =
            |orcpt: &str| orcpt.get(..6).is_some_and(|kind| kind.eq_ignore_ascii_case("utf-8;"));
        !self.to.is_ascii()
            || self.recipients.iter().any(|recipient| {
                !recipient.final_recipient.is_ascii()
                    || recipient.original_recipient.is_some_and(of_utf8_type)
            })
    }

    /// The BODY with which the report, with what follows the head, must be sent.
    pub fn body(&self) -> BodyKind {
        match (self.returned, self.returned_body) {
            (Returned::Message | Returned::Header, BodyKind::BinaryMime) => BodyKind::BinaryMime,
            (Returned::Message | Returned::Header, BodyKind::EightBitMime) => {
                BodyKind::EightBitMime
            }
            _ if self.utf8 => BodyKind::EightBitMime,
            _ => BodyKind::SevenBit,
        }
    }

    /// Appends the report up to the place where the original, or its header, follows.
    pub fn append_head(&self, out: &mut Vec<u8>) {
        self.append_header(out);
        self.append_notification(out);
        self.append_status(out);
        self.append_returned_header(out);
    }

    /// Appends what follows the original. The line end before the boundary belongs to it
    /// (RFC 2046 5.1.1), so the original's octets stay as they are.
    pub fn append_tail(&self, out: &mut Vec<u8>) {
        push(out, &["\r\n--", &self.boundary(), "--\r\n"]);
    }

    fn id(&self) -> String {
        let plain = |octet: &u8| octet.is_ascii_alphanumeric() || b"-._".contains(octet);
        self.id.bytes().filter(plain).take(ID_OCTETS).map(char::from).collect()
    }

    /// "=_" is neither in quoted-printable nor in base64.
    fn boundary(&self) -> String {
        format!("=_{}", self.id())
    }

    fn append_header(&self, out: &mut Vec<u8>) {
        let hostname = self.value(self.hostname);
        push(out, &["From: Mail Delivery System <MAILER-DAEMON@", &hostname, ">\r\n"]);
        append_field("To", &format!("<{}>", self.address(self.to)), out);
        push(out, &["Subject: ", advice::subject(self.recipients), "\r\nDate: "]);
        write_rfc5322(self.now, out);
        push(out, &["\r\nMessage-ID: <", &self.id(), "@", &hostname, ">\r\n"]);
        if let Some(original) = self.original_message_id.and_then(message_id) {
            append_field("In-Reply-To", original, out);
            append_field("References", original, out);
        }
        // RFC 3834 5: no other automatic answerer may answer it.
        push(out, &["Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n"]);
        push(out, &["Content-Type: multipart/report; report-type=delivery-status;\r\n"]);
        push(out, &["\tboundary=\"", &self.boundary(), "\"\r\n"]);
        append_encoding(self.body(), out);
        push(out, &["\r\nThis is a report about a message that you sent, in MIME format.\r\n"]);
    }

    /// The part that people read.
    fn append_notification(&self, out: &mut Vec<u8>) {
        let mut text = Vec::new();
        append_prose(&advice::opening(&self.value(self.hostname), self.recipients), &mut text);
        for recipient in self.recipients {
            text.extend_from_slice(b"\r\n");
            append_prose(&advice::paragraph(recipient), &mut text);
        }
        text.extend_from_slice(b"\r\n");
        append_prose(advice::closing(self.returned), &mut text);
        push(out, &["\r\n--", &self.boundary(), "\r\nContent-Description: Notification\r\n"]);
        if text.is_ascii() {
            push(out, &["Content-Type: text/plain; charset=us-ascii\r\n\r\n"]);
            return out.extend_from_slice(&text);
        }
        push(out, &["Content-Type: text/plain; charset=utf-8\r\n"]);
        push(out, &["Content-Transfer-Encoding: quoted-printable\r\n\r\n"]);
        writing::append_quoted_printable(&text, out);
    }

    /// The part that programs read: RFC 3464 2.1, or RFC 6533 4 with UTF-8.
    fn append_status(&self, out: &mut Vec<u8>) {
        push(out, &["\r\n--", &self.boundary(), "\r\nContent-Description: Delivery report\r\n"]);
        push(
            out,
            match self.utf8 {
                true => &["Content-Type: message/global-delivery-status\r\n"],
                false => &["Content-Type: message/delivery-status\r\n"],
            },
        );
        append_encoding(if self.utf8 { BodyKind::EightBitMime } else { BodyKind::SevenBit }, out);
        out.extend_from_slice(b"\r\n");
        if let Some(envelope_id) = self.envelope_id {
            // RFC 3461 4.4: printable ASCII once decoded.
            append_field(
                "Original-Envelope-Id",
                &to_ascii(&value(&decode_xtext(envelope_id))),
                out,
            );
        }
        append_field("Reporting-MTA", &format!("dns; {}", self.value(self.hostname)), out);
        append_date("Arrival-Date", self.arrival, out);
        for recipient in self.recipients {
            out.extend_from_slice(b"\r\n");
            self.append_recipient(recipient, out);
        }
    }

    fn append_recipient(&self, recipient: &RecipientReport<'_>, out: &mut Vec<u8>) {
        if let Some(original) = recipient.original_recipient.and_then(|it| self.original(it)) {
            append_field("Original-Recipient", &original, out);
        }
        let kind = if recipient.final_recipient.is_ascii() { "rfc822" } else { "utf-8" };
        let address = self.address(recipient.final_recipient);
        append_field("Final-Recipient", &format!("{kind}; {address}"), out);
        append_field("Action", recipient.action.keyword(), out);
        append_field("Status", status(recipient), out);
        if let Some(remote) = recipient.remote_mta {
            append_field("Remote-MTA", &format!("dns; {}", self.value(remote)), out);
        }
        if let Some(diagnostic) = recipient.diagnostic {
            let kind = match diagnostic {
                Diagnostic::Reply(_) => "smtp",
                Diagnostic::Finding(_) => "X-Ringmail",
            };
            let text = quotation(diagnostic.text());
            let text = if self.utf8 { text } else { to_ascii(&text) };
            append_field("Diagnostic-Code", &format!("{kind}; {text}"), out);
        }
        if let Some(last_attempt) = recipient.last_attempt {
            append_date("Last-Attempt-Date", last_attempt, out);
        }
        if let (Action::Delayed, Some(until)) = (recipient.action, recipient.retry_until) {
            append_date("Will-Retry-Until", until, out);
        }
    }

    /// RFC 6522 3: the message, its header, or nothing.
    fn append_returned_header(&self, out: &mut Vec<u8>) {
        let kind = match (self.returned, self.returned_utf8) {
            (Returned::Nothing, _) => return,
            (Returned::Message, false) => "message/rfc822",
            (Returned::Message, true) => "message/global",
            (Returned::Header, false) => "text/rfc822-headers",
            (Returned::Header, true) => "message/global-headers",
        };
        push(out, &["\r\n--", &self.boundary(), "\r\nContent-Description: Your message\r\n"]);
        push(out, &["Content-Type: ", kind, "\r\n"]);
        append_encoding(self.returned_body, out);
        out.extend_from_slice(b"\r\n");
    }

    /// A value that is ASCII in the report: host names.
    fn value(&self, text: &str) -> String {
        let text = value(text);
        if self.utf8 { text } else { to_ascii(&text) }
    }

    /// RFC 6533 3: an address as it is, or, in a report for ASCII, each character beyond as
    /// `\x{…}`.
    fn address(&self, text: &str) -> String {
        let text = value(text);
        if self.utf8 { text } else { escape_utf8(&text) }
    }

    /// Original-Recipient, from ORCPT. `None` if it is not one.
    fn original(&self, orcpt: &str) -> Option<String> {
        let (kind, address) = orcpt.split_once(';')?;
        let address = decode_xtext(address);
        let address = if kind.eq_ignore_ascii_case("utf-8") && self.utf8 {
            unescape_utf8(&address)
        } else {
            address
        };
        Some(format!("{}; {}", to_ascii(&value(kind)), self.address(&address)))
    }
}

/// Safe to put in a field, and bounded.
fn value(text: &str) -> String {
    safe(cut(text, VALUE_MAX))
}

/// The remote side's words in one line.
fn quotation(text: &str) -> String {
    safe(cut(text, DIAGNOSTIC_MAX)).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `class "." subject "." detail` (RFC 3463 2).
fn status<'a>(recipient: &RecipientReport<'a>) -> &'a str {
    let mut parts = recipient.status.split('.');
    let number = |part: &str| {
        !part.is_empty() && part.len() <= 3 && part.bytes().all(|octet| octet.is_ascii_digit())
    };
    let class = parts.next().is_some_and(|class| matches!(class, "2" | "4" | "5"));
    match class && parts.next().is_some_and(number) && parts.next().is_some_and(number) {
        true if parts.next().is_none() => recipient.status,
        _ => recipient.action.undefined_status(),
    }
}

/// Only what is certainly a message id is repeated.
fn message_id(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('<')?.strip_suffix('>')?;
    let plain = |octet: u8| octet.is_ascii_graphic() && !matches!(octet, b'<' | b'>');
    (text.len() <= 900 && inner.contains('@') && inner.bytes().all(plain)).then_some(text)
}

fn append_date(name: &str, date: Timestamp, out: &mut Vec<u8>) {
    push(out, &[name, ": "]);
    write_rfc5322(date, out);
    out.extend_from_slice(b"\r\n");
}

fn append_encoding(body: BodyKind, out: &mut Vec<u8>) {
    match body {
        BodyKind::SevenBit => {}
        BodyKind::EightBitMime => push(out, &["Content-Transfer-Encoding: 8bit\r\n"]),
        BodyKind::BinaryMime => push(out, &["Content-Transfer-Encoding: binary\r\n"]),
    }
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Finds where the header of a streamed message ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderEnd {
    place: HeaderPlace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum HeaderPlace {
    #[default]
    LineStart,
    /// After a CR that began a line.
    Cr,
    Line,
    Body,
}

impl HeaderEnd {
    /// Takes the next octets. Returns how many of them belong to the header, the blank line
    /// included, once its end is known; `None` while all of them do.
    pub fn push(&mut self, octets: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&octet) = octets.get(at) {
            self.place = match (self.place, octet) {
                (HeaderPlace::Body, _) => return Some(at),
                (HeaderPlace::LineStart | HeaderPlace::Cr, b'\n') => HeaderPlace::Body,
                (HeaderPlace::LineStart, b'\r') => HeaderPlace::Cr,
                _ => match memchr::memchr(b'\n', &octets[at..]) {
                    Some(offset) => {
                        at += offset;
                        HeaderPlace::LineStart
                    }
                    None => {
                        self.place = HeaderPlace::Line;
                        return None;
                    }
                },
            };
            at += 1;
        }
        (self.place == HeaderPlace::Body).then_some(at)
    }
}

#[cfg(test)]
mod tests;
