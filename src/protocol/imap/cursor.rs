//! Parses the tokens of RFC 3501 9 from a command: atoms, strings, numbers, dates.
//!
//! A cursor only moves forward, by slices; nothing is copied except quoted strings with escapes.
//! Errors are texts for `BAD`; after an error the command is abandoned.

use std::borrow::Cow;

use memchr::{memchr2, memchr3};

use super::{
    date,
    literal::Literal,
    name::MailboxName,
    sequence::{SequenceSet, SetError},
    write::{is_astring_char, is_atom_char},
};
use crate::model::{ModSeq, Timestamp};

/// A string of the client: any octets but NUL (RFC 3501 4.3).
pub type Text<'a> = Cow<'a, [u8]>;

/// What was read, or what was wrong.
pub(super) type Parsed<T> = Result<T, &'static str>;

/// Errors that show the word: what a client asks for differs from what it was written for.
pub(super) const UNKNOWN_KEY: &str = "unknown search key";
pub(super) const UNKNOWN_KEY_OR_ARGUMENT: &str = "unknown search key, or its argument is missing";
pub(super) const UNKNOWN_ITEM: &str = "unknown fetch item";

/// Octets of an unknown word that an error shows.
const WORD_SHOWN: usize = 40;

/// The part of a command not yet read.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    quoted: Quoted,
    /// Where [`Cursor::word`] was asked last.
    last_word: &'a [u8],
}

/// What a quoted string may contain beyond ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Quoted {
    /// Any octets: not allowed by RFC 3501 9, but sent by clients; where it matters the service
    /// decodes strictly.
    #[default]
    Octets,
    /// UTF-8 (RFC 6855 3, RFC 9051 4.3).
    Utf8,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Cursor<'a> {
        Cursor { rest, quoted: Quoted::default(), last_word: &[] }
    }

    pub(super) fn with_quoted(self, quoted: Quoted) -> Cursor<'a> {
        Cursor { quoted, ..self }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Reads `octet` if it is next.
    pub(super) fn eat(&mut self, octet: u8) -> bool {
        self.eat_all(&[octet])
    }

    /// Reads `octets`, letters in any case, if they are next.
    pub(super) fn eat_all(&mut self, octets: &[u8]) -> bool {
        match self.rest.split_at_checked(octets.len()) {
            Some((next, rest)) if next.eq_ignore_ascii_case(octets) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    pub(super) fn expect(&mut self, octet: u8, otherwise: &'static str) -> Parsed<()> {
        if self.eat(octet) { Ok(()) } else { Err(otherwise) }
    }

    /// Spaces between two arguments. The grammar has one; clients send more, and other servers
    /// accept that.
    pub(super) fn space(&mut self) -> Parsed<()> {
        let otherwise = "a space is missing, or there are too few arguments";
        if self.spaces() { Ok(()) } else { Err(otherwise) }
    }

    /// Spaces between a command's name and its first argument.
    pub(super) fn arguments(&mut self) -> Parsed<()> {
        if self.spaces() { Ok(()) } else { Err("the command's arguments are missing") }
    }

    /// Skips spaces; returns whether there were any.
    pub(super) fn spaces(&mut self) -> bool {
        !self.take_while(|octet| octet == b' ').is_empty()
    }

    /// Skips spaces; returns whether another argument follows. Spaces before the end of a line or a
    /// list separate nothing.
    pub(super) fn another(&mut self) -> bool {
        self.spaces() && !matches!(self.peek(), None | Some(b')'))
    }

    pub(super) fn end(&mut self) -> Parsed<()> {
        self.spaces();
        if self.rest.is_empty() { Ok(()) } else { Err("unexpected characters after the command") }
    }

    pub(super) fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|&octet| !belongs(octet)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    pub(super) fn atom(&mut self) -> Parsed<&'a str> {
        non_empty(self.take_while(is_atom_char), "an atom is missing")
    }

    /// A name of the protocol: letters, digits and the characters that join them.
    pub(super) fn word(&mut self) -> Parsed<Word> {
        self.last_word = self.rest;
        let taken = self.take_while(|octet| octet.is_ascii_alphanumeric() || octet == b'.');
        Word::new(taken).ok_or("unknown word")
    }

    /// What was there when a word was asked for last, of letters or not, and printable. `None` if
    /// there was nothing of the kind.
    pub(super) fn last_word(&self) -> Option<&'a str> {
        let ends = |octet: &u8| !octet.is_ascii_graphic() || b"()[]{}\"\\".contains(octet);
        let size = self.last_word.iter().take(WORD_SHOWN).take_while(|it| !ends(it)).count();
        std::str::from_utf8(self.last_word.get(..size)?).ok().filter(|word| !word.is_empty())
    }

    /// RFC 3501 9 `tag`: anything of an astring but `+`.
    pub(super) fn tag(&mut self) -> Parsed<&'a str> {
        let taken = self.take_while(|octet| is_astring_char(octet) && octet != b'+');
        non_empty(taken, "a command starts with a tag")
    }

    /// Up to 63 bits: the sum of two cannot overflow.
    pub(super) fn number(&mut self) -> Parsed<u64> {
        let digits = self.take_while(|octet| octet.is_ascii_digit());
        if digits.is_empty() {
            return Err("a number is missing");
        }
        digits
            .iter()
            .try_fold(0_u64, |number, digit| {
                number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
            })
            .filter(|&number| number <= i64::MAX as u64)
            .ok_or("number too large")
    }

    /// RFC 7162 7: 63 bits.
    pub(super) fn mod_seq(&mut self) -> Parsed<ModSeq> {
        self.number().map(ModSeq)
    }

    pub(super) fn sequence_set(&mut self) -> Parsed<SequenceSet> {
        // RFC 5182 3: instead of a set, never part of one.
        if self.eat(b'$') {
            return Ok(SequenceSet::saved_result());
        }
        let text =
            self.take_while(|octet| octet.is_ascii_digit() || matches!(octet, b'*' | b':' | b','));
        SequenceSet::parse(text).map_err(|error| match error {
            SetError::Syntax => "not a sequence set",
            SetError::TooMany => "sequence set has too many parts",
        })
    }

    pub(super) fn astring(&mut self) -> Parsed<Text<'a>> {
        match self.peek() {
            Some(b'"' | b'{') => self.string(),
            Some(b'~') if self.rest.starts_with(b"~{") => self.string(),
            _ => match self.take_while(is_astring_char) {
                [] => Err("a string is missing"),
                taken => Ok(Cow::Borrowed(taken)),
            },
        }
    }

    pub(super) fn string(&mut self) -> Parsed<Text<'a>> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal().map(Cow::Borrowed),
            // RFC 3516 4.4
            Some(b'~') => Err("no literal8 is taken here"),
            _ => Err("a string in quotes is missing"),
        }
    }

    pub(super) fn nstring(&mut self) -> Parsed<Option<Text<'a>>> {
        match self.peek() {
            Some(b'"' | b'{') => self.string().map(Some),
            _ if self.eat_all(b"NIL") => Ok(None),
            _ => Err("a string in quotes or NIL is missing"),
        }
    }

    pub(super) fn mailbox(&mut self) -> Parsed<MailboxName<'a>> {
        self.astring().map(MailboxName)
    }

    /// RFC 3501 9 `list-mailbox`: wildcards may be unquoted.
    pub(super) fn list_mailbox(&mut self) -> Parsed<MailboxName<'a>> {
        match self.peek() {
            Some(b'"' | b'{') => self.mailbox(),
            _ => {
                let taken =
                    self.take_while(|octet| is_astring_char(octet) || matches!(octet, b'%' | b'*'));
                if taken.is_empty() { Err("a mailbox pattern is missing") } else { Ok(taken) }
                    .map(|taken| MailboxName(Cow::Borrowed(taken)))
            }
        }
    }

    /// Items in parentheses, spaces between; at least one unless `may_be_empty`. `otherwise` is
    /// the error when the list does not start.
    pub(super) fn list(
        &mut self,
        may_be_empty: bool,
        otherwise: &'static str,
        mut item: impl FnMut(&mut Cursor<'a>) -> Parsed<()>,
    ) -> Parsed<()> {
        self.expect(b'(', otherwise)?;
        self.spaces();
        if may_be_empty && self.eat(b')') {
            return Ok(());
        }
        loop {
            item(self)?;
            let parted = self.spaces();
            if self.eat(b')') {
                return Ok(());
            }
            if !parted {
                return Err("a closing parenthesis is missing");
            }
        }
    }

    /// RFC 3501 9 `date`, quoted or not: days since 1970-01-01. Inside quotes there may be spaces
    /// around it: phones pad the day to two characters, as in `date-time`.
    pub(super) fn date(&mut self) -> Parsed<i64> {
        let quoted = self.eat(b'"');
        if quoted {
            self.spaces();
        }
        let text = self.take_while(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
        let days = date::parse_date(text).ok_or("not a date such as 23-Nov-2026")?;
        if quoted {
            self.spaces();
            self.expect(b'"', "a closing quote is missing")?;
        }
        Ok(days)
    }

    /// RFC 3501 9 `date-time`, in quotes.
    pub(super) fn date_time(&mut self) -> Parsed<Timestamp> {
        self.expect(b'"', "a date in quotes is missing")?;
        let text = self.take_while(|octet| octet != b'"');
        self.expect(b'"', "a closing quote is missing")?;
        date::parse_date_time(text).ok_or("not a date-time such as 23-Nov-2026 21:30:00 +0000")
    }

    /// The header of a literal: for a streamed one, the command's part ends with it.
    pub(super) fn literal_header(&mut self) -> Parsed<Literal> {
        let binary = self.eat(b'~');
        self.expect(b'{', "a literal is missing")?;
        let size = self.number()?;
        let sync = !self.eat(b'+');
        self.expect(b'}', "not a literal")?;
        Ok(Literal { size, sync, binary })
    }

    /// RFC 3516 4.4: octets, NUL among them.
    pub(super) fn literal8(&mut self) -> Parsed<Text<'a>> {
        match self.peek() {
            Some(b'~') => self.octets().map(Cow::Borrowed),
            _ => Err("a literal8 is missing"),
        }
    }

    fn literal(&mut self) -> Parsed<&'a [u8]> {
        let text = self.octets()?;
        match memchr::memchr(0, text) {
            Some(_) => Err("a string must not contain NUL"),
            None => Ok(text),
        }
    }

    fn octets(&mut self) -> Parsed<&'a [u8]> {
        let size = self.literal_header()?.size;
        if !self.eat_all(b"\r\n") {
            return Err("a literal's size must end its line");
        }
        let size = usize::try_from(size).map_err(|_| "literal too large")?;
        let (text, rest) = self.rest.split_at_checked(size).ok_or("literal is cut short")?;
        self.rest = rest;
        Ok(text)
    }

    fn quoted(&mut self) -> Parsed<Text<'a>> {
        const UNCLOSED: &str = "a closing quote is missing";
        self.expect(b'"', "a string in quotes is missing")?;
        let end = memchr2(b'"', b'\\', self.rest).ok_or(UNCLOSED)?;
        let (plain, rest) = self.rest.split_at(end);
        self.rest = rest;
        if self.eat(b'"') {
            return self.check_quoted(plain).map(Cow::Borrowed);
        }
        // Each piece is checked by itself: no character of UTF-8 contains a quote or a backslash.
        let mut text = self.check_quoted(plain)?.to_vec();
        loop {
            match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Ok(Cow::Owned(text));
                }
                [b'\\', escaped @ (b'"' | b'\\'), rest @ ..] => {
                    text.push(*escaped);
                    self.rest = rest;
                }
                [b'\\', ..] => return Err("only \" and \\ can be escaped"),
                _ => {
                    let end = memchr2(b'"', b'\\', self.rest).ok_or(UNCLOSED)?;
                    let (plain, rest) = self.rest.split_at(end);
                    text.extend_from_slice(self.check_quoted(plain)?);
                    self.rest = rest;
                }
            }
        }
    }

    /// Quoted strings contain no NUL, CR or LF (RFC 3501 9 `TEXT-CHAR`), and other octets as
    /// [`Quoted`] says.
    fn check_quoted<'t>(&self, text: &'t [u8]) -> Parsed<&'t [u8]> {
        if memchr3(0, b'\r', b'\n', text).is_some() {
            return Err("a quoted string must not contain NUL, CR or LF");
        }
        match self.quoted == Quoted::Utf8 && std::str::from_utf8(text).is_err() {
            true => Err("a quoted string must be UTF-8"),
            false => Ok(text),
        }
    }
}

/// Longest word of the protocol, e.g. `HEADER.FIELDS.NOT`.
const WORD_MAX: usize = 24;

/// A word in capitals, for comparison with names.
pub(super) struct Word {
    letters: [u8; WORD_MAX],
    size: usize,
}

impl Word {
    fn new(text: &[u8]) -> Option<Word> {
        let mut letters = [0; WORD_MAX];
        let target = letters.get_mut(..text.len()).filter(|target| !target.is_empty())?;
        target.copy_from_slice(text);
        target.make_ascii_uppercase();
        Some(Word { letters, size: text.len() })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.letters[..self.size]
    }
}

fn non_empty<'a>(taken: &'a [u8], otherwise: &'static str) -> Parsed<&'a str> {
    // Callers accept ASCII only, so the conversion cannot fail.
    std::str::from_utf8(taken).ok().filter(|text| !text.is_empty()).ok_or(otherwise)
}
