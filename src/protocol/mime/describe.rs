//! From a part's header block to its record: kind, boundary, and the texts for FETCH.
//!
//! Called by the summarizer once per part. Each text is bounded, and so is their sum; a text
//! without room counts as absent.

use memchr::{memchr, memchr_iter, memchr2, memchr3};

use super::{
    header::{self, unfold},
    message_id,
    parameter::{Cursor, languages, media_type, percent_decode},
    summarizer::BOUNDARY_SIZE_MAX,
    summary::{Field, PartKind, Summary, pairs},
};

/// Octets kept of one text; a longer one is truncated, an address list after a complete address.
pub(super) const VALUE_SIZE_MAX: usize = 64 * 1024;
/// Octets of all texts of a message.
pub(super) const TEXT_SIZE_MAX: usize = 256 * 1024;

/// The context of the part.
pub(super) struct Description {
    /// The root part of a message: its header has the envelope.
    pub of_message: bool,
    /// Inside multipart/digest.
    pub in_digest: bool,
    /// Beyond a limit: treated as application/octet-stream whatever its header says.
    pub opaque: bool,
}

/// What the summarizer needs to continue.
pub(super) struct Found {
    pub kind: PartKind,
    /// Of a multipart; empty if it is longer than [`BOUNDARY_SIZE_MAX`].
    pub boundary: Vec<u8>,
    pub digest: bool,
}

const LEAF: Found = Found { kind: PartKind::Leaf, boundary: Vec::new(), digest: false };

/// The relevant header fields; the first of each name counts.
const NAMES: [(&[u8], Field); 18] = [
    (b"date", Field::Date),
    (b"subject", Field::Subject),
    (b"from", Field::From),
    (b"sender", Field::Sender),
    (b"reply-to", Field::ReplyTo),
    (b"to", Field::To),
    (b"cc", Field::Cc),
    (b"bcc", Field::Bcc),
    (b"in-reply-to", Field::InReplyTo),
    (b"message-id", Field::MessageId),
    (b"content-type", Field::MediaType),
    (b"content-id", Field::Id),
    (b"content-description", Field::Description),
    (b"content-transfer-encoding", Field::Encoding),
    (b"content-md5", Field::Md5),
    (b"content-disposition", Field::Disposition),
    (b"content-language", Field::Language),
    (b"content-location", Field::Location),
];

/// Raw values by [`Field`].
struct Values<'a> {
    first: [Option<&'a [u8]>; Field::COUNT],
    /// Bit n is set if `Field` n occurred more than once.
    repeated: u32,
    /// The References field of a message, which is no text of a part.
    references: Option<&'a [u8]>,
}

impl<'a> Values<'a> {
    fn read(block: &'a [u8], of_message: bool) -> Values<'a> {
        let mut values = Values { first: [None; Field::COUNT], repeated: 0, references: None };
        for field in header::fields(block) {
            let Some(known) = known(field.name, of_message) else {
                if of_message && field.name.eq_ignore_ascii_case(b"references") {
                    values.references.get_or_insert(field.value);
                }
                continue;
            };
            match &mut values.first[known as usize] {
                Some(_) => values.repeated |= 1 << known as u32,
                first => *first = Some(field.value),
            }
        }
        values
    }

    fn get(&self, field: Field) -> Option<&'a [u8]> {
        self.first[field as usize]
    }
}

fn known(name: &[u8], of_message: bool) -> Option<Field> {
    // Most fields of a header are none of these: the first letter and the size decide.
    let (envelope, mime) = NAMES.split_at(10);
    let names = match name.first()? {
        b'c' | b'C' if name.len() > 8 => mime,
        _ if of_message => envelope,
        _ => return None,
    };
    names.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|&(_, field)| field)
}

/// Parses `block` into record `index` of `summary` and returns the kind of the part.
pub(super) fn describe(
    block: &[u8],
    surroundings: Description,
    summary: &mut Summary,
    index: usize,
) -> Found {
    let values = Values::read(block, surroundings.of_message);
    let mut texts = Texts::new(summary, index);
    if surroundings.of_message {
        envelope_texts(block, &values, &mut texts);
        if index == 0 {
            let found = message_id::references(values.references.unwrap_or_default());
            texts.summary.references = Some(found);
        }
    }
    let found = if surroundings.opaque {
        texts.add(Field::MediaType, |out| out.extend_from_slice(b"application"));
        texts.add(Field::MediaSubtype, |out| out.extend_from_slice(b"octet-stream"));
        LEAF
    } else {
        let found = media_texts(values.get(Field::MediaType), surroundings.in_digest, &mut texts);
        content_texts(&values, &mut texts);
        found
    };
    summary.records[index].kind = found.kind;
    found
}

/// Appends texts of one record, in the order of [`Field`].
struct Texts<'a> {
    summary: &'a mut Summary,
    index: usize,
}

impl<'a> Texts<'a> {
    fn new(summary: &'a mut Summary, index: usize) -> Texts<'a> {
        summary.records[index].first_text = summary.ends.len() as u32;
        Texts { summary, index }
    }

    /// Whether all of it fitted.
    fn add(&mut self, field: Field, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let text = &mut self.summary.text;
        let start = text.len();
        write(text);
        let room = VALUE_SIZE_MAX.min(TEXT_SIZE_MAX - start);
        let fits = text.len() - start <= room;
        if text.len() - start > room {
            text.truncate(start + room);
            let whole = match field {
                Field::From | Field::Sender | Field::ReplyTo => {
                    memchr::memrchr(b',', &text[start..])
                }
                Field::To | Field::Cc | Field::Bcc => memchr::memrchr(b',', &text[start..]),
                // Words and pairs must stay complete: if not, they are left out.
                Field::Parameters | Field::DispositionParameters | Field::Language => Some(0),
                _ => None,
            };
            text.truncate(start + whole.unwrap_or(room));
            if text.len() == start {
                return false;
            }
        }
        self.summary.ends.push(text.len() as u32);
        self.summary.records[self.index].present |= 1 << field as u32;
        fits
    }

    /// As [`Texts::add`]; an absent value always fits.
    fn add_unfolded(&mut self, field: Field, values: &Values<'_>) -> bool {
        values.get(field).is_none_or(|value| self.add(field, |out| unfold(value, out)))
    }
}

fn envelope_texts(block: &[u8], values: &Values<'_>, texts: &mut Texts<'_>) {
    for (name, field) in &NAMES[..10] {
        let is_list =
            !matches!(field, Field::Date | Field::Subject | Field::InReplyTo | Field::MessageId);
        if is_list && values.repeated & (1 << *field as u32) != 0 {
            // RFC 5322 3.6 allows each once; messages that repeat it mean one list.
            texts.add(*field, |out| {
                let start = out.len();
                for other in header::fields(block) {
                    if other.name.eq_ignore_ascii_case(name) {
                        if out.len() > start {
                            out.extend_from_slice(b", ");
                        }
                        unfold(other.value, out);
                    }
                }
            });
        } else {
            let value = values.get(*field).unwrap_or_default();
            let is_whole = texts.add_unfolded(*field, values)
                && values.repeated & (1 << *field as u32) == 0
                && (!is_list || reads_the_same_unfolded(value));
            if texts.index == 0 {
                texts.summary.exact |= u16::from(is_whole) << *field as u16;
                texts.summary.folded |= u16::from(memchr(b'\n', value).is_some()) << *field as u16;
            }
        }
    }
}

/// Whether the addresses of a list are the same before and after unfolding. The exceptions: a CR as
/// white space, anything quoted that spans lines, octets that only one of the two parsers skips
/// (NUL, form feed), and ends whose trimming changes what a search sees or what is quoted.
fn reads_the_same_unfolded(value: &[u8]) -> bool {
    let from_start = value.trim_ascii_start();
    let text = from_start.trim_ascii_end();
    let (before, after) = (&value[..value.len() - from_start.len()], &from_start[text.len()..]);
    let is_plain_at_ends = !matches!(text.first(), Some(b'@' | b'>'))
        && !matches!(text.last(), Some(b'@' | b'<' | b'.'))
        && memchr(b'\t', before).is_none()
        && memchr(b'\t', after).is_none()
        && (after.is_empty() || memchr3(b'"', b'(', b'[', text).is_none());
    is_plain_at_ends
        && memchr2(0, b'\x0c', value).is_none()
        && memchr_iter(b'\r', value).all(|at| value.get(at + 1) == Some(&b'\n'))
        && (memchr(b'\n', value).is_none() || is_quoted_by_the_line(value))
}

/// Whether no quoted string, quoted pair or domain literal spans lines; false if that is hard to
/// tell.
fn is_quoted_by_the_line(value: &[u8]) -> bool {
    let has = |octet| memchr(octet, value).is_some();
    let is_closed = |line: &[u8]| memchr_iter(b'"', line).count().is_multiple_of(2);
    let is_unclear = has(b'[') || has(b'\\') || has(b'(') && has(b'"');
    !is_unclear && (!has(b'"') || value.split(|octet| *octet == b'\n').all(is_closed))
}

/// Content-Type to its three texts. What RFC 2045 5.2 and 2046 5.1 forbid is text/plain: no type,
/// or a multipart without boundary.
fn media_texts(value: Option<&[u8]>, in_digest: bool, texts: &mut Texts<'_>) -> Found {
    let mut cursor = Cursor::new(value.unwrap_or_default());
    let Some((media_type, subtype)) = media_type(&mut cursor) else {
        if !in_digest {
            return LEAF;
        }
        texts.add(Field::MediaType, |out| out.extend_from_slice(b"message"));
        texts.add(Field::MediaSubtype, |out| out.extend_from_slice(b"rfc822"));
        return Found { kind: PartKind::Message, ..LEAF };
    };
    let mut parameters = Vec::new();
    cursor.parameters(&mut parameters);
    let mut found = LEAF;
    if media_type.eq_ignore_ascii_case(b"multipart") {
        let named =
            |wanted: &[u8]| pairs(&parameters).find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        // RFC 2231 4: a boundary needs no other charset, but may be encoded this way.
        let boundary = named(b"boundary")
            .map(|(_, boundary)| boundary.to_vec())
            .or_else(|| named(b"boundary*").map(|(_, value)| percent_decode(value)))
            .map(|boundary| boundary.trim_ascii_end().to_vec())
            .filter(|boundary| !boundary.is_empty());
        let Some(boundary) = boundary else { return LEAF };
        found.kind = PartKind::Multipart;
        if boundary.len() <= BOUNDARY_SIZE_MAX {
            found.boundary = boundary;
        }
        found.digest = subtype.eq_ignore_ascii_case(b"digest");
    } else if media_type.eq_ignore_ascii_case(b"message")
        && (subtype.eq_ignore_ascii_case(b"rfc822") || subtype.eq_ignore_ascii_case(b"global"))
    {
        found.kind = PartKind::Message;
    }
    texts.add(Field::MediaType, |out| out.extend_from_slice(media_type));
    texts.add(Field::MediaSubtype, |out| out.extend_from_slice(subtype));
    if !parameters.is_empty() {
        texts.add(Field::Parameters, |out| out.extend_from_slice(&parameters));
    }
    found
}

/// The other content fields; one without a usable value counts as absent.
fn content_texts(values: &Values<'_>, texts: &mut Texts<'_>) {
    texts.add_unfolded(Field::Id, values);
    texts.add_unfolded(Field::Description, values);
    let encoding = Cursor::new(values.get(Field::Encoding).unwrap_or_default()).token();
    if !encoding.is_empty() {
        texts.add(Field::Encoding, |out| out.extend_from_slice(encoding));
    }
    texts.add_unfolded(Field::Md5, values);
    let mut cursor = Cursor::new(values.get(Field::Disposition).unwrap_or_default());
    let disposition = cursor.token();
    if !disposition.is_empty() {
        texts.add(Field::Disposition, |out| out.extend_from_slice(disposition));
        let mut parameters = Vec::new();
        cursor.parameters(&mut parameters);
        if !parameters.is_empty() {
            texts.add(Field::DispositionParameters, |out| out.extend_from_slice(&parameters));
        }
    }
    let mut tags = Vec::new();
    languages(values.get(Field::Language).unwrap_or_default(), &mut tags);
    if !tags.is_empty() {
        texts.add(Field::Language, |out| out.extend_from_slice(&tags));
    }
    texts.add_unfolded(Field::Location, values);
}
