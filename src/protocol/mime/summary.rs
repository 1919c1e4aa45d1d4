//! The summary of one message: its MIME tree, envelope values and exact octet offsets.
//!
//! Built by [`super::Summarizer`] as a message passes, encoded by [`Summary::encode`], kept by the
//! store beside the body, read by IMAP FETCH and SEARCH. Immutable once built.
//!
//! Parts are stored flat in pre-order (a part, then its descendants), so building, decoding and
//! dropping do not recurse. All texts are in one buffer in a fixed order, found by rank: see
//! [`Field`].

use std::ops::Range;

use super::address::{self, Address};

/// Parts nested deeper than this are opaque `application/octet-stream`.
pub(super) const DEPTH_MAX: usize = 64;
/// Parts recorded in one message; later ones belong to the last one.
pub(super) const PARTS_MAX: usize = 1_000;
/// Initial capacity for a message's texts, octets.
const TEXT_SIZE_TYPICAL: usize = 512;

/// The kind of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartKind {
    /// Neither of the two below.
    Leaf,
    /// `multipart/*` with a boundary: has children (possibly none were found).
    Multipart,
    /// `message/rfc822` or `message/global`: [`Part::message`] is the root part inside.
    Message,
}

/// A text a part may have, in the order the texts are stored. The first ten belong to the root
/// part of a message only (its own envelope, RFC 3501 7.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Field {
    Date,
    Subject,
    From,
    Sender,
    ReplyTo,
    To,
    Cc,
    Bcc,
    InReplyTo,
    MessageId,
    MediaType,
    MediaSubtype,
    /// `name NUL value NUL` for each parameter.
    Parameters,
    Id,
    Description,
    Encoding,
    Md5,
    Disposition,
    /// As [`Field::Parameters`].
    DispositionParameters,
    /// Tags, each followed by NUL.
    Language,
    Location,
}

/// The fields of an envelope come first.
pub(super) const ENVELOPE_FIELDS: usize = Field::MessageId as usize + 1;
/// The fields of an envelope, as bits.
pub(super) const ENVELOPE_BITS: u32 = (1 << ENVELOPE_FIELDS) - 1;

impl Field {
    pub(super) const COUNT: usize = Field::Location as usize + 1;
}

/// One part, in pre-order.
///
/// Invariant: `header_start <= body_start <= body_end <= Summary::size`, and the ranges of
/// descendants lie inside `body_start..body_end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub kind: PartKind,
    /// Bit n is set when the part has `Field` n.
    pub present: u32,
    /// Index in `Summary::ends` of this part's first text.
    pub first_text: u32,
    pub header_start: u64,
    pub body_start: u64,
    pub body_end: u64,
    /// Line ends (LF) in the body.
    pub lines: u64,
    /// Records after this one that are inside it.
    pub descendants: u32,
}

/// Data about one message without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    pub(super) size: u64,
    /// Never empty: the first is the root part.
    pub(super) records: Vec<Record>,
    /// End of each text in `text`; a text starts at the end of the previous one.
    pub(super) ends: Vec<u32>,
    pub(super) text: Vec<u8>,
    /// About the message's own envelope: bit n is set when the text of `Field` n gives a search
    /// everything that the header has of this field, even if that is nothing.
    pub(super) exact: u16,
    /// Bit n is set when the first `Field` n of the header goes over several lines.
    pub(super) folded: u16,
    /// Hashes of the IDs in the References field ([`super::message_id`]); `None` if nobody looked.
    pub(super) references: Option<Vec<u64>>,
    /// The first words (RFC 8970), empty if there are none; `None` if nobody looked.
    pub(super) preview: Option<String>,
}

/// Why stored bytes are not a summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("summary format version {0} is not known")]
    Version(u8),
    #[error("the summary is damaged")]
    Damaged,
}

impl Summary {
    /// Bytes of memory held beside the value itself, used or not.
    pub(super) fn memory(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
            + self.ends.capacity() * size_of::<u32>()
            + self.text.capacity()
            + self.references.as_ref().map_or(0, Vec::capacity) * size_of::<u64>()
            + self.preview.as_ref().map_or(0, String::capacity)
    }

    /// Accounts for `octets` more, complete header fields, before the summarized text. None of them
    /// may be a field that the summary records.
    pub fn prepend(&mut self, octets: u64) {
        self.size += octets;
        for (index, record) in self.records.iter_mut().enumerate() {
            if index > 0 {
                record.header_start += octets;
            }
            record.body_start += octets;
            record.body_end += octets;
        }
    }

    /// RFC822.SIZE, octets.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Octets of the header with its blank line: where the body starts.
    pub fn header_size(&self) -> u64 {
        self.root().body().start
    }

    /// Line ends in the body.
    pub fn lines(&self) -> u64 {
        self.root().lines()
    }

    /// The root part: the message's own body.
    pub fn root(&self) -> Part<'_> {
        Part { summary: self, index: 0 }
    }

    /// The message's own envelope.
    pub fn envelope(&self) -> Envelope<'_> {
        self.root().message_envelope()
    }

    /// The Date field as sent, unfolded; for SEARCH SENT* and SORT without the rest of ENVELOPE.
    pub fn date(&self) -> Option<&[u8]> {
        self.root().text(Field::Date)
    }

    /// The first words of the message (RFC 8970), empty if it has none; `None` if the summary does
    /// not tell.
    pub fn preview(&self) -> Option<&str> {
        self.preview.as_deref()
    }

    /// A placeholder for a summary that was taken: owns no memory and may only be overwritten.
    pub fn spent() -> Summary {
        Summary {
            size: 0,
            records: Vec::new(),
            ends: Vec::new(),
            text: Vec::new(),
            exact: 0,
            folded: 0,
            references: None,
            preview: None,
        }
    }

    /// A summary under construction: no parts yet.
    pub(super) fn empty() -> Summary {
        Summary {
            size: 0,
            records: Vec::with_capacity(1),
            ends: Vec::with_capacity(Field::COUNT),
            text: Vec::with_capacity(TEXT_SIZE_TYPICAL),
            exact: 0,
            folded: 0,
            references: None,
            preview: None,
        }
    }
}

/// One part of a message: a cheap handle.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub(super) summary: &'a Summary,
    pub(super) index: usize,
}

impl<'a> Part<'a> {
    pub fn kind(self) -> PartKind {
        self.record().kind
    }

    /// As sent, e.g. `text`; the defaults of RFC 2045 5.2 when absent or unusable.
    pub fn media_type(self) -> &'a [u8] {
        self.text(Field::MediaType).unwrap_or(b"text")
    }

    pub fn media_subtype(self) -> &'a [u8] {
        self.text(Field::MediaSubtype).unwrap_or(b"plain")
    }

    /// Content-Type parameters (name, value), values unquoted. A text part without a charset gets
    /// `charset=us-ascii` here (RFC 2045 5.2). Continuations are joined; a parameter with charset
    /// or percent-encoding (RFC 2231 4) keeps it, and its name ends in `*`.
    pub fn parameters(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let given = self.text(Field::Parameters).unwrap_or_default();
        let defaulted = self.media_type().eq_ignore_ascii_case(b"text")
            && !pairs(given).any(|(name, _)| name.eq_ignore_ascii_case(b"charset"));
        pairs(given).chain(defaulted.then_some((b"charset".as_slice(), b"us-ascii".as_slice())))
    }

    /// Content-ID.
    pub fn id(self) -> Option<&'a [u8]> {
        self.text(Field::Id)
    }

    /// Content-Description, encoded-words as sent.
    pub fn description(self) -> Option<&'a [u8]> {
        self.text(Field::Description)
    }

    /// Content-Transfer-Encoding as sent; `7bit` when absent (RFC 2045 6.1).
    pub fn encoding(self) -> &'a [u8] {
        self.text(Field::Encoding).unwrap_or(b"7bit")
    }

    pub fn md5(self) -> Option<&'a [u8]> {
        self.text(Field::Md5)
    }

    /// Disposition type (RFC 2183), e.g. `attachment`.
    pub fn disposition(self) -> Option<&'a [u8]> {
        self.text(Field::Disposition)
    }

    /// As [`Part::parameters`], for the disposition.
    pub fn disposition_parameters(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        pairs(self.text(Field::DispositionParameters).unwrap_or_default())
    }

    /// Content-Language tags (RFC 3282); empty when absent.
    pub fn languages(self) -> impl Iterator<Item = &'a [u8]> {
        words(self.text(Field::Language).unwrap_or_default())
    }

    /// Content-Location (RFC 2557).
    pub fn location(self) -> Option<&'a [u8]> {
        self.text(Field::Location)
    }

    /// Octets of the part's header, its blank line included. For the root part inside a
    /// message/rfc822 part this is that message's header.
    pub fn header(self) -> Range<u64> {
        self.record().header_start..self.record().body_start
    }

    /// Octets of the part's body; the CRLF before a boundary is not in it (RFC 2046 5.1.1).
    pub fn body(self) -> Range<u64> {
        self.record().body_start..self.record().body_end
    }

    /// Octets of the body as stored, still transfer-encoded.
    pub fn size(self) -> u64 {
        self.record().body_end - self.record().body_start
    }

    /// Line ends in the body; BODYSTRUCTURE has it for text and message/rfc822.
    pub fn lines(self) -> u64 {
        self.record().lines
    }

    /// Whether it is a multipart whose boundary never occurs: its body is treated as a text part.
    pub fn is_undelimited(self) -> bool {
        self.kind() == PartKind::Multipart && self.children().next().is_none()
    }

    /// Parts of a multipart in order; empty for the others.
    pub fn children(self) -> impl Iterator<Item = Part<'a>> {
        let records = &self.summary.records;
        let end = self.index + 1 + self.record().descendants as usize;
        let mut next = if self.kind() == PartKind::Multipart { self.index + 1 } else { end };
        std::iter::from_fn(move || {
            let index = next;
            let record = records.get(index).filter(|_| index < end)?;
            next = index + 1 + record.descendants as usize;
            Some(Part { summary: self.summary, index })
        })
    }

    /// The last part inside, at any depth; the part itself if there is none.
    pub(super) fn last_descendant(self) -> Part<'a> {
        Part { index: self.index + self.record().descendants as usize, ..self }
    }

    /// The root part of the message inside a message/rfc822 part.
    pub fn message(self) -> Option<Part<'a>> {
        (self.kind() == PartKind::Message)
            .then_some(Part { summary: self.summary, index: self.index + 1 })
    }

    /// Envelope of the message inside a message/rfc822 part.
    pub fn envelope(self) -> Option<Envelope<'a>> {
        Some(self.message()?.message_envelope())
    }

    /// Envelope of the message whose root part this is.
    fn message_envelope(self) -> Envelope<'a> {
        Envelope::new(|field| self.text(field))
    }

    /// Octets of the part's texts, without the envelope of a message whose root part it is.
    pub fn texts_size(self) -> usize {
        let (_, ends, start) = self.own_texts();
        ends.last().map_or(0, |&end| (end - start) as usize)
    }

    /// A number that is the same for parts with the same texts, and mostly another for parts with
    /// other texts.
    pub fn texts_hash(self) -> u32 {
        let (present, ends, start) = self.own_texts();
        let end = ends.last().map_or(start, |&end| end);
        let text = &self.summary.text[start as usize..end as usize];
        // The last text is the encoding, or part of a file name: these differ where the sizes and
        // the set of texts do not.
        let last = text.last_chunk().map_or(0, |last| u32::from_le_bytes(*last));
        (last ^ present ^ (text.len() as u32) << 24).wrapping_mul(0x9e37_79b1)
    }

    /// Whether the part has these texts, octet for octet: then only its kind, its size, its lines
    /// and the parts inside may differ from those of the part that they were copied from.
    pub fn has_texts(self, texts: &PartTexts) -> bool {
        let (present, ends, start) = self.own_texts();
        let end = ends.last().map_or(start, |&end| end);
        present == texts.present
            && self.summary.text[start as usize..end as usize] == texts.text[..]
            && ends.iter().zip(&texts.ends).all(|(end, known)| end - start == *known)
    }

    /// Makes `texts` those of this part.
    pub fn copy_texts(self, texts: &mut PartTexts) {
        let (present, ends, start) = self.own_texts();
        let end = ends.last().map_or(start, |&end| end);
        texts.present = present;
        texts.ends.clear();
        texts.ends.extend(ends.iter().map(|end| end - start));
        texts.text.clear();
        texts.text.extend_from_slice(&self.summary.text[start as usize..end as usize]);
    }

    /// Which texts the part has besides an envelope, their ends, and the start of the first.
    fn own_texts(self) -> (u32, &'a [u32], u32) {
        let record = self.record();
        let of_envelope = (record.present & ENVELOPE_BITS).count_ones();
        let first = (record.first_text + of_envelope) as usize;
        let present = record.present & !ENVELOPE_BITS;
        let ends = &self.summary.ends;
        let start = first.checked_sub(1).map_or(0, |before| ends[before]);
        (present, &ends[first..first + present.count_ones() as usize], start)
    }

    pub(super) fn record(self) -> &'a Record {
        &self.summary.records[self.index]
    }

    #[inline]
    pub(super) fn text(self, field: Field) -> Option<&'a [u8]> {
        let record = self.record();
        let bit = 1 << field as u32;
        if record.present & bit == 0 {
            return None;
        }
        let rank = (record.present & (bit - 1)).count_ones() as usize;
        let index = record.first_text as usize + rank;
        let ends = &self.summary.ends;
        let start = index.checked_sub(1).map_or(0, |before| ends[before]);
        Some(&self.summary.text[start as usize..ends[index] as usize])
    }
}

/// A copy of the texts of a part, to recognize another part that has the same.
#[derive(Default)]
pub struct PartTexts {
    /// As [`Record::present`], without the envelope.
    present: u32,
    /// The end of each in `text`.
    ends: Vec<u32>,
    text: Vec<u8>,
}

/// NUL-terminated words.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == 0).map(|word| word.strip_suffix(b"\0").unwrap_or(word))
}

/// NUL-terminated words, two at a time.
pub(super) fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut words = words(text);
    std::iter::from_fn(move || Some((words.next()?, words.next()?)))
}

/// RFC 3501 7.4.2. Values are unfolded and otherwise as sent: encoded-words stay encoded, octets
/// above 127 may occur, NUL never does. Absent is `None` (NIL) or an empty list (NIL).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Envelope<'a> {
    pub date: Option<&'a [u8]>,
    pub subject: Option<&'a [u8]>,
    pub from: Vec<Address<'a>>,
    /// `None` when the field is absent or empty: then it counts as `from`; the same for `reply_to`.
    pub sender: Option<Vec<Address<'a>>>,
    pub reply_to: Option<Vec<Address<'a>>>,
    pub to: Vec<Address<'a>>,
    pub cc: Vec<Address<'a>>,
    pub bcc: Vec<Address<'a>>,
    pub in_reply_to: Option<&'a [u8]>,
    pub message_id: Option<&'a [u8]>,
}

impl<'a> Envelope<'a> {
    /// Of the texts that `text` has of the envelope's fields.
    pub(super) fn new(text: impl Fn(Field) -> Option<&'a [u8]>) -> Envelope<'a> {
        let list = |field| text(field).map(address::parse_list).unwrap_or_default();
        // An empty Sender or Reply-To counts as absent (RFC 3501 7.4.2).
        let some = |list: Vec<Address<'a>>| (!list.is_empty()).then_some(list);
        Envelope {
            date: text(Field::Date),
            subject: text(Field::Subject),
            from: list(Field::From),
            sender: some(list(Field::Sender)),
            reply_to: some(list(Field::ReplyTo)),
            to: list(Field::To),
            cc: list(Field::Cc),
            bcc: list(Field::Bcc),
            in_reply_to: text(Field::InReplyTo),
            message_id: text(Field::MessageId),
        }
    }
}
