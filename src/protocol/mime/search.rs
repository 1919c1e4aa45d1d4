//! SEARCH over decoded text (RFC 3501 6.4.4): substrings, by a comparator (RFC 5255 4.6).
//!
//! IMAP SEARCH makes one [`Needle`] per string and looks for it in header values or whole messages.
//! A message is read as a stream: [`MessageSearch`] takes its bytes in any pieces, decodes transfer
//! encoding and charset, and keeps only what it needs to find needles across pieces.

use std::{borrow::Cow, ops::Range};

use memchr::memmem;

use super::{
    Address, Part, PartKind, Summary, address,
    charset::{Charset, TextDecoder},
    collation::Collation,
    encoded_word, header,
    html::Stripper,
    summarizer::HEADER_SIZE_MAX,
    transfer::TransferDecoder,
};

/// Most octets decoded at once: bounds the decoders' memory.
const PIECE_SIZE: usize = 16 * 1024;

/// The key of a string to look for.
#[derive(Clone, Debug)]
pub struct Needle {
    collation: Collation,
    finder: memmem::Finder<'static>,
}

impl Needle {
    /// By i;unicode-casemap.
    pub fn new(text: &str) -> Needle {
        Needle::by(Collation::default(), text)
    }

    pub fn by(collation: Collation, text: &str) -> Needle {
        let mut folded = Vec::with_capacity(text.len());
        collation.push_key(text, &mut folded);
        Needle { collation, finder: memmem::Finder::new(&folded).into_owned() }
    }

    /// Whether `text` contains it.
    pub fn is_in(&self, text: &str) -> bool {
        let mut folded = Vec::with_capacity(text.len());
        self.collation.push_key(text, &mut folded);
        self.is_in_folded(&folded)
    }

    /// Whether a raw header value (folded or not, encoded-words) contains it once decoded.
    pub fn is_in_value(&self, value: &[u8]) -> bool {
        let mut unfolded = Vec::with_capacity(value.len());
        header::unfold(value, &mut unfolded);
        self.is_in_unfolded(&unfolded, &mut Vec::new())
    }

    /// As [`Needle::is_in_value`], for an unfolded value; `scratch` is a buffer for it.
    pub(super) fn is_in_unfolded(&self, value: &[u8], scratch: &mut Vec<u8>) -> bool {
        if encoded_word::is_plain(value) {
            scratch.clear();
            scratch.extend_from_slice(value);
            self.collation.fold_ascii(scratch);
            return self.is_in_folded(scratch);
        }
        encoded_word::decode_unfolded(value).readings().any(|text| self.is_in(text))
    }

    /// `HEADER name needle`: whether any field `name` of the header block contains it. An empty
    /// needle tests only that the field exists. In address fields the needle may also be in an
    /// address as ENVELOPE returns it: `FROM`, `TO`, `CC` and `BCC` search that (RFC 3501 6.4.4).
    pub fn is_in_header(&self, header: &[u8], name: &[u8]) -> bool {
        let of_addresses = ADDRESS_FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name));
        header::fields(header).filter(|field| field.name.eq_ignore_ascii_case(name)).any(|field| {
            self.is_in_value(field.value) || of_addresses && self.is_in_addresses(field.value)
        })
    }

    /// Whether an address of the list `value` contains it, without comments, needless quotes and
    /// white space. Most lists have none of these; then the search of the raw text was enough.
    fn is_in_addresses(&self, value: &[u8]) -> bool {
        addresses_may_differ(value) && self.is_in_spelt_addresses(value)
    }

    /// Whether an address of the list `value`, as [`spelt`], contains it.
    pub(super) fn is_in_spelt_addresses(&self, value: &[u8]) -> bool {
        address::parse_list(value).iter().any(|address| self.is_in(&spelt(address)))
    }

    fn is_in_folded(&self, folded: &[u8]) -> bool {
        self.finder.find(folded).is_some()
    }

    /// Octets of the folded string.
    pub fn size(&self) -> usize {
        self.finder.needle().len()
    }

    /// Short needles are looked for in every piece of a text. A longer one is looked for only when
    /// as much text as its length has arrived; otherwise each piece would be searched many times.
    fn is_short(&self) -> bool {
        self.size() <= SHORT_MAX
    }
}

/// Most octets of a needle that is looked for in every piece.
const SHORT_MAX: usize = 4 * 1024;

/// Address fields in ENVELOPE.
const ADDRESS_FIELDS: [&[u8]; 6] = [b"From", b"To", b"Cc", b"Bcc", b"Sender", b"Reply-To"];

/// Whether ENVELOPE may spell an address of the list `value` differently.
pub(super) fn addresses_may_differ(value: &[u8]) -> bool {
    let mut before = 0;
    value.iter().any(|&octet| {
        let pair = (std::mem::replace(&mut before, octet), octet);
        matches!(octet, b'(' | b'"' | b'\n' | b'\t')
            || matches!(pair, (b' ', b'@' | b'>') | (b'@' | b'<' | b'.', b' '))
    })
}

/// `Name <mailbox@host>`, the name decoded; a group's name alone.
fn spelt(address: &Address<'_>) -> String {
    let text = |part: &Option<Cow<'_, [u8]>>| {
        part.as_deref().map(|part| encoded_word::decode_value(part).text).unwrap_or_default()
    };
    let (name, mailbox) = (text(&address.name), text(&address.mailbox));
    match address.host.as_deref() {
        None => mailbox,
        Some(b"") => format!("{name} <{mailbox}>"),
        Some(host) => format!("{name} <{mailbox}@{}>", String::from_utf8_lossy(host)),
    }
}

/// Where a needle is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// `BODY`: text and message parts, decoded, and the headers of embedded messages.
    Body,
    /// `TEXT`: the same and all headers, including those of parts.
    Text,
}

/// A range of the message that is searched in one way.
struct Region<'a> {
    range: Range<u64>,
    content: Content<'a>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    /// A header block, and the narrowest scope that includes it.
    Header(Scope),
    /// The body of a text part, or the preamble of a multipart.
    Text(Part<'a>),
    /// The epilogue of a multipart, with the close delimiter before it.
    Epilogue(Part<'a>),
}

/// A header block that was read, and is searched a few fields at a time.
struct Fields {
    scope: Scope,
    block: Vec<u8>,
    /// Where the next field begins.
    at: usize,
}

/// Separates fields in the text searched; no needle contains it, since it is not UTF-8.
const BETWEEN_FIELDS: u8 = 0xff;

/// Octets of fields searched at a time, divided by the number of needles.
const FIELDS_STEP: usize = 64 * 1024;

/// Reads the current region.
enum Reader {
    Between,
    Header(Scope, Vec<u8>),
    Text(Box<TextReader>),
}

/// The needles and which of them were found.
struct Needles<'a> {
    /// (scope, needle, found), in the caller's order.
    list: Vec<(Scope, &'a Needle, bool)>,
    /// Octets of a stream that must be kept for the next piece.
    keep: usize,
    /// All have the same.
    collation: Collation,
}

impl Needles<'_> {
    /// Looks for all needles in a complete text.
    fn look(&mut self, folded: &[u8], scope: Scope) {
        self.look_from(folded, 0, scope, |_| true);
    }

    /// Looks for the `chosen` needles in a text that is new from `fresh` on.
    fn look_from(
        &mut self,
        folded: &[u8],
        fresh: usize,
        scope: Scope,
        chosen: impl Fn(&Needle) -> bool,
    ) {
        for (wanted, needle, found) in &mut self.list {
            if !*found && (scope == Scope::Body || *wanted == Scope::Text) && chosen(needle) {
                let start = (fresh + 1).saturating_sub(needle.size());
                *found = folded.get(start..).is_some_and(|text| needle.is_in_folded(text));
            }
        }
    }

    fn all_found(&self) -> bool {
        self.list.iter().all(|(_, _, found)| *found)
    }
}

/// Looks for needles in one message as its bytes are read; keeps only one header block at a time,
/// up to [`HEADER_SIZE_MAX`], and a tail of the text.
pub struct MessageSearch<'a> {
    needles: Needles<'a>,
    /// Regions still to be searched, last first.
    regions: Vec<Region<'a>>,
    /// Octets of the message that were passed.
    position: u64,
    /// Octets of the message.
    size: u64,
    reader: Reader,
    /// Header fields that were read but not yet searched.
    fields: Option<Fields>,
}

impl<'a> MessageSearch<'a> {
    /// The needles are all by the same comparator.
    pub fn new(summary: &'a Summary, needles: &[(Scope, &'a Needle)]) -> MessageSearch<'a> {
        let headers = needles.iter().any(|(scope, _)| *scope == Scope::Text);
        let mut regions = Vec::new();
        add_regions(summary.root(), Scope::Text, &mut regions);
        regions.retain(|region| match region.content {
            Content::Header(scope) => headers || scope == Scope::Body,
            Content::Text(_) | Content::Epilogue(_) => true,
        });
        regions.retain(|region| !region.range.is_empty());
        regions.reverse();
        let longest = needles.iter().map(|(_, needle)| needle.size()).max().unwrap_or(0);
        let found = |needle: &Needle| needle.size() == 0; // every message contains the empty string
        let list = needles.iter().map(|&(scope, needle)| (scope, needle, found(needle)));
        MessageSearch {
            needles: Needles {
                list: list.collect(),
                keep: longest.saturating_sub(1),
                collation: needles.first().map_or_else(Default::default, |it| it.1.collation),
            },
            regions,
            position: 0,
            size: summary.size(),
            reader: Reader::Between,
            fields: None,
        }
    }

    /// Searches some fields of a header that was read: all fields at once would delay other
    /// sessions. False when none are left. `push`, `take` and `finish` search those that the caller
    /// left.
    pub fn look_on(&mut self) -> bool {
        let Some(fields) = &mut self.fields else { return false };
        if self.needles.all_found() || !fields.look(&mut self.needles) {
            self.fields = None;
        }
        self.fields.is_some()
    }

    /// Skips what need not be searched, such as an attachment: returns the offset in the message of
    /// the next byte that `push` needs, or the message's size if there is none.
    pub fn seek(&mut self) -> u64 {
        let next = self.regions.last().map_or(self.size, |region| region.range.start);
        self.position = self.position.max(next);
        self.position
    }

    /// Whether all needles are decided, so that nothing more need be read.
    pub fn is_done(&self) -> bool {
        self.regions.is_empty() && self.fields.is_none() || self.needles.all_found()
    }

    /// Takes the next bytes of the message, after those of the last call or from
    /// [`MessageSearch::seek`] on; returns [`MessageSearch::is_done`].
    pub fn push(&mut self, chunk: &[u8]) -> bool {
        let mut rest = chunk;
        while !rest.is_empty() && !self.is_done() {
            rest = &rest[self.take(rest)..];
            while self.look_on() {}
        }
        self.is_done()
    }

    /// As `push`, for callers that let others run between calls of [`MessageSearch::look_on`]:
    /// stops where fields are to be searched, and returns how many octets it took.
    pub fn take(&mut self, chunk: &[u8]) -> usize {
        while self.look_on() {}
        let mut rest = chunk;
        while self.fields.is_none()
            && !self.is_done()
            && let Some(region) = self.regions.last()
        {
            let before = region.range.start.saturating_sub(self.position);
            let skipped = rest.len().min(usize::try_from(before).unwrap_or(usize::MAX));
            self.position += skipped as u64;
            rest = &rest[skipped..];
            if rest.is_empty() {
                break;
            }
            // Parts of a damaged summary may overlap: then a region may have no octets left.
            let left = region.range.end.saturating_sub(self.position);
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let (piece, after) = rest.split_at(rest.len().min(left).min(PIECE_SIZE));
            if matches!(self.reader, Reader::Between) {
                self.reader = Reader::new(region.content);
            }
            let ends = piece.len() == left;
            self.reader.push(piece, &mut self.needles);
            self.position += piece.len() as u64;
            rest = after;
            if ends {
                self.end_region();
            }
        }
        match self.is_done() {
            true => chunk.len(),
            false => chunk.len() - rest.len(),
        }
    }

    /// Whether each needle was found, in the order given.
    pub fn finish(mut self) -> Vec<bool> {
        while self.look_on() {}
        self.end_region();
        while self.look_on() {}
        self.needles.list.iter().map(|(_, _, found)| *found).collect()
    }

    fn end_region(&mut self) {
        self.regions.pop();
        self.fields =
            std::mem::replace(&mut self.reader, Reader::Between).finish(&mut self.needles);
    }
}

/// Appends the regions of a part in message order; recursion is limited by
/// [`super::summary::DEPTH_MAX`].
fn add_regions<'a>(part: Part<'a>, header: Scope, regions: &mut Vec<Region<'a>>) {
    regions.push(Region { range: part.header(), content: Content::Header(header) });
    let is = |media_type: &[u8]| part.media_type().eq_ignore_ascii_case(media_type);
    match part.kind() {
        PartKind::Leaf if is(b"text") || is(b"message") => {
            regions.push(Region { range: part.body(), content: Content::Text(part) });
        }
        PartKind::Leaf => {}
        PartKind::Multipart => {
            // The preamble, or the whole body if there are no parts.
            let body = part.body();
            let end = part.children().next().map_or(body.end, |first| first.header().start);
            regions.push(Region { range: body.start..end, content: Content::Text(part) });
            part.children().for_each(|child| add_regions(child, Scope::Text, regions));
            let range = after_parts(part);
            regions.push(Region { range, content: Content::Epilogue(part) });
        }
        // The header of an embedded message is body text of the outer message.
        PartKind::Message => {
            part.message().into_iter().for_each(|root| add_regions(root, Scope::Body, regions));
        }
    }
}

/// The octets of a multipart after its last part, beginning with the close delimiter; empty if they
/// can hold only the delimiter, so that the end of a large message is not read for it. (With bare
/// LF line ends an epilogue of two octets fits into the room for CRLFs, and is not searched.)
fn after_parts(part: Part<'_>) -> Range<u64> {
    let end = part.body().end;
    let Some(last) = part.children().last() else { return end..end };
    let boundary = part
        .parameters()
        .find(|(name, _)| name.eq_ignore_ascii_case(b"boundary"))
        .map_or(0, |(_, boundary)| boundary.trim_ascii_end().len());
    // In an empty part, the line end before the delimiter may count as that of its header.
    let line_end_before = if part.last_descendant().size() == 0 { 0 } else { 2 };
    let delimiter = line_end_before + b"--".len() + boundary + b"--\r\n".len();
    let start = last.body().end;
    if end.saturating_sub(start) <= delimiter as u64 { end..end } else { start..end }
}

impl Reader {
    fn new(content: Content<'_>) -> Reader {
        match content {
            Content::Header(scope) => Reader::Header(scope, Vec::new()),
            Content::Text(part) => Reader::Text(Box::new(TextReader::new(part))),
            Content::Epilogue(part) => Reader::Text(Box::new(TextReader::epilogue(part))),
        }
    }

    fn push(&mut self, piece: &[u8], needles: &mut Needles<'_>) {
        match self {
            Reader::Between => {}
            Reader::Header(_, block) => {
                let room = HEADER_SIZE_MAX - block.len();
                block.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            Reader::Text(reader) => reader.push(piece, false, needles),
        }
    }

    fn finish(self, needles: &mut Needles<'_>) -> Option<Fields> {
        match self {
            Reader::Between => None,
            Reader::Header(scope, block) => Some(Fields { scope, block, at: 0 }),
            Reader::Text(mut reader) => {
                reader.push(b"", true, needles);
                None
            }
        }
    }
}

impl Fields {
    /// Searches the next fields; false when there are no more.
    fn look(&mut self, needles: &mut Needles<'_>) -> bool {
        let step = FIELDS_STEP / needles.list.len().max(1);
        let block = self.block.get(self.at..).unwrap_or_default();
        let mut folded = Vec::with_capacity(step.min(block.len()));
        let mut passed = 0;
        let mut fields = header::fields(block);
        let more = loop {
            let Some(field) = fields.next() else { break false };
            append_field(&field, needles.collation, &mut folded);
            passed += field.source.len();
            if passed >= step {
                break true;
            }
        };
        self.at += passed;
        needles.look(&folded, self.scope);
        more
    }
}

/// Appends the keys of `name: value` in all readings of the value.
fn append_field(field: &header::Field<'_>, collation: Collation, folded: &mut Vec<u8>) {
    let start = folded.len();
    collation.push_key(&String::from_utf8_lossy(field.name), folded);
    folded.extend_from_slice(b": ");
    if encoded_word::is_plain(field.value) {
        let value = folded.len();
        header::unfold(field.value, folded);
        collation.fold_ascii(&mut folded[value..]);
    } else {
        let name = folded[start..].to_vec();
        for (number, text) in encoded_word::decode_value(field.value).readings().enumerate() {
            if number > 0 {
                folded.push(BETWEEN_FIELDS);
                folded.extend_from_slice(&name);
            }
            collation.push_key(text, folded);
        }
    }
    folded.push(BETWEEN_FIELDS);
}

/// Reads a text part: decodes transfer encoding and charset, strips HTML tags, folds case, looks
/// for needles.
struct TextReader {
    /// The close delimiter before an epilogue.
    delimiter: Delimiter,
    transfer: TransferDecoder,
    charset: TextDecoder,
    /// For text/html, searched both as text and as source.
    html: Option<(Stripper, Stream)>,
    source: Stream,
    bytes: Vec<u8>,
    text: String,
    stripped: String,
}

impl TextReader {
    fn new(part: Part<'_>) -> TextReader {
        let charset = part
            .parameters()
            .find(|(name, _)| name.eq_ignore_ascii_case(b"charset"))
            .map_or(b"us-ascii".as_slice(), |(_, charset)| charset);
        // RFC 2045 6.4: the text around the parts of a multipart is not encoded.
        let is_multipart = part.kind() == PartKind::Multipart;
        let encoding = if is_multipart { b"7bit" } else { part.encoding() };
        let is_html = part.media_subtype().eq_ignore_ascii_case(b"html");
        TextReader {
            delimiter: Delimiter::Passed,
            transfer: TransferDecoder::new(encoding),
            charset: TextDecoder::new(Charset::new(charset)),
            html: is_html.then(|| (Stripper::new(), Stream::default())),
            source: Stream::default(),
            bytes: Vec::new(),
            text: String::new(),
            stripped: String::new(),
        }
    }

    /// Reads a multipart's epilogue, preceded by its close delimiter.
    fn epilogue(part: Part<'_>) -> TextReader {
        TextReader { delimiter: Delimiter::LineEnd, ..TextReader::new(part) }
    }

    fn push(&mut self, piece: &[u8], last: bool, needles: &mut Needles<'_>) {
        let piece = self.delimiter.pass(piece);
        self.bytes.clear();
        self.transfer.push(piece, &mut self.bytes);
        if last {
            self.transfer.finish(&mut self.bytes);
        }
        self.text.clear();
        self.charset.push(&self.bytes, last, &mut self.text);
        self.source.push(&self.text, last, needles);
        if let Some((stripper, stream)) = &mut self.html {
            self.stripped.clear();
            stripper.push(&self.text, &mut self.stripped);
            if last {
                stripper.finish(&mut self.stripped);
            }
            stream.push(&self.stripped, last, needles);
        }
    }
}

/// How much of a delimiter was read: it is a line, and the line end before it (RFC 2046 5.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delimiter {
    LineEnd,
    Line,
    Passed,
}

impl Delimiter {
    /// The octets of `piece` after the delimiter.
    fn pass<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        let mut rest = piece;
        if *self == Delimiter::LineEnd {
            rest = rest.trim_ascii_start();
            if !rest.is_empty() {
                *self = Delimiter::Line;
            }
        }
        if *self == Delimiter::Line {
            let line_end = memchr::memchr(b'\n', rest);
            rest = line_end.map_or(b"", |at| &rest[at + 1..]);
            if line_end.is_some() {
                *self = Delimiter::Passed;
            }
        }
        rest
    }
}

/// A continuous text in which needles are looked for.
#[derive(Default)]
struct Stream {
    /// Case-folded text; between pieces at most twice what the longest needle may need.
    folded: Vec<u8>,
    /// Long needles were not yet looked for from here on.
    fresh: usize,
}

impl Stream {
    fn push(&mut self, text: &str, last: bool, needles: &mut Needles<'_>) {
        let fresh = self.folded.len();
        needles.collation.push_key(text, &mut self.folded);
        needles.look_from(&self.folded, fresh, Scope::Body, Needle::is_short);
        let waits = self.folded.len() - self.fresh < needles.keep;
        if needles.keep >= SHORT_MAX {
            if waits && !last {
                return;
            }
            needles.look_from(&self.folded, self.fresh, Scope::Body, |it| !it.is_short());
        }
        let passed = self.folded.len().saturating_sub(needles.keep);
        self.folded.drain(..passed);
        self.fresh = self.folded.len();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Summarizer, *};

    fn search(message: &[u8], scope: Scope, needle: &str, piece_size: usize) -> bool {
        let mut summarizer = Summarizer::new();
        summarizer.push(message);
        let summary = summarizer.finish();
        let needle = Needle::new(needle);
        let mut search = MessageSearch::new(&summary, &[(scope, &needle)]);
        for piece in message.chunks(piece_size) {
            if search.push(piece) {
                break;
            }
        }
        let found = search.finish()[0];
        assert_eq!(search_by_seeking(&summary, message, scope, &needle, piece_size).0, found);
        found
    }

    /// Whether it is found, and how many octets were read.
    fn search_by_seeking(
        summary: &Summary,
        message: &[u8],
        scope: Scope,
        needle: &Needle,
        piece_size: usize,
    ) -> (bool, usize) {
        let mut search = MessageSearch::new(summary, &[(scope, needle)]);
        let (mut at, mut octets) = (search.seek() as usize, 0);
        while at < message.len() {
            let piece = &message[at..message.len().min(at + piece_size)];
            octets += piece.len();
            if search.push(piece) {
                break;
            }
            at = search.seek() as usize;
        }
        (search.finish()[0], octets)
    }

    const PARTS: &str = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= outer\r\n\
        Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n\
        --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\n\
        Ein sch=F6ner Satz, der um=\r\nbricht.\r\n\
        --b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        PHAgY2xhc3M9InJlZCI+SGVs\r\nbDxiPm88L2I+IHd2cmxkPC9wPg==\r\n\
        --b\r\nContent-Type: application/pdf; name=attached.pdf\r\n\r\nhidden\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner subject\r\n\r\ninner body\r\n\
        --b\r\nContent-Type: text/plain; charset=utf-16be\r\n\
        Content-Transfer-Encoding: base64\r\n\r\n\
        AFcAaQBkAGU=\r\n--b--\r\nepilogue\r\n";

    /// Needle, found by BODY, found by TEXT.
    const CASES: &[(&str, bool, bool)] = &[
        ("", true, true),
        ("SCH\u{d6}NER satz", true, true),
        ("umbricht.", true, true),
        ("Hello", true, true),
        ("<B>O</B>", true, true),
        ("class=\"red\"", true, true),
        ("wide", true, true),
        ("inner subject", true, true),
        ("Inner Body", true, true),
        ("gr\u{fc}\u{df}e outer", false, true),
        ("subject: gr\u{fc}", false, true),
        ("attached.pdf", false, true),
        ("hidden", false, false),
        ("PHAgY2", false, false),
        ("preamble", true, true),
        ("epilogue", true, true),
        ("--b--", false, false),
        ("body\r\n--b", false, false),
        ("nowhere", false, false),
    ];

    #[test]
    fn scopes_and_borders() {
        for &(needle, in_body, in_text) in CASES {
            for piece_size in [1, 2, 3, 7, 64, 10_000] {
                let message = PARTS.as_bytes();
                assert_eq!(search(message, Scope::Body, needle, piece_size), in_body, "{needle}");
                assert_eq!(search(message, Scope::Text, needle, piece_size), in_text, "{needle}");
            }
        }
    }

    /// ISO-2022-JP across escape sequences, and charsets that `encoding_rs` has no decoder for.
    #[test]
    fn charsets_with_a_state() {
        const CASES: &[(&str, &str, &str)] = &[
            ("iso-2022-jp", "\x1b$BF|\x1b(B\x1b$BK\\\x1b(B", "\u{65e5}\u{672c}"),
            ("iso-2022-kr", "\x1b$)C plain text", "Plain Text"),
            ("iso-2022-kr", "\x1b$)C\r\n\x0e0!3*\x0f text", "\u{ac00}\u{b098} Text"),
            ("hz-gb-2312", "plain ~{<:Ky~} text", "\u{5df1}\u{6240} Text"),
            ("hz-gb-2312", "~{<:~}~\r\n~{Ky~}", "\u{5df1}\u{6240}"),
            ("iso-2022-cn", "plain text", "plain text"),
            ("hz-gb-2312", "plain ~{<:Ky~} text", "plain"),
            ("replacement", "plain text", "plain text"),
        ];
        for &(charset, body, needle) in CASES {
            let message = format!("Content-Type: text/plain; charset={charset}\r\n\r\n{body}\r\n");
            for piece_size in [1, 3, 10_000] {
                assert!(search(message.as_bytes(), Scope::Body, needle, piece_size), "{charset}");
            }
        }
    }

    #[test]
    fn a_multipart_whose_boundary_never_comes() {
        let message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\nno delimiter here\r\n";
        assert!(search(message, Scope::Body, "Delimiter Here", 10_000));
        let boundary = "b".repeat(1_200);
        let message = format!(
            "Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n\
             --{boundary}\r\n\r\nin one\r\n--{boundary}--\r\nafter it\r\n"
        );
        for needle in ["In One", "After it"] {
            assert!(search(message.as_bytes(), Scope::Body, needle, 10_000), "{needle}");
        }
    }

    /// RFC 2046 5.1.1: text after the last part is text of the body; the delimiter is not.
    #[test]
    fn epilogues() {
        const CASES: &[(&str, &[&str], &[&str])] = &[
            ("--b\r\n\r\none\r\n--b--\r\nlast words", &["Last Words"], &["--b--", "one\r\n"]),
            ("--b\r\n\r\none\r\n--b--\r\n\r\nx\r\n", &["\r\nx"], &["--b--"]),
            ("--b\r\n\r\none\r\n--b--\r\nX", &["x"], &["--b--"]),
            ("--b\r\n\r\n--b--\r\nX", &["x"], &["--b--"]),
            ("--b\r\n\r\n\r\n--b--\r\nX", &["x"], &["--b--"]),
            ("--b\n\none\n--b--\nlast words\n", &["last words"], &["--b--"]),
            ("--b\r\n\r\none\r\n--b-- \t \r\nlast words", &["last words"], &["b-- "]),
            ("--b\r\n\r\none\r\n--b--ox\r\nlast words", &["last words"], &["--ox"]),
            // No part begins after the close delimiter.
            ("--b\r\n\r\none\r\n--b--\r\n--b\r\n\r\ntwo", &["\r\n\r\ntwo"], &["--b--"]),
            // No end, or nothing after it.
            ("--b\r\n\r\none", &["one"], &["--b--"]),
            ("--b\r\n\r\none\r\n--b", &["one"], &["one\r\n"]),
            ("--b\r\n\r\none\r\n--b--", &["one"], &["--b--"]),
            // Inside another part, and after both.
            (
                "--b\r\nContent-Type: multipart/alternative; boundary=i\r\n\r\n\
                 --i\r\n\r\none\r\n--i--\r\ninner end\r\n--b--\r\nouter end\r\n",
                &["inner end", "outer end"],
                &["--i--", "--b--", "end\r\n--", "end\r\nouter"],
            ),
            (
                "--b\r\nContent-Type: message/rfc822\r\n\r\n\
                 Content-Type: multipart/mixed; boundary=i\r\n\r\n\
                 --i\r\nContent-Type: image/png\r\n\r\none\r\n--i--\r\ninner end\r\n--b--",
                &["inner end"],
                &["one", "--i--", "--b--"],
            ),
        ];
        for (rest, found, missed) in CASES {
            let message = ["Content-Type: multipart/mixed; boundary=b\r\n\r\n", rest].concat();
            for piece_size in [1, 2, 5, 10_000] {
                let is_found = |needle| search(message.as_bytes(), Scope::Body, needle, piece_size);
                found.iter().for_each(|needle| assert!(is_found(needle), "{needle} in {rest}"));
                missed.iter().for_each(|needle| assert!(!is_found(needle), "{needle} in {rest}"));
            }
        }
    }

    /// RFC 2045 6.4: a multipart is not encoded, whatever its header says; BODYSTRUCTURE describes
    /// one without parts accordingly.
    #[test]
    fn multiparts_are_not_encoded() {
        for encoding in ["base64", "quoted-printable"] {
            for rest in
                ["no=20parts", "no=20parts\r\n--b\r\n\r\n--b--", "--b\r\n\r\n--b--\r\nno=20parts"]
            {
                let message = format!(
                    "Content-Type: multipart/mixed; boundary=b\r\n\
                     Content-Transfer-Encoding: {encoding}\r\n\r\n{rest}"
                );
                let is_found = search(message.as_bytes(), Scope::Body, "no=20parts", 10_000);
                assert!(is_found, "{message}");
            }
        }
    }

    /// The end of a large message is not read only for its delimiter.
    #[test]
    fn a_close_delimiter_alone_is_not_read() {
        for (end, octets_max) in [("\r\n", 100), ("", 100), ("\r\nepilogue", 200)] {
            let message = format!(
                "Content-Type: multipart/mixed; boundary=\"b c\"\r\n\r\n--b c\r\n\r\none\r\n\
                 --b c\r\nContent-Type: application/pdf\r\n\r\n{}\r\n--b c--{end}",
                "QUJD".repeat(25_000)
            );
            let mut summarizer = Summarizer::new();
            summarizer.push(message.as_bytes());
            let (needle, summary) = (Needle::new("none"), summarizer.finish());
            let (found, octets) =
                search_by_seeking(&summary, message.as_bytes(), Scope::Body, &needle, 50);
            assert!(!found && octets <= octets_max, "{octets} for {end:?}");
        }
    }

    #[test]
    fn needles_are_told_in_order_and_end_the_reading() {
        let message = b"Subject: x\r\n\r\none two three";
        let mut summarizer = Summarizer::new();
        summarizer.push(message);
        let summary = summarizer.finish();
        let [two, four, x] = ["two", "four", "x"].map(Needle::new);
        let needles = [(Scope::Body, &two), (Scope::Body, &four), (Scope::Text, &x)];
        let mut search = MessageSearch::new(&summary, &needles);
        assert_eq!(search.seek(), 0);
        assert!(search.push(message), "read to the end");
        assert_eq!(search.finish(), [true, false, true]);
        let mut search = MessageSearch::new(&summary, &needles[..1]);
        assert_eq!(search.seek(), 14);
        assert!(!search.push(b"one t"));
        assert!(search.push(b"wo "), "found");
        assert!(search.push(b"three"));
    }

    #[test]
    fn what_is_no_text_is_passed_over() {
        let attachment = "QUJD".repeat(25_000);
        let message = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n\
             --b\r\nContent-Type: application/pdf\r\n\r\n{attachment}\r\n\
             --b\r\n\r\ntwo\r\n--b--\r\n"
        );
        let mut summarizer = Summarizer::new();
        summarizer.push(message.as_bytes());
        let summary = summarizer.finish();
        for (needle, expected) in [("two", true), ("three", false)] {
            let needle = Needle::new(needle);
            let (found, octets) =
                search_by_seeking(&summary, message.as_bytes(), Scope::Text, &needle, 100);
            assert_eq!(found, expected);
            assert!(octets < 1_000, "{octets}");
        }
    }

    #[test]
    fn headers() {
        const CASES: &[(&str, &str, bool)] = &[
            ("subject", "gr\u{dc}", true),
            ("Subject", "one  two", true),
            ("subject", "", true),
            ("subject", "three", true),
            ("cc", "", false),
            ("to", "subject", false),
        ];
        let header =
            "To: a@b\r\nSubject: =?utf-8?b?R3LDvA==?= one\r\n  two\r\nSUBJECT: three\r\n\r\n";
        for &(name, needle, expected) in CASES {
            let got = Needle::new(needle).is_in_header(header.as_bytes(), name.as_bytes());
            assert_eq!(got, expected, "{name} {needle}");
        }
    }

    /// A word that is not terminated may continue in the next one, or be truncated: both readings
    /// are searched.
    #[test]
    fn both_readings_of_a_header() {
        let header = "Subject: x =?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?Q?K=5C?= y\r\n\r\n";
        for (needle, expected) in
            [("\u{65e5}\u{672c} y", true), ("x \u{65e5}k\\ Y", true), ("\u{672c}k\\", false)]
        {
            assert_eq!(Needle::new(needle).is_in_header(header.as_bytes(), b"subject"), expected);
            for piece_size in [1, 10_000] {
                let got = search(header.as_bytes(), Scope::Text, needle, piece_size);
                assert_eq!(got, expected, "{needle}");
            }
        }
    }

    /// RFC 3501 6.4.4 FROM, TO, CC, BCC: finds the address as in the envelope, however it is
    /// written, and also the field's raw text.
    #[test]
    fn addresses_in_headers() {
        const CASES: &[(&str, &str, bool)] = &[
            ("<user (c)@ (c) host>", "user@host", true),
            ("<user (c)@ (c) host>", "(c)", true),
            ("user (c) @ host.test", "<user@host.test>", true),
            ("\"Q. Public\" <user\r\n @host.test>", "Q. Public <user@host.test>", true),
            ("\"joe\"@host.test (Joe)", "joe@host.test", true),
            ("\"joe\"@host.test (Joe)", "joe <joe@host.test>", true),
            ("=?utf-8?q?J=C3=B6rg?= (c) <j@host.test>", "j\u{f6}rg <j@host", true),
            ("Friends: a (x)@ b.test, \"c d\"@e.test;", "a@b.test", true),
            ("Friends: a (x)@ b.test, \"c d\"@e.test;", "friends", true),
            ("Friends: a (x)@ b.test, \"c d\"@e.test;", "c d@e.test", true),
            ("Friends: a (x)@ b.test, \"c d\"@e.test;", "a@b.test, ", false),
            ("user@host. test", "user@host.test", true),
            ("user (c)@host", "user@other", false),
        ];
        for &(value, needle, expected) in CASES {
            for name in ["From", "to", "CC", "Bcc"] {
                let header = format!("{name}: {value}\r\n\r\n");
                let got = Needle::new(needle).is_in_header(header.as_bytes(), name.as_bytes());
                assert_eq!(got, expected, "{needle} in {header}");
            }
        }
        // Other fields are not searched as addresses.
        let header = b"Subject: <user (c)@ (c) host>\r\n\r\n";
        assert!(!Needle::new("user@host").is_in_header(header, b"subject"));
    }

    #[test]
    fn case_is_no_difference() {
        for (needle, text) in [
            ("STRASSE", "die strasse"),
            ("\u{39f}\u{394}\u{3a3}", "\u{3bf}\u{3b4}\u{3c2}"),
            ("\u{416}", "\u{436}"),
            ("a b", "A\u{a0}B"),
            ("\u{e9}t\u{e9}", "E\u{301}te\u{301}"),
            ("\u{ff32}\u{ff45}", "re"),
            // RFC 5051 2: a letter begins with what it is without its mark.
            ("a", "\u{e4}"),
        ] {
            assert!(Needle::new(needle).is_in(text), "{needle} in {text}");
        }
        for (collation, text, is_in) in [
            (Collation::AsciiCasemap, "STRASSE \u{e9}", true),
            (Collation::AsciiCasemap, "strasse \u{c9}", false),
            (Collation::Octet, "strasse \u{e9}", true),
            (Collation::Octet, "Strasse \u{e9}", false),
        ] {
            let needle = Needle::by(collation, "strasse \u{e9}");
            assert_eq!(needle.is_in(text), is_in, "{text} by {collation:?}");
            let message = format!("Content-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n");
            let header = format!("Subject: {text}\r\n\r\n");
            assert_eq!(needle.is_in_header(header.as_bytes(), b"subject"), is_in, "{header}");
            for (message, scope) in [(message, Scope::Body), (header, Scope::Text)] {
                let mut summarizer = Summarizer::new();
                summarizer.push(message.as_bytes());
                let summary = summarizer.finish();
                let mut search = MessageSearch::new(&summary, &[(scope, &needle)]);
                search.push(message.as_bytes());
                assert_eq!(search.finish(), [is_in], "{message} by {collation:?}");
            }
        }
        for (needle, text) in [("\u{e4}", "a"), ("ab", "\u{e4}b"), ("SS", "\u{df}")] {
            assert!(!Needle::new(needle).is_in(text), "{needle} in {text}");
        }
    }

    proptest! {
        /// The search finds what a naive search finds in a plain text, however the text is cut into
        /// pieces.
        #[test]
        fn as_a_naive_search(
            body in "[ab\u{e4}]{0,40}",
            needle in "[ab\u{e4}]{1,4}",
            size in 1usize..20,
        ) {
            let message = format!("Content-Type: text/plain; charset=utf-8\r\n\r\n{body}");
            let decomposed = |text: &str| text.replace('\u{e4}', "a\u{308}");
            let expected = decomposed(&body).contains(&decomposed(&needle));
            prop_assert_eq!(search(message.as_bytes(), Scope::Body, &needle, size), expected);
        }

        /// The same for each text of a multipart; nothing is found across two texts.
        #[test]
        fn as_a_naive_search_of_each_text(
            texts in prop::collection::vec("[xy]{0,5}", 4),
            needle in "[xy]{1,4}",
            size in 1usize..20,
        ) {
            let message = format!(
                "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}\r\n\
                 --b\r\n\r\n{}\r\n--b\r\n\r\n{}\r\n--b--\r\n{}",
                texts[0], texts[1], texts[2], texts[3]
            );
            let expected = texts.iter().any(|text| text.contains(&needle));
            prop_assert_eq!(search(message.as_bytes(), Scope::Body, &needle, size), expected);
        }
    }

    /// Needles longer than pieces, in plain text and HTML: at the start, across pieces, at the end.
    #[test]
    fn long_needles() {
        let text: String = (0..4_000).map(|number| format!("{number:05} ")).collect();
        for (subtype, body) in [("plain", text.clone()), ("html", format!("<p>{text}</p>"))] {
            let message = format!("Content-Type: text/{subtype}\r\n\r\n{body}\r\n");
            let whole = text.trim_end();
            for needle in
                [whole, &whole[..5_000], &whole[whole.len() - 5_000..], &whole[9_000..15_000]]
            {
                for size in [100, 1_000, 7_000, 1 << 20] {
                    assert!(
                        search(message.as_bytes(), Scope::Body, needle, size),
                        "{subtype} {size}"
                    );
                    let other = format!("{needle}x");
                    assert!(
                        !search(message.as_bytes(), Scope::Body, &other, size),
                        "{subtype} {size}"
                    );
                }
            }
        }
    }

    /// Each step is short, however many fields a header has, and words a field.
    #[test]
    fn a_header_is_looked_into_by_steps() {
        let mut message = b"S:\n".repeat(80_000);
        message.extend_from_slice(b"Last: here\n\nx");
        let mut summarizer = Summarizer::new();
        summarizer.push(&message);
        let summary = summarizer.finish();
        let needles: Vec<Needle> = (0..64).map(|n| Needle::new(&format!("{n}x"))).collect();
        let last = Needle::new("last: here");
        let mut wanted: Vec<(Scope, &Needle)> =
            needles.iter().map(|it| (Scope::Text, it)).collect();
        wanted.push((Scope::Text, &last));
        let mut search = MessageSearch::new(&summary, &wanted);
        let (mut taken, mut steps) = (0, 0);
        while taken < message.len() && !search.is_done() {
            taken += search.take(&message[taken..]);
            while search.look_on() {
                steps += 1;
            }
        }
        assert!(steps > 200, "{steps}");
        let found = search.finish();
        assert!(found[64] && !found[..64].contains(&true));
        // Nothing is found across two fields.
        let across = Needle::new("s: s:");
        let mut search = MessageSearch::new(&summary, &[(Scope::Text, &across)]);
        search.push(&message);
        assert_eq!(search.finish(), [false]);
    }
}
