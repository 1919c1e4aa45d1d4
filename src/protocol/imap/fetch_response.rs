//! FETCH responses (RFC 3501 7.4.2), an item at a time.
//!
//! [`FetchResponse`] does not hold the output: bodies are streamed from the store in pieces, with
//! flushes in between, and the service cannot keep `Connection::output` borrowed across those. The
//! hot path formats nothing: fixed labels, numbers, slices.

use super::{
    date::write_date_time,
    message::fetch::{Section, SectionPart},
    object_id::ObjectId,
    response::{push_flags, push_pair},
    write::{push_astring, push_literal_header, push_nstring, push_string},
};
use crate::model::{FlagSet, ModSeq, Timestamp, Uid};

/// How responses name a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// `* number FETCH (`
    Number,
    /// `* number FETCH (UID uid`
    Both,
    /// `* uid UIDFETCH (` (RFC 9586 3.3)
    Uid,
}

/// One FETCH response being written. Invariant: between [`FetchResponse::begin`] and
/// [`FetchResponse::end`] only the octets of announced literals are appended to the output from
/// elsewhere.
#[derive(Debug)]
#[must_use = "a FETCH response is finished by end()"]
pub struct FetchResponse {
    first: bool,
}

impl FetchResponse {
    /// `* number FETCH (`.
    pub fn begin(out: &mut Vec<u8>, number: u32) -> FetchResponse {
        push_pair(out, "* ", number.into());
        out.extend_from_slice(b" FETCH (");
        FetchResponse { first: true }
    }

    /// The same for a message that is named in one of several ways; what follows in the response
    /// is about it.
    pub fn about(out: &mut Vec<u8>, naming: Naming, number: u32, uid: Uid) -> FetchResponse {
        let mut response = match naming {
            Naming::Number | Naming::Both => FetchResponse::begin(out, number),
            Naming::Uid => {
                push_pair(out, "* ", uid.0.into());
                out.extend_from_slice(b" UIDFETCH (");
                FetchResponse { first: true }
            }
        };
        if naming == Naming::Both {
            response.uid(out, uid);
        }
        response
    }

    pub fn end(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b")\r\n");
    }

    /// `keywords` is the mailbox's table, to which the message's keyword bits point.
    pub fn flags(&mut self, out: &mut Vec<u8>, flags: FlagSet, keywords: &[String], recent: bool) {
        self.label(out, "FLAGS ");
        // Most messages have no keywords: the table's 128 bits are not walked in vain.
        let set = (!flags.keywords.is_empty()).then(|| flags.keywords.iter()).into_iter().flatten();
        let names = set.filter_map(|index| keywords.get(index)).map(String::as_str);
        push_flags(out, flags.system, names, recent, false);
    }

    pub fn uid(&mut self, out: &mut Vec<u8>, uid: Uid) {
        self.label(out, "UID ");
        push_pair(out, "", uid.0.into());
    }

    /// RFC 7162 3.1.4.
    pub fn mod_seq(&mut self, out: &mut Vec<u8>, mod_seq: ModSeq) {
        self.label(out, "MODSEQ (");
        push_pair(out, "", mod_seq.0);
        out.push(b')');
    }

    /// RFC822.SIZE.
    pub fn size(&mut self, out: &mut Vec<u8>, octets: u64) {
        self.label(out, "RFC822.SIZE ");
        push_pair(out, "", octets);
    }

    /// In UTC.
    pub fn internal_date(&mut self, out: &mut Vec<u8>, date: Timestamp) {
        self.label(out, "INTERNALDATE ");
        write_date_time(out, date);
    }

    /// RFC 8970 4.
    pub fn preview(&mut self, out: &mut Vec<u8>, text: &str) {
        self.label(out, "PREVIEW ");
        push_string(out, text.as_bytes());
    }

    /// RFC 8474 5.1.
    pub fn email_id(&mut self, out: &mut Vec<u8>, id: ObjectId) {
        self.label(out, "EMAILID ");
        id.push(out);
    }

    /// RFC 8474 5.2.
    pub fn thread_id(&mut self, out: &mut Vec<u8>, id: ObjectId) {
        self.label(out, "THREADID ");
        id.push(out);
    }

    /// RFC 8514 4.2; in UTC.
    pub fn save_date(&mut self, out: &mut Vec<u8>, date: Timestamp) {
        self.label(out, "SAVEDATE ");
        write_date_time(out, date);
    }

    /// `BODY[…]<origin>` of `size` octets, which the caller appends next. `origin` is the offset of
    /// the requested partial (RFC 3501 7.4.2).
    pub fn section_literal(
        &mut self,
        out: &mut Vec<u8>,
        section: &Section<'_>,
        origin: Option<u64>,
        size: u64,
    ) {
        self.section_label(out, section, origin);
        push_literal_header(out, size);
    }

    /// `BODY[…]<origin>` with a `text` in memory; `None` (NIL) if there is no such part.
    pub fn section(
        &mut self,
        out: &mut Vec<u8>,
        section: &Section<'_>,
        origin: Option<u64>,
        text: Option<&[u8]>,
    ) {
        self.section_label(out, section, origin);
        push_nstring(out, text);
    }

    /// `RFC822`, `RFC822.HEADER` or `RFC822.TEXT` (`name`) of `size` octets, appended next by the
    /// caller.
    pub fn rfc822_literal(&mut self, out: &mut Vec<u8>, name: &str, size: u64) {
        self.label(out, name);
        out.push(b' ');
        push_literal_header(out, size);
    }

    /// `BINARY[…]<origin>` of `size` octets, which the caller appends next; a `literal8` if there
    /// may be NUL among them (RFC 3516 4.2).
    pub fn binary_literal(
        &mut self,
        out: &mut Vec<u8>,
        section: &Section<'_>,
        origin: Option<u64>,
        (size, has_nul): (u64, bool),
    ) {
        self.binary_label(out, section, origin);
        if has_nul {
            out.push(b'~');
        }
        push_literal_header(out, size);
    }

    /// `BINARY[…]<origin> NIL`: there is no such part.
    pub fn no_binary(&mut self, out: &mut Vec<u8>, section: &Section<'_>, origin: Option<u64>) {
        self.binary_label(out, section, origin);
        out.extend_from_slice(b"NIL");
    }

    /// RFC 3516 4.3.
    pub fn binary_size(&mut self, out: &mut Vec<u8>, section: &Section<'_>, octets: u64) {
        self.label(out, "BINARY.SIZE[");
        write_section(out, section);
        push_pair(out, "] ", octets);
    }

    fn binary_label(&mut self, out: &mut Vec<u8>, section: &Section<'_>, origin: Option<u64>) {
        self.label(out, "BINARY[");
        write_section(out, section);
        self.close_section(out, origin);
    }

    fn section_label(&mut self, out: &mut Vec<u8>, section: &Section<'_>, origin: Option<u64>) {
        self.label(out, "BODY[");
        write_section(out, section);
        self.close_section(out, origin);
    }

    fn close_section(&mut self, out: &mut Vec<u8>, origin: Option<u64>) {
        out.push(b']');
        if let Some(origin) = origin {
            push_pair(out, "<", origin);
            out.push(b'>');
        }
        out.push(b' ');
    }

    /// The space between items and an item's name.
    pub(super) fn label(&mut self, out: &mut Vec<u8>, label: &str) {
        if !self.first {
            out.push(b' ');
        }
        self.first = false;
        out.extend_from_slice(label.as_bytes());
    }
}

fn write_path(out: &mut Vec<u8>, path: &[u32]) {
    for (index, &part) in path.iter().enumerate() {
        push_pair(out, if index == 0 { "" } else { "." }, part.into());
    }
}

/// The text between the brackets.
fn write_section(out: &mut Vec<u8>, section: &Section<'_>) {
    write_path(out, &section.path);
    let (word, fields) = match &section.part {
        SectionPart::Full => return,
        SectionPart::Header => ("HEADER", None),
        SectionPart::HeaderFields(fields) => ("HEADER.FIELDS", Some(fields)),
        SectionPart::HeaderFieldsNot(fields) => ("HEADER.FIELDS.NOT", Some(fields)),
        SectionPart::Text => ("TEXT", None),
        SectionPart::Mime => ("MIME", None),
    };
    if !section.path.is_empty() {
        out.push(b'.');
    }
    out.extend_from_slice(word.as_bytes());
    let Some(fields) = fields else { return };
    for (index, field) in fields.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b" (" } else { b" " });
        push_astring(out, field);
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Flags, KeywordSet};

    #[track_caller]
    fn check(expected: &str, write: impl FnOnce(&mut FetchResponse, &mut Vec<u8>)) {
        let mut out = Vec::new();
        let mut response = FetchResponse::begin(&mut out, 12);
        write(&mut response, &mut out);
        response.end(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("* 12 FETCH ({expected})\r\n"));
    }

    #[test]
    fn values() {
        let mut keywords = KeywordSet::default();
        keywords.insert(1);
        keywords.insert(100); // beyond the table: skipped
        let flags = FlagSet { system: Flags::SEEN | Flags::DRAFT, keywords };
        let table = ["$Junk".to_owned(), "work".to_owned()];
        check("FLAGS (\\Seen \\Draft \\Recent work) UID 4294967295", |response, out| {
            response.flags(out, flags, &table, true);
            response.uid(out, Uid(u32::MAX));
        });
        check("FLAGS () MODSEQ (65402) RFC822.SIZE 44827", |response, out| {
            response.flags(out, FlagSet::default(), &table, false);
            response.mod_seq(out, ModSeq(65_402));
            response.size(out, 44_827);
        });
        check("INTERNALDATE \"17-Jul-1996 09:44:25 +0000\"", |response, out| {
            response.internal_date(out, Timestamp::from_unix_seconds(837_596_665));
        });
    }

    #[test]
    fn sections() {
        let section = |path: &[u32], part| Section { path: path.into(), part };
        check("BODY[] {3}\r\nabc BODY[1.2.MIME]<5> \"x\"", |response, out| {
            response.section_literal(out, &section(&[], SectionPart::Full), None, 3);
            out.extend_from_slice(b"abc");
            let mime = section(&[1, 2], SectionPart::Mime);
            response.section(out, &mime, Some(5), Some(b"x"));
        });
        check("BODY[3] NIL BODY[TEXT] \"\"", |response, out| {
            response.section(out, &section(&[3], SectionPart::Full), None, None);
            response.section(out, &section(&[], SectionPart::Text), None, Some(b""));
        });
        let fields = || vec![b"From".as_slice().into(), b"a b".as_slice().into()];
        check("BODY[HEADER.FIELDS (From \"a b\")] \"\"", |response, out| {
            let section = section(&[], SectionPart::HeaderFields(fields()));
            response.section(out, &section, None, Some(b""));
        });
        check("BODY[1.HEADER.FIELDS.NOT (From \"a b\")] \"\"", |response, out| {
            let section = section(&[1], SectionPart::HeaderFieldsNot(fields()));
            response.section(out, &section, None, Some(b""));
        });
        check("RFC822.HEADER {2}\r\n\r\n", |response, out| {
            response.rfc822_literal(out, "RFC822.HEADER", 2);
            out.extend_from_slice(b"\r\n");
        });
    }
}
