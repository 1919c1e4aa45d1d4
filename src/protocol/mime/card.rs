//! Message cards: the parts of a summary that a mailbox keeps beside its messages, one per kind of
//! query.
//!
//! The store calls [`split_card`] for the parts when it makes cards, and returns them to FETCH and
//! SEARCH, which read one part of many messages. Everything here gives exactly the message's own
//! answer, or says that it cannot: [`EnvelopeCard::contains`] agrees with [`Needle::is_in_header`]
//! on the message's header. Pure; borrows the part, and allocates only if a value has to be
//! decoded.
//!
//! ```text
//! DATES:     2 | 0: no Date that can be read, else the day since 1970-01-01, zigzag, plus 1
//!              | the seconds of its time in UTC since that day began, zigzag, if there is a Date
//! ENVELOPE:  1 | present | exact | differs | size of each text present | texts
//! STRUCTURE: a summary without the texts of its own envelope, and without references
//! SUBJECT:   1 | 1: of a reply or forwarded message, else 0 | the base subject
//! THREAD:    1 | 1: has a Message-ID, else 0 | its hash | 0: references are not known, else their
//!              number plus 1 | the hash of each
//! PREVIEW:   1 | the first words; nothing at all if the summary does not have them
//! ```

use super::{
    address::{self, Address},
    codec::{read_number, write_number},
    date, message_id,
    search::{Needle, addresses_may_differ},
    subject::BaseSubject,
    summarizer::HEADER_SIZE_MAX,
    summary::{ENVELOPE_BITS, ENVELOPE_FIELDS, Envelope, Field, Record, Summary},
};

/// The day and the time of the Date field.
pub const DATES: usize = 0;
/// The ENVELOPE, also for searches in its fields.
pub const ENVELOPE: usize = 1;
/// BODY and BODYSTRUCTURE: a [`Summary`].
pub const STRUCTURE: usize = 2;
/// The base subject.
pub const SUBJECT: usize = 3;
/// The Message-ID, and those of the messages that it answers.
pub const THREAD: usize = 4;
/// The first words (RFC 8970).
pub const PREVIEW: usize = 5;
/// Parts of a card.
pub const PARTS: usize = 6;

/// Octets of a header that a search by its fields reads; cards do not answer for longer ones.
pub const HEADER_MAX: u64 = HEADER_SIZE_MAX as u64;

const VERSION: u8 = 1;
const DATES_VERSION: u8 = 2;

const DAY_SECONDS: i64 = 86_400;

/// The fields of an envelope in order, and whether they hold addresses.
const FIELDS: [(&[u8], Field, bool); ENVELOPE_FIELDS] = [
    (b"date", Field::Date, false),
    (b"subject", Field::Subject, false),
    (b"from", Field::From, true),
    (b"sender", Field::Sender, true),
    (b"reply-to", Field::ReplyTo, true),
    (b"to", Field::To, true),
    (b"cc", Field::Cc, true),
    (b"bcc", Field::Bcc, true),
    (b"in-reply-to", Field::InReplyTo, false),
    (b"message-id", Field::MessageId, false),
];

/// Appends to each of `parts` its part of `summary`; nothing if that is invalid, or of an unknown
/// version.
pub fn split_card(summary: &[u8], parts: &mut [Vec<u8>; PARTS]) {
    let Ok(mut summary) = Summary::decode(summary) else { return };
    let [dates, envelope, structure, subject, thread, preview] = parts;
    write_dates(&summary, dates);
    write_envelope(&summary, envelope);
    write_subject(&summary, subject);
    write_thread(&summary, thread);
    if let Some(text) = &summary.preview {
        preview.push(VERSION);
        preview.extend_from_slice(text.as_bytes());
    }
    summary.drop_envelope();
    structure.extend_from_slice(&summary.encode());
}

fn write_dates(summary: &Summary, out: &mut Vec<u8>) {
    out.push(DATES_VERSION);
    let Some(date) = summary.date().and_then(date::parse) else { return write_number(0, out) };
    write_number(zigzag(date.days()) + 1, out);
    write_number(zigzag(date.timestamp().unix_seconds() - date.days() * DAY_SECONDS), out);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// The day of the Date field from a card's [`DATES`], `None` if the message has no readable one.
///
/// # Errors
/// If the card does not have it.
pub fn sent_day(card: &[u8]) -> Result<Option<i64>, Unanswered> {
    let Some((&DATES_VERSION, mut rest)) = card.split_first() else { return Err(Unanswered) };
    let number = read_number(&mut rest).ok_or(Unanswered)?;
    Ok(number.checked_sub(1).map(unzigzag))
}

/// The seconds since 1970-01-01 of the Date field, in UTC (RFC 5256 2.2); as [`sent_day`].
///
/// # Errors
/// If the card does not have it.
pub fn sent_seconds(card: &[u8]) -> Result<Option<i64>, Unanswered> {
    let Some((&DATES_VERSION, mut rest)) = card.split_first() else { return Err(Unanswered) };
    let number = read_number(&mut rest).ok_or(Unanswered)?;
    let Some(day) = number.checked_sub(1).map(unzigzag) else { return Ok(None) };
    let time = read_number(&mut rest).map(unzigzag).ok_or(Unanswered)?;
    Ok(Some(day.saturating_mul(DAY_SECONDS).saturating_add(time)))
}

/// The card has no answer: the message must be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unanswered;

fn write_envelope(summary: &Summary, out: &mut Vec<u8>) {
    let root = summary.root();
    let present = root.record().present & ENVELOPE_BITS;
    let exact = match summary.header_size() <= HEADER_MAX {
        true => summary.exact,
        false => 0,
    };
    let differs = FIELDS.iter().filter(|(_, field, is_list)| {
        let is_folded = summary.folded & (1 << *field as u16) != 0;
        *is_list && root.text(*field).is_some_and(|text| is_folded || addresses_may_differ(text))
    });
    let differs = differs.fold(0, |bits, (_, field, _)| bits | 1 << *field as u64);
    out.push(VERSION);
    write_number(present.into(), out);
    write_number(exact.into(), out);
    write_number(differs, out);
    let texts = || FIELDS.iter().filter_map(|(_, field, _)| root.text(*field));
    texts().for_each(|text| write_number(text.len() as u64, out));
    texts().for_each(|text| out.extend_from_slice(text));
}

fn write_subject(summary: &Summary, out: &mut Vec<u8>) {
    let subject = BaseSubject::of(summary.root().text(Field::Subject).unwrap_or_default());
    out.extend_from_slice(&[VERSION, subject.is_reply.into()]);
    out.extend_from_slice(subject.text.as_bytes());
}

/// A card's [`SUBJECT`]: the base subject, and whether it is of a reply or forwarded message (RFC
/// 5256 2.1, 3).
///
/// # Errors
/// If the card does not have it.
pub fn base_subject(card: &[u8]) -> Result<(&str, bool), Unanswered> {
    let [VERSION, is_reply @ 0..=1, text @ ..] = card else { return Err(Unanswered) };
    Ok((str::from_utf8(text).map_err(|_| Unanswered)?, *is_reply == 1))
}

/// A card's [`PREVIEW`]; empty if the message has no text to show.
///
/// # Errors
/// If the card does not have it.
pub fn preview(card: &[u8]) -> Result<&str, Unanswered> {
    let Some((&VERSION, text)) = card.split_first() else { return Err(Unanswered) };
    str::from_utf8(text).map_err(|_| Unanswered)
}

fn write_thread(summary: &Summary, out: &mut Vec<u8>) {
    let root = summary.root();
    let first = |field| root.text(field).and_then(message_id::first_id);
    let id = first(Field::MessageId);
    let Some(references) = &summary.references else { return write_ids(id, None, out) };
    match references.is_empty() {
        // RFC 5256 3.
        true => write_ids(id, Some(first(Field::InReplyTo).as_slice()), out),
        false => write_ids(id, Some(references), out),
    }
}

/// Appends the [`THREAD`] of a message whose summary lacks it, from its header.
pub fn write_thread_of_header(header: &[u8], out: &mut Vec<u8>) {
    let (id, references) = message_id::of_header(header);
    write_ids(id, Some(&references), out);
}

fn write_ids(id: Option<u64>, references: Option<&[u64]>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, id.is_some().into()]);
    id.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    write_number(references.map_or(0, |hashes| hashes.len() as u64 + 1), out);
    for hash in references.unwrap_or_default() {
        out.extend_from_slice(&hash.to_le_bytes());
    }
}

/// A card's [`THREAD`].
pub struct ThreadCard<'a> {
    /// The hash of the Message-ID.
    pub id: Option<u64>,
    references: &'a [[u8; 8]],
}

impl<'a> ThreadCard<'a> {
    /// # Errors
    /// If the card does not have it: the header must be read ([`write_thread_of_header`]).
    pub fn decode(card: &'a [u8]) -> Result<ThreadCard<'a>, Unanswered> {
        let (id, mut rest) = match card {
            [VERSION, 0, rest @ ..] => (None, rest),
            [VERSION, 1, rest @ ..] => {
                let (id, rest) = rest.split_first_chunk().ok_or(Unanswered)?;
                (Some(u64::from_le_bytes(*id)), rest)
            }
            _ => return Err(Unanswered),
        };
        let count = read_number(&mut rest).and_then(|count| count.checked_sub(1));
        let (references, remainder) = rest.as_chunks();
        let is_whole = remainder.is_empty() && count == Some(references.len() as u64);
        is_whole.then_some(ThreadCard { id, references }).ok_or(Unanswered)
    }

    /// The hash of the message that began the thread, as far as this message says; `None` if it
    /// has no IDs at all.
    pub fn root(&self) -> Option<u64> {
        self.references().next().or(self.id)
    }

    /// The hashes of the messages that it answers, the oldest first.
    pub fn references(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.references.iter().map(|hash| u64::from_le_bytes(*hash))
    }
}

/// A card's [`ENVELOPE`].
pub struct EnvelopeCard<'a> {
    exact: u16,
    differs: u16,
    texts: [Option<&'a [u8]>; ENVELOPE_FIELDS],
}

impl<'a> EnvelopeCard<'a> {
    /// `None` if it is not a card, or one of another version.
    pub fn decode(card: &'a [u8]) -> Option<EnvelopeCard<'a>> {
        let Some((&VERSION, mut rest)) = card.split_first() else { return None };
        let input = &mut rest;
        let fields = |input: &mut &[u8]| {
            let fields = u32::try_from(read_number(input)?).ok()?;
            (fields & !ENVELOPE_BITS == 0).then_some(fields as u16)
        };
        let (present, exact, differs) = (fields(input)?, fields(input)?, fields(input)?);
        let mut sizes = [None; ENVELOPE_FIELDS];
        for (field, size) in sizes.iter_mut().enumerate() {
            if present & (1 << field) != 0 {
                *size = Some(usize::try_from(read_number(input)?).ok()?);
            }
        }
        let mut texts = [None; ENVELOPE_FIELDS];
        for (text, size) in texts.iter_mut().zip(sizes) {
            let Some(size) = size else { continue };
            let (found, after) = input.split_at_checked(size)?;
            (*text, *input) = (Some(found), after);
        }
        input.is_empty().then_some(EnvelopeCard { exact, differs, texts })
    }

    /// As [`Summary::envelope`].
    pub fn envelope(&self) -> Envelope<'a> {
        Envelope::new(|field| self.texts.get(field as usize).copied().flatten())
    }

    /// Whether a field of the header contains `needle`, as [`Needle::is_in_header`] would answer
    /// for the message; `scratch` is a buffer for a value.
    ///
    /// # Errors
    /// If the card does not have everything that the header has there.
    pub fn contains(
        &self,
        field: EnvelopeField,
        needle: &Needle,
        scratch: &mut Vec<u8>,
    ) -> Result<bool, Unanswered> {
        let bit = 1 << field.0;
        if self.exact & bit == 0 {
            return Err(Unanswered);
        }
        Ok(self.texts.get(field.0).copied().flatten().is_some_and(|text| {
            needle.is_in_unfolded(text, scratch)
                || self.differs & bit != 0 && needle.is_in_spelt_addresses(text)
        }))
    }

    /// The first address of a field that has addresses.
    pub fn first_address(&self, field: EnvelopeField) -> Option<Address<'a>> {
        address::parse_first(self.texts.get(field.0).copied().flatten()?)
    }

    /// Octets of the field's value.
    pub fn value_size(&self, field: EnvelopeField) -> usize {
        self.texts.get(field.0).copied().flatten().map_or(0, <[u8]>::len)
    }
}

/// A field that [`EnvelopeCard`] knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EnvelopeField(usize);

impl EnvelopeField {
    pub const FROM: EnvelopeField = EnvelopeField(Field::From as usize);
    pub const TO: EnvelopeField = EnvelopeField(Field::To as usize);
    pub const CC: EnvelopeField = EnvelopeField(Field::Cc as usize);

    /// By its name in a header, ignoring case.
    pub fn named(name: &[u8]) -> Option<EnvelopeField> {
        let at = FIELDS.iter().position(|(known, ..)| known.eq_ignore_ascii_case(name))?;
        Some(EnvelopeField(at))
    }
}

impl Summary {
    /// Removes the texts of the message's own envelope.
    fn drop_envelope(&mut self) {
        let Some(Record { present, .. }) = self.records.first_mut() else { return };
        let count = (*present & ENVELOPE_BITS).count_ones();
        *present &= !ENVELOPE_BITS;
        (self.exact, self.folded, self.references, self.preview) = (0, 0, None, None);
        let size = self.ends.drain(..count as usize).next_back().unwrap_or(0);
        self.text.drain(..size as usize);
        self.ends.iter_mut().for_each(|end| *end -= size);
        self.records.iter_mut().skip(1).for_each(|record| record.first_text -= count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{DateTime, Summarizer},
        *,
    };

    fn summarize(message: &[u8]) -> Summary {
        let mut summarizer = Summarizer::new();
        summarizer.push(message);
        summarizer.finish()
    }

    fn split(summary: &Summary) -> [Vec<u8>; PARTS] {
        let mut parts = Default::default();
        split_card(&summary.encode(), &mut parts);
        parts
    }

    /// Whether the card answers; its answer must equal the header's.
    fn check(message: &[u8], prologue: &[u8], name: &str, needle: &str) -> bool {
        let mut summary = summarize(message);
        summary.prepend(prologue.len() as u64);
        let stored = [prologue, message].concat();
        // As in a SEARCH of the header.
        let header = &stored[..(summary.header_size() as usize).min(HEADER_SIZE_MAX)];
        let [dates, envelope, structure, subject, thread, preview] = split(&summary);
        let card = EnvelopeCard::decode(&envelope).unwrap();
        let found = Needle::new(needle);
        let field = EnvelopeField::named(name.as_bytes()).unwrap();
        let told = card.contains(field, &found, &mut Vec::new());
        let scanned = found.is_in_header(header, name.as_bytes());
        assert!(
            told.is_err() || told == Ok(scanned),
            "{name} {needle:?} in {}: {told:?}, and {scanned} by the header",
            header[..header.len().min(2_000)].escape_ascii()
        );
        assert_eq!(card.envelope(), summary.envelope());
        let day = summary.date().and_then(date::parse).map(DateTime::days);
        assert_eq!(sent_day(&dates), Ok(day));
        assert_eq!(super::preview(&preview).ok(), summary.preview());
        let mut rest = Summary::decode(&structure).unwrap();
        assert_eq!(rest.envelope(), Envelope::default());
        summary.drop_envelope();
        (rest.exact, rest.folded) = (summary.exact, summary.folded);
        assert_eq!(rest, summary);
        let mut of_header = Vec::new();
        write_thread_of_header(header, &mut of_header);
        assert_eq!(of_header, thread, "{}", header[..header.len().min(2_000)].escape_ascii());
        assert!(base_subject(&subject).is_ok());
        told.is_ok()
    }

    /// (header, field, needle, whether the card answers)
    const CASES: &[(&str, &str, &str, bool)] = &[
        ("From: Joe <joe@a.test>\r\n", "from", "JOE@A", true),
        ("From: Joe <joe@a.test>\r\n", "from", "jim", true),
        ("From: Joe <joe@a.test>\r\n", "to", "", true),
        ("To:\r\n", "to", "", true),
        ("To:\r\n", "to", "x", true),
        ("To: a@b.test,\r\n c@d.test\r\n", "to", "a@b.test, c@d", true),
        ("To: a@b.test,\r\n c@d.test\r\n", "to", "<c@d.test>", true),
        ("To: a@b.test, c@d.test\r\n", "to", "<c@d.test>", true),
        ("To: \"Q. Public\" <user\r\n @host.test>\r\n", "to", "q. public <user@host.test>", true),
        ("Cc: a (x)@ b.test\r\n", "cc", "a@b.test", true),
        (
            "Subject: =?utf-8?b?R3LDvA==?=\r\n =?utf-8?b?w58=?= one\r\n",
            "subject",
            "gr\u{fc}\u{df}",
            true,
        ),
        (
            "Subject: x =?ISO-2022-JP?B?GyRCRnw=?= =?ISO-2022-JP?Q?K=5C?=\r\n",
            "subject",
            "x \u{65e5}k\\",
            true,
        ),
        ("Subject: raw \u{f6}\r\n", "subject", "RAW \u{d6}", true),
        ("Subject: \0 a\rb\r\n", "subject", " ab", true),
        ("Message-ID: <1@a.test>\r\n", "message-id", "1@A", true),
        ("In-Reply-To: <1@a.test>\r\n <2@a.test>\r\n", "in-reply-to", "> <2", true),
        ("Reply-To: a@b.test\r\nSender: c@d.test\r\n", "reply-to", "c@d", true),
        ("DATE : Mon, 1 Jan 2024 10:00:00 +0000\r\n", "date", "2024 10", true),
        // Cases that a card cannot answer.
        ("Subject: one\r\nSUBJECT: two\r\n", "subject", "two", false),
        ("To: a@b.test\r\nTo: c@d.test\r\n", "to", "c@d", false),
        ("From: a\rb@c.test\r\n", "from", "<ab@c", false),
        ("From: a@b.test\x0c\r\n", "from", "b.test", false),
        ("From: a\0@b.test\r\n", "from", "a@b", false),
        ("From: >a@b.test\r\n", "from", "<a@b.test>", false),
        ("From: a@b.test\t\r\n", "from", "<a@b.test>", false),
        ("From: a@b.test. \r\n", "from", "<a@b.test", false),
        ("From: a@[1.2\r\n .3.4]\r\n", "from", "[1.2 .3", false),
        ("Sender: a@\"b\\\r\n c\"\r\n", "sender", "b c", false),
        ("Sender: a@b (c\\\n )d) e\r\n", "sender", "d", false),
        ("To: ,@\" \r\n", "to", "<@", false),
        ("To: a@\"b\r\n c\"\r\n", "to", "b c", false),
        ("To: \"a\" <b@c.test>,\r\n \"d\" <e@f.test>\r\n", "to", "d <e@f", true),
    ];

    #[test]
    fn cards_say_what_headers_do_or_nothing() {
        for &(header, name, needle, told) in CASES {
            for rest in ["", "\r\n", "\r\nbody\r\n", "no field\r\n\r\n"] {
                let message = format!("{header}{rest}");
                let prologue = b"Return-Path: <x@y>\r\nReceived: from z\r\n\twith SMTP\r\n";
                for prologue in [&b""[..], prologue] {
                    assert_eq!(check(message.as_bytes(), prologue, name, needle), told, "{header}");
                }
            }
        }
    }

    #[test]
    fn what_is_over_the_limits_is_not_told() {
        let many = "a@b.test, ".repeat(7_000);
        assert!(!check(format!("To: {many}z@z.test\r\n\r\n").as_bytes(), b"", "to", "z@z"));
        assert!(check(format!("To: {many}z@z.test\r\n\r\n").as_bytes(), b"", "subject", "x"));
        let long = "x".repeat(70_000);
        assert!(!check(format!("Subject: {long}end\r\n\r\n").as_bytes(), b"", "subject", "end"));
        // The header's end is beyond the limit, or is so only with the prologue.
        let filler = format!("X: {}\r\n", "y".repeat(HEADER_SIZE_MAX - 100));
        for (message, told) in [
            (format!("{filler}Subject: here\r\n\r\n"), true),
            (format!("{filler}{filler}Subject: here\r\n\r\n"), false),
        ] {
            assert_eq!(check(message.as_bytes(), b"", "subject", "here"), told);
            assert!(!check(message.as_bytes(), &[b'R'; 200], "subject", "here"));
        }
    }

    #[test]
    fn summaries_of_older_versions_tell_nothing_exactly() {
        let mut summary = summarize(b"Subject: hi\r\nFrom: a@b\r\n\r\nx");
        (summary.exact, summary.folded) = (0, 0);
        let [dates, envelope, ..] = split(&summary);
        let card = EnvelopeCard::decode(&envelope).unwrap();
        assert_eq!(card.envelope(), summary.envelope());
        for (name, ..) in FIELDS {
            let field = EnvelopeField::named(name).unwrap();
            let told = card.contains(field, &Needle::new("hi"), &mut Vec::new());
            assert_eq!(told, Err(Unanswered));
        }
        assert_eq!((sent_day(&dates), sent_seconds(&dates)), (Ok(None), Ok(None)));
        let mut parts = Default::default();
        split_card(b"no summary", &mut parts);
        assert_eq!(parts, <[Vec<u8>; PARTS]>::default());
        assert!(EnvelopeCard::decode(b"").is_none() && sent_day(b"") == Err(Unanswered));
    }

    #[test]
    fn days_before_1970_are_told() {
        for (date, day) in [("1 Jan 1970", 0), ("31 Dec 1969", -1), ("1 Jan 1960", -3653)] {
            let message = format!("Date: Thu, {date} 12:00:00 +0000\r\n\r\n");
            let [dates, ..] = split(&summarize(message.as_bytes()));
            assert_eq!(sent_day(&dates), Ok(Some(day)), "{date}");
            assert_eq!(sent_seconds(&dates), Ok(Some(day * DAY_SECONDS + 43_200)), "{date}");
        }
    }

    /// RFC 5256 2.2: the example of its text.
    #[test]
    fn sent_dates_are_in_utc() {
        let [dates, ..] = split(&summarize(b"Date: 31 Dec 2000 16:01:33 -0800\r\n\r\n"));
        let seconds = date::parse(b"1 Jan 2001 00:01:33 +0000").unwrap().timestamp().unix_seconds();
        assert_eq!(sent_seconds(&dates), Ok(Some(seconds)));
        assert_eq!(sent_day(&dates), Ok(Some(seconds / DAY_SECONDS - 1)));
    }

    #[test]
    fn subjects_and_threads_are_told() {
        let message = b"Subject: Re: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <a@b>\r\n\
                        References: <c@d>\r\n <e@f>\r\nIn-Reply-To: <g@h>\r\n\r\n";
        let mut summary = summarize(message);
        let [.., subject, thread, _] = split(&summary);
        assert_eq!(base_subject(&subject), Ok(("gr\u{fc}\u{df}e", true)));
        let card = ThreadCard::decode(&thread).ok().unwrap();
        let hashes = message_id::references(b"<a@b> <c@d> <e@f> <g@h>");
        assert_eq!(card.id, Some(hashes[0]));
        assert_eq!(card.references().collect::<Vec<_>>(), hashes[1..3]);
        assert_eq!(card.root(), Some(hashes[1]));
        // A summary of an older version.
        summary.references = None;
        let [.., thread, _] = split(&summary);
        assert!(ThreadCard::decode(&thread).is_err());
        let mut of_header = Vec::new();
        write_thread_of_header(message, &mut of_header);
        let card = ThreadCard::decode(&of_header).ok().unwrap();
        assert_eq!(card.references().collect::<Vec<_>>(), hashes[1..3]);
        // RFC 5256 3: without References, the first ID of In-Reply-To.
        let [.., thread, _] = split(&summarize(b"In-Reply-To: <g@h> <a@b>\r\n\r\n"));
        let card = ThreadCard::decode(&thread).ok().unwrap();
        assert_eq!((card.id, card.references().collect::<Vec<_>>()), (None, vec![hashes[3]]));
        assert_eq!(card.root(), Some(hashes[3]));
        let [.., subject, thread, _] = split(&summarize(b"\r\n"));
        assert_eq!(base_subject(&subject), Ok(("", false)));
        assert_eq!(ThreadCard::decode(&thread).ok().unwrap().references().len(), 0);
    }

    /// Pieces of values: words, folds, encoded-words whole and broken, parts of addresses, and
    /// octets that are invalid in a header.
    const PIECES: &[&[u8]] = &[
        b"word",
        b"Word",
        b"\r\n =?utf-8?q?",
        b"=C3=B6?=\r\n ",
        b"=?utf-8?q?a\r\n b?=",
        b"=?utf-8?q?a b?=",
        b"=?utf-8*de?q?=C3=B6?=",
        b"=?utf-8?b?w7Y",
        b"=?UTF-7?Q?+APY-?=",
        b"=?x-unknown?q?abc?=",
        b"=?utf-8?q?=00=0D=0A?=",
        b"\xc2\xa0",
        b"\xc4\xb0",
        b"\xcf\x82",
        b"=?utf-8?q?=CF=82?=",
        b"\"=?utf-8?q?=C3=B6?=\"",
        b"(=?utf-8?q?=C3=B6?=)",
        b"(a \\) b (c))",
        b"\"a\\\r\n b\"",
        b"\\\r\n ",
        b"a@b (c),",
        b"<@r1,@r2:u@h>",
        b"\r\r\n ",
        b"\n\t",
        b"\r\n \r\n ",
        b"\r\n  \t",
        b"a .b@c. d",
        b"x\r\n@y",
        b"u\r\n @h",
        b"@\r\n h",
        b"u@h\r\n\t.d",
        b"\x85",
        b"\x1b$B",
        b"\x7f",
        b"\x1c",
        b",\r\n ,",
        b"g:a@b,\r\n c@d;",
        b"\r\n :",
        b"'",
        b" ",
        b" ",
        b", ",
        b",",
        b"\r\n ",
        b"\r\n\t",
        b"\n ",
        b"\r",
        b"\0",
        b"\x0c",
        b"\x0b",
        b"\t",
        b"a@b.test",
        b"<c@d.test>",
        b"< e @ f.test >",
        b"g. h@i.test",
        b"\"J. \\\"K\" ",
        b"\"",
        b"(l)",
        b"(",
        b")",
        b"\\",
        b"[1.2]",
        b"[3\r\n 4]",
        b"friends:",
        b";",
        b"<",
        b">",
        b"@",
        b".",
        b":",
        b"=?utf-8?q?J=C3=B6?=",
        b"=?utf-8?b?w7Y?=",
        b"=?utf-8?q?=C3?= =?utf-8?q?=B6?=",
        b"=?iso-8859-1?q?=E4_b?=",
        b"=?ISO-2022-JP?B?GyRCRnw=?=",
        b"=?ISO-2022-JP?Q?K=5C?=",
        b"=?",
        b"?=",
        b"=",
        b"?",
        b"\xc3\xb6",
        b"\xf6",
        b"\xff\xfe",
    ];
    const NAMES: &[&str] = &[
        "From",
        "to",
        "CC",
        "Bcc",
        "Subject",
        "SUBJECT",
        "Date",
        "Sender ",
        "Reply-To",
        "In-Reply-To",
        "Message-ID",
        "X-Other",
        "References",
    ];
    const NEEDLES: &[&str] = &[
        "",
        "\u{3c3}",
        "i\u{307}",
        "a b",
        "ab",
        "b (c)",
        "u@h",
        "<u@h>",
        "a.b@c.d",
        " <u@h",
        "g",
        "\u{fffd}",
        "c@d",
        "abc",
        " ",
        "x @y",
        "\u{f6}\"",
        "word",
        "word w",
        "a@b",
        "<a@b.test>",
        " <c@d.test>",
        "e@f.test",
        "g.h@i",
        "j. \"k",
        "(l)",
        "friends",
        "\u{f6}",
        "j\u{f6}",
        "\u{e4} b",
        "\u{65e5}",
        "\u{65e5}\u{672c}",
        "k\\",
        "[1.2]",
        "[3 4]",
        ", ",
        "  ",
        "\t",
        "=?",
        "@",
        "<>",
    ];

    fn any_message() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(PIECES);
        let value = prop::collection::vec(piece, 0..6).prop_map(|it| it.concat());
        let field =
            (prop::sample::select(NAMES), value, prop::sample::select(&[": ", ":", ""][..]));
        let field = field.prop_map(|(name, value, colon)| {
            [name.as_bytes(), colon.as_bytes(), &value, b"\r\n"].concat()
        });
        let rest: &[&[u8]] = &[b"", b"\r\n", b"\r\nbody", b"\n\nbody", b"cut"];
        (prop::collection::vec(field, 0..7), prop::sample::select(rest))
            .prop_map(|(fields, rest)| [fields.concat(), rest.to_vec()].concat())
    }

    /// Delimiters of addresses and encoded-words.
    const MARKS: &[&[u8]] = &[
        b"\\",
        b"\"",
        b"(",
        b")",
        b"<",
        b">",
        b"@",
        b",",
        b";",
        b":",
        b" ",
        b"\r\n ",
        b"\n\t",
        b"\t",
        b"=?utf-8?q?",
        b"?=",
        b"=",
        b"a",
        b"b",
        b".",
        b"]",
        b"_",
        b"\xc3",
        b"\xb6",
        b"=?utf-8?b?",
        b"w7Y",
        b"\r",
        b"A",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn cards_agree_with_headers(
            message in any_message(),
            needle in prop::sample::select(NEEDLES),
            own: (prop::sample::Index, prop::sample::Index),
            prologue in prop::sample::select(&["", "Received: x\r\n"][..]),
        ) {
            // Also some octets of the message itself.
            let (from, to) = (own.0.index(message.len() + 1), own.1.index(message.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            let own = String::from_utf8_lossy(&message[from..to.min(from + 12)]);
            for (name, ..) in FIELDS {
                for needle in [needle, &own] {
                    check(&message, prologue.as_bytes(), str::from_utf8(name).unwrap(), needle);
                }
            }
        }

        #[test]
        fn cards_agree_with_headers_of_marks(
            pieces in prop::collection::vec(prop::sample::select(MARKS), 0..16),
            len in 0usize..6,
            at: prop::sample::Index,
            name in prop::sample::select(&["From", "Subject", "To", "Message-ID"][..]),
        ) {
            let value = pieces.concat();
            let message = [name.as_bytes(), b": ", &value, b"\r\n\r\nx"].concat();
            let mut unfolded = Vec::new();
            super::super::header::unfold(&value, &mut unfolded);
            let from = at.index(unfolded.len() + 1);
            let own = &unfolded[from..(from + len).min(unfolded.len())];
            let own = String::from_utf8_lossy(own).into_owned();
            let spaceless: String = own.chars().filter(|c| !" ()\"\\\t".contains(*c)).collect();
            let field = &name.to_lowercase();
            let needles =
                [&own[..], &spaceless, "a@b", "<a@b>", "a <", "\u{f6}", "a b", ">", "@", "a@", "<@"];
            for needle in needles {
                check(&message, b"", field, needle);
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let walk = |bytes: &[u8]| {
                let mut parts = Default::default();
                split_card(bytes, &mut parts);
                let _ = (sent_day(bytes), sent_seconds(bytes), base_subject(bytes), preview(bytes));
                let _ = ThreadCard::decode(bytes).map(|card| card.references().count());
                let Some(card) = EnvelopeCard::decode(bytes) else { return };
                let _ = card.envelope();
                for (name, ..) in FIELDS {
                    let field = EnvelopeField::named(name).unwrap();
                    let _ = card.contains(field, &Needle::new("a"), &mut Vec::new());
                }
            };
            walk(&bytes);
            for version in [VERSION, DATES_VERSION] {
                bytes.insert(0, version);
                walk(&bytes);
                bytes.remove(0);
            }
        }
    }
}
