//! The stored form of a [`Summary`].
//!
//! The store keeps it beside each message and never looks inside, so the version octet is the only
//! contract with data of older servers. Numbers are LEB128; the texts come last, in one piece,
//! exactly as in [`Summary::text`]:
//!
//! ```text
//! version 4 | size | exact | folded | references | preview | parts | part... | text
//! references: 0 if nobody looked, else their number plus 1 and the hash of each, 8 octets
//! preview: 0 if nobody looked, else its octets plus 1 and the octets, UTF-8
//! part: present << 2 | kind, header start (from the part before), header size, body size,
//!       lines, descendants, size of each text present
//! ```
//!
//! Version 3 had no `preview`, version 2 no `references` either: nobody looked. Version 1 had
//! neither `exact` nor `folded`: nothing of it is exact.

use smallvec::{SmallVec, smallvec};

use super::{
    message_id::REFERENCES_MAX,
    summary::{
        DEPTH_MAX, DecodeError, ENVELOPE_FIELDS, Field, PARTS_MAX, PartKind, Record, Summary,
    },
};

const VERSION: u8 = 4;
/// Read, and no longer written.
const VERSION_WITHOUT_PREVIEW: u8 = 3;
const VERSION_WITHOUT_REFERENCES: u8 = 2;
const VERSION_WITHOUT_EXACT: u8 = 1;
/// Octets of the longest number.
const NUMBER_SIZE_MAX: usize = 10;

impl Summary {
    /// Versioned, compact: a few hundred octets for a typical message.
    pub fn encode(&self) -> Vec<u8> {
        let hashes = self.references.as_ref().map_or(0, Vec::len);
        let numbers = 6 + 2 * hashes + 6 * self.records.len() + self.ends.len();
        let preview = self.preview.as_deref();
        let texts = preview.map_or(0, str::len) + self.text.len();
        let mut out = Vec::with_capacity(1 + numbers * 4 + texts);
        out.push(VERSION);
        write_number(self.size, &mut out);
        write_number(self.exact.into(), &mut out);
        write_number(self.folded.into(), &mut out);
        match &self.references {
            None => write_number(0, &mut out),
            Some(hashes) => {
                write_number(hashes.len() as u64 + 1, &mut out);
                hashes.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
            }
        }
        write_number(preview.map_or(0, |text| text.len() as u64 + 1), &mut out);
        out.extend_from_slice(preview.unwrap_or_default().as_bytes());
        write_number(self.records.len() as u64, &mut out);
        let mut header_start = 0;
        let mut text_start = 0;
        let mut ends = self.ends.iter();
        for record in &self.records {
            let kind = match record.kind {
                PartKind::Leaf => 0,
                PartKind::Multipart => 1,
                PartKind::Message => 2,
            };
            write_number(u64::from(record.present) << 2 | kind, &mut out);
            write_number(record.header_start - header_start, &mut out);
            write_number(record.body_start - record.header_start, &mut out);
            write_number(record.body_end - record.body_start, &mut out);
            write_number(record.lines, &mut out);
            write_number(u64::from(record.descendants), &mut out);
            for &end in ends.by_ref().take(record.present.count_ones() as usize) {
                write_number(u64::from(end - text_start), &mut out);
                text_start = end;
            }
            header_start = record.header_start;
        }
        out.extend_from_slice(&self.text);
        out
    }

    /// Never panics; memory is proportional to `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Summary, DecodeError> {
        let mut summary = Summary::spent();
        summary.decode_again(bytes)?;
        Ok(summary)
    }

    /// Like [`Summary::decode`], but reuses the memory of this summary. After an error the summary
    /// may only be used for another call.
    pub fn decode_again(&mut self, bytes: &[u8]) -> Result<(), DecodeError> {
        match bytes.split_first() {
            None => Err(DecodeError::Damaged),
            Some((&version @ VERSION_WITHOUT_EXACT..=VERSION, rest)) => {
                decode(version, rest, self).ok_or(DecodeError::Damaged)
            }
            Some((&version, _)) => Err(DecodeError::Version(version)),
        }
    }
}

/// `None` unless every invariant of [`Record`] holds: the readers rely on them.
fn decode(version: u8, mut bytes: &[u8], summary: &mut Summary) -> Option<()> {
    let input = &mut bytes;
    let size = read_number(input)?;
    let (exact, folded) = match version {
        VERSION_WITHOUT_EXACT => (0, 0),
        _ => (read_fields(input)?, read_fields(input)?),
    };
    let references = match version {
        VERSION_WITHOUT_EXACT | VERSION_WITHOUT_REFERENCES => None,
        _ => read_references(input)?,
    };
    let preview = match version {
        ..=VERSION_WITHOUT_PREVIEW => None,
        _ => read_preview(input)?,
    };
    let count = usize::try_from(read_number(input)?).ok()?;
    if count == 0 || count > PARTS_MAX || count > input.len() {
        return None;
    }
    (summary.size, summary.exact, summary.folded) = (size, exact, folded);
    (summary.references, summary.preview) = (references, preview);
    summary.records.clear();
    summary.records.reserve(count);
    summary.ends.clear();
    summary.ends.reserve(Field::COUNT.min(input.len()));
    summary.text.clear();
    let mut header_start = 0;
    let mut text_size = 0;
    for _ in 0..count {
        let record = read_record(input, header_start, &mut summary.ends, &mut text_size)?;
        header_start = record.header_start;
        summary.records.push(record);
    }
    summary.text.extend_from_slice(input);
    (summary.text.len() == text_size as usize && is_tree(summary)).then_some(())
}

fn read_record(
    input: &mut &[u8],
    header_start_before: u64,
    ends: &mut Vec<u32>,
    text_size: &mut u32,
) -> Option<Record> {
    let tag = read_number(input)?;
    let kind = match tag & 3 {
        0 => PartKind::Leaf,
        1 => PartKind::Multipart,
        2 => PartKind::Message,
        _ => return None,
    };
    let present = u32::try_from(tag >> 2).ok().filter(|present| present >> Field::COUNT == 0)?;
    let header_start = header_start_before.checked_add(read_number(input)?)?;
    let body_start = header_start.checked_add(read_number(input)?)?;
    let body_end = body_start.checked_add(read_number(input)?)?;
    let lines = read_number(input)?;
    let descendants = u32::try_from(read_number(input)?).ok()?;
    let first_text = ends.len() as u32;
    for _ in 0..present.count_ones() {
        *text_size = text_size.checked_add(u32::try_from(read_number(input)?).ok()?)?;
        ends.push(*text_size);
    }
    Some(Record {
        kind,
        present,
        first_text,
        header_start,
        body_start,
        body_end,
        lines,
        descendants,
    })
}

/// Whether parts are inside their parents, and each kind has the required children.
fn is_tree(summary: &Summary) -> bool {
    let records = &summary.records;
    // (index after the part's last descendant, end of its body), outermost first.
    let mut open: SmallVec<[(usize, u64); 8]> = smallvec![(records.len(), summary.size)];
    let first_is_all = records[0].descendants as usize == records.len() - 1;
    first_is_all
        && records.iter().enumerate().all(|(index, record)| {
            while open.len() > 1 && open.last().is_some_and(|&(end, _)| end == index) {
                open.pop();
            }
            let Some(&(end_outer, body_end_outer)) = open.last() else { return false };
            let descendants = record.descendants as usize;
            let children_fit = match record.kind {
                PartKind::Leaf => descendants == 0,
                PartKind::Multipart => true,
                PartKind::Message => records
                    .get(index + 1)
                    .is_some_and(|inner| inner.descendants as usize + 1 == descendants),
            };
            let end = index + 1 + descendants;
            open.push((end, record.body_end));
            children_fit
                && end <= end_outer
                && record.body_end <= body_end_outer
                && open.len() <= DEPTH_MAX + 2
                // Leaves last: what follows a part begins after its body did.
                && records.get(index + 1).is_none_or(|next| {
                    descendants == 0 || next.header_start >= record.body_start
                })
        })
}

/// The first words; `None` inside if nobody looked.
fn read_preview(input: &mut &[u8]) -> Option<Option<String>> {
    let Some(size) = read_number(input)?.checked_sub(1) else { return Some(None) };
    let (text, rest) = input.split_at_checked(usize::try_from(size).ok()?)?;
    *input = rest;
    Some(Some(str::from_utf8(text).ok()?.to_owned()))
}

/// Hashes of References; `None` inside if nobody looked.
fn read_references(input: &mut &[u8]) -> Option<Option<Vec<u64>>> {
    let Some(count) = read_number(input)?.checked_sub(1) else { return Some(None) };
    let count = usize::try_from(count).ok().filter(|count| *count <= REFERENCES_MAX)?;
    let (hashes, rest) = input.split_at_checked(count * 8)?;
    *input = rest;
    let (hashes, _) = hashes.as_chunks();
    Some(Some(hashes.iter().map(|hash| u64::from_le_bytes(*hash)).collect()))
}

/// A set of fields of an envelope.
fn read_fields(input: &mut &[u8]) -> Option<u16> {
    u16::try_from(read_number(input)?).ok().filter(|fields| fields >> ENVELOPE_FIELDS == 0)
}

pub(super) fn write_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

// A call costs more than a short number.
#[inline(always)]
pub(super) fn read_number(input: &mut &[u8]) -> Option<u64> {
    // Most are short.
    match *input {
        [byte @ ..0x80, rest @ ..] => {
            *input = rest;
            Some(u64::from(*byte))
        }
        [low, high @ ..0x80, rest @ ..] => {
            *input = rest;
            Some(u64::from(low & 0x7f) | u64::from(*high) << 7)
        }
        _ => read_long_number(input),
    }
}

fn read_long_number(input: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for index in 0..NUMBER_SIZE_MAX {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        if index == NUMBER_SIZE_MAX - 1 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{MessageSearch, Needle, Scope, Summarizer},
        *,
    };

    fn summary(message: &str) -> Summary {
        let mut summarizer = Summarizer::new();
        summarizer.push(message.as_bytes());
        summarizer.finish()
    }

    const MESSAGES: &[&str] = &[
        "",
        "\r\n",
        "Subject: hi\r\nFrom: a@b\r\n\r\nbody\r\n",
        "Message-ID: <a@b>\r\nReferences: <c@d> <e@f>\r\n\r\nbody\r\n",
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\
         Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntwo\r\n--b--\r\n",
    ];

    #[test]
    fn round_trip() {
        for message in MESSAGES {
            let summary = summary(message);
            assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        }
    }

    /// As version 2 wrote it, and version 1.
    #[test]
    fn summaries_without_references_are_read() {
        let mut newer = summary(MESSAGES[3]);
        newer.preview = None;
        let mut older = newer.encode();
        assert_eq!(older[0], VERSION);
        older[0] = VERSION_WITHOUT_REFERENCES;
        let at = older.iter().position(|octet| *octet == 3).expect("two references");
        // And the preview, which nobody looked for.
        older.drain(at..at + 18);
        let found = Summary::decode(&older).unwrap();
        assert_eq!((&found.references, found.header_size()), (&None, 46));
    }

    #[test]
    fn summaries_without_a_preview_are_read() {
        let mut newer = summary("Subject: hi\r\n\r\nbody");
        assert_eq!(newer.preview(), Some("body"));
        newer.preview = None;
        let mut older = newer.encode();
        older[0] = VERSION_WITHOUT_PREVIEW;
        // After the version, the size, two bit sets and the references.
        let at = 1 + 1 + encoded(newer.exact) + encoded(newer.folded) + 1;
        assert_eq!(older.remove(at), 0);
        assert_eq!(Summary::decode(&older), Ok(newer));
    }

    /// Octets of the number.
    fn encoded(number: u16) -> usize {
        let mut out = Vec::new();
        write_number(number.into(), &mut out);
        out.len()
    }

    #[test]
    fn summaries_without_exact_fields_are_read() {
        let mut older = vec![1, 17, 1, (1 << Field::Subject as u8) << 2, 0, 17, 0, 0, 0, 2];
        older.extend_from_slice(b"hi");
        let found = Summary::decode(&older).unwrap();
        assert_eq!((found.exact, found.header_size()), (0, 17));
        assert_eq!(found.envelope().subject, Some(b"hi".as_slice()));
    }

    #[test]
    fn a_simple_message_is_small() {
        let texts = "Mon, 23 Nov 2026 21:30:00 +0000".len() + "hi".len() + "a@b".len();
        let summary =
            summary("Date: Mon, 23 Nov 2026 21:30:00 +0000\r\nSubject: hi\r\nFrom: a@b\r\n\r\nx");
        assert!(summary.encode().len() <= texts + 20);
    }

    #[test]
    fn every_cut_and_every_damaged_octet_is_survived() {
        for message in MESSAGES {
            let encoded = summary(message).encode();
            for cut in 0..encoded.len() {
                assert!(Summary::decode(&encoded[..cut]).is_err());
            }
            for at in 0..encoded.len() {
                for flip in 1..=255 {
                    let mut damaged = encoded.clone();
                    damaged[at] ^= flip;
                    walk(&damaged);
                }
            }
        }
        assert_eq!(Summary::decode(&[9]), Err(DecodeError::Version(9)));
    }

    /// Decodes and, if that succeeds, reads everything.
    fn walk(bytes: &[u8]) {
        fn walk_part(part: super::super::Part<'_>, size: u64) {
            assert!(
                part.header().start <= part.body().start && part.body().start <= part.body().end
            );
            assert!(part.body().end <= size);
            let _ = (part.id(), part.parameters().count(), part.disposition_parameters().count());
            let _ = (part.languages().count(), part.location(), part.envelope());
            part.children().chain(part.message()).for_each(|part| walk_part(part, size));
        }
        if let Ok(summary) = Summary::decode(bytes) {
            walk_part(summary.root(), summary.size());
            let _ = summary.envelope();
            search_in(&summary);
            // In the memory of another, too.
            let mut again = self::summary(MESSAGES[4]);
            assert_eq!(again.decode_again(bytes), Ok(()));
            assert_eq!(again, summary);
            assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        }
    }

    /// Parts of a damaged summary may overlap.
    fn search_in(summary: &Summary) {
        let needle = Needle::new("needle");
        let mut search = MessageSearch::new(summary, &[(Scope::Text, &needle)]);
        let message = [b'-'; 300];
        while let Some(rest) = message.get(search.seek() as usize..).filter(|rest| !rest.is_empty())
            && !search.push(&rest[..rest.len().min(40)])
        {}
        assert_eq!(search.finish(), [false]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            walk(&bytes);
            bytes.insert(0, VERSION);
            walk(&bytes);
        }

        #[test]
        fn small_numbers_never_panic(
            mut bytes in prop::collection::vec(0u8..6, 0..60),
            version in 1..=VERSION,
        ) {
            bytes.insert(0, version);
            walk(&bytes);
        }
    }
}
