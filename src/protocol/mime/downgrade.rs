//! A message with 8-bit or binary content as one that a 7-bit path can carry (RFC 6152 3, RFC 3030
//! 3): the parts that need it get quoted-printable or base64, nothing else changes.
//!
//! The relay calls it for a next hop without 8BITMIME or BINARYMIME. The message passes twice, both
//! times in pieces of any size: a [`Survey`], which knows the parts from the stored summary, finds
//! what is in each; its [`Plan`] says how each part is written; a [`Rewriter`] writes. Composite
//! parts are not encoded (RFC 2045 6.4): what is inside them is. Boundaries stay as they are, and
//! no line of an encoded body can be taken for one.
//!
//! What has no encoding of its own, header fields and the text around the parts of a multipart,
//! must be 7-bit already (RFC 5322 2.2; with SMTPUTF8 the message cannot be converted at all). If
//! it is not, each octet beyond ASCII becomes "?", as nothing says what it means; a bare LF becomes
//! CRLF, a bare CR a space, and a long line is folded.
//!
//! IMAP cannot send NUL in the body of a message (RFC 9051 4.3.1), so the same is done, with base64
//! only, to parts that have it, and to nothing else ([`Survey::for_nul`]). Whoever does that
//! refuses a plan that would not keep what a header says, or what was signed.
//!
//! Invariants: the output has neither octets beyond ASCII, NUL, nor CR or LF but as CRLF (in a plan
//! for NUL, no NUL); decoded
//! bodies are the same octets as before; both passes decide the same however the message is cut;
//! memory is about 150 octets a part, of which a summary has at most [`PARTS_MAX`].

mod encode;
mod survey;

use encode::{Base64, Encoder, Mended, QuotedPrintable};
pub use survey::Survey;

use super::summary::PARTS_MAX;

/// Octets of a line without its CRLF (RFC 5322 2.1.1).
const LINE_OCTETS: usize = 998;
/// Octets of a line of a header after which it is folded at the next white space.
const FOLD_OCTETS: usize = 900;
/// Octets of a field's name that are compared.
const NAME_OCTETS: usize = 40;

const _: () = assert!(PARTS_MAX <= u16::MAX as usize);

/// A stretch of the message, up to `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Region {
    end: u64,
    /// Index of its part, in the order of the summary.
    part: u16,
    content: Content,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Content {
    /// The header of the part, with its blank line.
    Header,
    /// The body of a part that is not composite.
    Body,
    /// Delimiters, and the text before, between and behind the parts of a multipart.
    Around,
}

/// What is done with a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Keep,
    /// Its label "8bit" or "binary" goes: its content is 7-bit now.
    Relabel,
    Encode(Encoding, Additions),
    /// Its encoding stays; octets that do not belong there are read as a tolerant reader does.
    Mend(Encoding),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Encoding {
    QuotedPrintable,
    Base64,
}

/// Fields that a part needs beside its encoding and does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Additions {
    mime_version: bool,
    content_type: bool,
}

/// The message cannot be converted: a composite part whose inside is unknown, or a part in an
/// encoding that we do not know, needs it (RFC 3463: 5.6.3; RFC 3516 4.4: UNKNOWN-CTE).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the message cannot be converted")]
pub struct Unconvertible;

/// How a message is converted: the result of a [`Survey`].
#[derive(Debug)]
pub struct Plan {
    regions: Vec<Region>,
    actions: Vec<Action>,
    /// Header fields or text around parts change.
    rewrites_around: bool,
    breaks_signature: bool,
}

impl Plan {
    /// Whether anything must change. If not, the message fits as it is, also if it is labelled
    /// otherwise.
    pub fn changes(&self) -> bool {
        let changes = |action: &Action| matches!(action, Action::Encode(..) | Action::Mend(_));
        self.rewrites_around || self.actions.iter().any(changes)
    }

    /// Whether header fields, or text around the parts of a multipart, contain what must be
    /// replaced.
    pub fn rewrites_around(&self) -> bool {
        self.rewrites_around
    }

    /// Whether a part inside a multipart/signed changes, whose signature then fails (RFC 1847 2.1).
    /// A DKIM signature of a changed message fails in any case; the relay makes ours again.
    pub fn breaks_signature(&self) -> bool {
        self.breaks_signature
    }
}

/// Writes the message by its plan. The message passes in pieces of any size, from its first octet.
#[derive(Debug)]
pub struct Rewriter<'a> {
    plan: &'a Plan,
    /// Index of the region that `offset` is in.
    region: usize,
    offset: u64,
    writer: Writer,
}

/// What writes a region.
#[derive(Debug)]
enum Writer {
    Around(Around),
    Header(Header),
    Copy,
    QuotedPrintable(QuotedPrintable),
    Base64(Box<Base64>),
    MendedQuoted(Box<Mended<QuotedPrintable>>),
    MendedBase64(Box<Mended<Base64>>),
}

impl<'a> Rewriter<'a> {
    pub fn new(plan: &'a Plan) -> Rewriter<'a> {
        let mut rewriter = Rewriter { plan, region: 0, offset: 0, writer: Writer::Copy };
        rewriter.writer = rewriter.writer_of(0);
        rewriter
    }

    /// Takes the next octets of the message and appends what is written for them: at most four
    /// times as many and some hundred more.
    pub fn push(&mut self, mut octets: &[u8], out: &mut Vec<u8>) {
        while let Some(region) = self.plan.regions.get(self.region) {
            let left = usize::try_from(region.end - self.offset).unwrap_or(usize::MAX);
            let (now, later) = octets.split_at(left.min(octets.len()));
            self.write(now, out);
            self.offset += now.len() as u64;
            octets = later;
            if self.offset < region.end {
                return;
            }
            self.end_region(out);
        }
    }

    /// The end of the message.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.region < self.plan.regions.len() {
            self.end_region(out);
            self.region = self.plan.regions.len();
        }
    }

    fn around(&self) -> Around {
        Around { mends: self.plan.rewrites_around, ..Around::default() }
    }

    fn writer_of(&self, index: usize) -> Writer {
        let Some(region) = self.plan.regions.get(index) else { return Writer::Copy };
        let action = self.plan.actions.get(usize::from(region.part)).copied();
        let action = action.unwrap_or(Action::Keep);
        match (region.content, action) {
            (Content::Around, _) => Writer::Around(self.around()),
            (Content::Header, action) => {
                Writer::Header(Header::new(action, Around { folds: true, ..self.around() }))
            }
            (Content::Body, Action::Keep | Action::Relabel) => Writer::Copy,
            (Content::Body, Action::Encode(Encoding::QuotedPrintable, _)) => {
                Writer::QuotedPrintable(QuotedPrintable::default())
            }
            (Content::Body, Action::Encode(Encoding::Base64, _)) => Writer::Base64(Box::default()),
            (Content::Body, Action::Mend(Encoding::QuotedPrintable)) => {
                Writer::MendedQuoted(Box::default())
            }
            (Content::Body, Action::Mend(Encoding::Base64)) => Writer::MendedBase64(Box::default()),
        }
    }

    fn write(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        match &mut self.writer {
            Writer::Copy => out.extend_from_slice(octets),
            Writer::Around(writer) => octets.iter().for_each(|&octet| writer.push(octet, out)),
            Writer::Header(writer) => octets.iter().for_each(|&octet| writer.push(octet, out)),
            Writer::QuotedPrintable(writer) => writer.push(octets, out),
            Writer::Base64(writer) => writer.push(octets, out),
            Writer::MendedQuoted(writer) => writer.push(octets, out),
            Writer::MendedBase64(writer) => writer.push(octets, out),
        }
    }

    fn end_region(&mut self, out: &mut Vec<u8>) {
        // An encoded body at the end of the message ends its last line: what sends the message
        // would otherwise do it, and add to the body.
        let end = self.plan.regions.get(self.region).map(|region| region.end);
        let last = self.plan.regions.last().map(|region| region.end) == end;
        match &mut self.writer {
            Writer::Copy => {}
            Writer::Around(writer) => writer.finish(out),
            Writer::Header(writer) => writer.finish(out),
            Writer::QuotedPrintable(writer) => writer.finish(last, out),
            Writer::Base64(writer) => writer.finish(last, out),
            Writer::MendedQuoted(writer) => writer.finish(last, out),
            Writer::MendedBase64(writer) => writer.finish(last, out),
        }
        self.region += 1;
        self.writer = self.writer_of(self.region);
    }
}

/// Text that has no encoding: made 7-bit octet by octet.
#[derive(Debug, Default)]
struct Around {
    /// There is something to mend in this message; otherwise all stays as it is.
    mends: bool,
    /// Octets of the line so far.
    column: usize,
    /// A CR was taken and not written.
    cr: bool,
    /// The line begins with "--", so it may be a delimiter and is not broken.
    dashes: usize,
    /// Lines are folded with a space: in a header.
    folds: bool,
}

impl Around {
    fn push(&mut self, octet: u8, out: &mut Vec<u8>) {
        if !self.mends {
            return out.push(octet);
        }
        if std::mem::take(&mut self.cr) && octet != b'\n' {
            self.put(b' ', out);
        }
        match octet {
            b'\r' => self.cr = true,
            b'\n' => {
                out.extend_from_slice(b"\r\n");
                (self.column, self.dashes) = (0, 0);
            }
            0 | 0x80.. => self.put(b'?', out),
            _ => self.put(octet, out),
        }
    }

    fn put(&mut self, octet: u8, out: &mut Vec<u8>) {
        let space = matches!(octet, b' ' | b'\t');
        if self.folds && space && self.column >= FOLD_OCTETS {
            out.extend_from_slice(b"\r\n");
            self.column = 0;
        } else if self.column >= LINE_OCTETS && self.dashes < 2 {
            out.extend_from_slice(b"\r\n ");
            self.column = 1;
        }
        if octet == b'-' && self.dashes == self.column {
            self.dashes += 1;
        }
        out.push(octet);
        self.column += 1;
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.cr) {
            self.put(b' ', out);
        }
    }
}

/// A part's header: its Content-Transfer-Encoding goes, and a new one comes, if its action says so.
#[derive(Debug)]
struct Header {
    action: Action,
    text: Around,
    place: Place,
    /// The line so far, while it may be the name of a field.
    name: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    LineStart,
    /// After a CR that began a line.
    LineStartCr,
    Name,
    /// In a field that is written, or not.
    Field {
        dropped: bool,
    },
    /// At the start of a line after such a field: white space continues it.
    FieldEnd {
        dropped: bool,
    },
}

impl Header {
    fn new(action: Action, text: Around) -> Header {
        Header { action, text, place: Place::LineStart, name: Vec::new() }
    }

    fn push(&mut self, octet: u8, out: &mut Vec<u8>) {
        if let Place::FieldEnd { dropped } = self.place {
            self.place = match octet {
                b' ' | b'\t' => Place::Field { dropped },
                _ => Place::LineStart,
            };
        }
        match self.place {
            Place::LineStart if octet == b'\r' => self.place = Place::LineStartCr,
            Place::LineStart | Place::LineStartCr if octet == b'\n' => {
                self.append_fields(out);
                let bare = self.place == Place::LineStart && !self.text.mends;
                out.extend_from_slice(if bare { b"\n" } else { b"\r\n" });
                self.place = Place::LineStart;
            }
            Place::LineStartCr => {
                self.text.push(b'\r', out);
                self.text.push(octet, out);
                self.place = Place::Field { dropped: false };
            }
            Place::LineStart | Place::Name => self.push_name(octet, out),
            Place::Field { dropped } | Place::FieldEnd { dropped } => {
                if !dropped {
                    self.text.push(octet, out);
                }
                self.place = match octet {
                    b'\n' => Place::FieldEnd { dropped },
                    _ => Place::Field { dropped },
                };
            }
        }
    }

    /// In what may be the name of a field.
    fn push_name(&mut self, octet: u8, out: &mut Vec<u8>) {
        self.place = Place::Name;
        self.name.push(octet);
        if !matches!(octet, b':' | b'\n') && self.name.len() < NAME_OCTETS {
            return;
        }
        let dropped = octet == b':'
            && !matches!(self.action, Action::Keep | Action::Mend(_))
            && is_named(&self.name, b"content-transfer-encoding");
        if !dropped {
            self.write_name(out);
        }
        self.name.clear();
        self.place = match octet {
            b'\n' => Place::FieldEnd { dropped },
            _ => Place::Field { dropped },
        };
    }

    fn write_name(&mut self, out: &mut Vec<u8>) {
        for octet in std::mem::take(&mut self.name) {
            self.text.push(octet, out);
        }
    }

    fn append_fields(&self, out: &mut Vec<u8>) {
        let Action::Encode(encoding, additions) = self.action else { return };
        if additions.mime_version {
            out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        if additions.content_type {
            // RFC 1428 3: text in 8-bit without a label.
            out.extend_from_slice(b"Content-Type: text/plain; charset=unknown-8bit\r\n");
        }
        out.extend_from_slice(match encoding {
            Encoding::QuotedPrintable => b"Content-Transfer-Encoding: quoted-printable\r\n",
            Encoding::Base64 => b"Content-Transfer-Encoding: base64\r\n",
        });
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        self.write_name(out);
        if self.place == Place::LineStartCr {
            self.text.push(b'\r', out);
        }
        self.text.finish(out);
    }
}

/// Whether a line's start, up to its colon, is this name: white space before the colon is tolerated
/// (RFC 5322 4.5).
fn is_named(start: &[u8], name: &[u8]) -> bool {
    let start = start.strip_suffix(b":").unwrap_or(start);
    start.trim_ascii_end().eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests;
