//! Converts HTML to the visible text, piece by piece; for SEARCH only, so there is no layout.
//!
//! Tags are removed (those of blocks leave white space), script and style together with their
//! content; character references become characters, white space runs become one space. It is not an
//! HTML parser: what it does not recognize passes as text. State between pieces is bounded.

use memchr::{memchr, memchr2};

/// Significant octets of a tag's name.
const NAME_SIZE_MAX: usize = 16;
/// Octets from `&` to `;`.
const REFERENCE_SIZE_MAX: usize = 16;

/// Tags that occur inside words; all others separate them.
const INLINE: [&str; 22] = [
    "a", "abbr", "b", "bdi", "bdo", "big", "code", "del", "em", "font", "i", "ins", "kbd", "mark",
    "s", "small", "span", "strong", "sub", "sup", "u", "wbr",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Text,
    /// After `<`, reading the name.
    Name,
    /// After the name, perhaps in quotes.
    Attributes {
        quote: Option<u8>,
    },
    /// After `<!--`: the number of trailing dashes.
    Comment {
        dashes: u8,
    },
    /// After `&`.
    Reference,
}

/// Strips one document.
#[derive(Debug)]
pub(super) struct Stripper {
    state: State,
    /// The tag's name or the reference so far, without `<` or `&`.
    word: String,
    /// Inside script or style: no text until the end tag of this name.
    hidden: Option<&'static str>,
    /// The last emitted character was white space.
    after_space: bool,
}

impl Default for Stripper {
    fn default() -> Stripper {
        Stripper { state: State::Text, word: String::new(), hidden: None, after_space: true }
    }
}

impl Stripper {
    pub(super) fn new() -> Stripper {
        Stripper::default()
    }

    /// Appends the text of `piece`.
    pub(super) fn push(&mut self, piece: &str, out: &mut String) {
        let mut rest = piece;
        while let Some(next) = rest.chars().next() {
            let taken = match self.state {
                State::Text => self.take_text(rest, out),
                State::Name => self.take_name(next, out),
                State::Attributes { quote } => self.take_attributes(rest, quote, out),
                State::Comment { dashes } => self.take_comment(next, dashes),
                State::Reference => self.take_reference(next, out),
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Appends the rest of an incomplete construct.
    pub(super) fn finish(&mut self, out: &mut String) {
        if self.state == State::Reference {
            self.end_reference(out);
        }
    }

    fn take_text(&mut self, rest: &str, out: &mut String) -> usize {
        let bytes = rest.as_bytes();
        let special = match self.hidden {
            Some(_) => memchr(b'<', bytes),
            None => memchr2(b'<', b'&', bytes),
        };
        let text = &rest[..special.unwrap_or(rest.len())];
        if self.hidden.is_none() {
            self.tell(text, out);
        }
        let Some(at) = special else { return rest.len() };
        self.state = if bytes[at] == b'<' { State::Name } else { State::Reference };
        self.word.clear();
        at + 1
    }

    /// Appends text with its white space collapsed.
    fn tell(&mut self, text: &str, out: &mut String) {
        let mut words = text.split(|letter: char| letter.is_whitespace());
        let Some(first) = words.next() else { return };
        self.tell_word(first, out);
        for word in words {
            self.tell_space(out);
            self.tell_word(word, out);
        }
    }

    fn tell_word(&mut self, word: &str, out: &mut String) {
        if !word.is_empty() {
            out.push_str(word);
            self.after_space = false;
        }
    }

    fn tell_space(&mut self, out: &mut String) {
        if !self.after_space {
            out.push(' ');
            self.after_space = true;
        }
    }

    fn take_name(&mut self, next: char, out: &mut String) -> usize {
        if self.word.is_empty() && !(next.is_ascii_alphabetic() || "/!?".contains(next)) {
            // Not a tag: `a < b`.
            self.state = State::Text;
            if self.hidden.is_none() {
                self.tell("<", out);
            }
            return 0;
        }
        if next == '>' || next.is_ascii_whitespace() || next == '/' && !self.word.is_empty() {
            self.state = State::Attributes { quote: None };
            return if next == '>' { 0 } else { next.len_utf8() };
        }
        if self.word.len() < NAME_SIZE_MAX {
            self.word.push(next.to_ascii_lowercase());
        }
        if self.word == "!--" {
            self.state = State::Comment { dashes: 0 };
        }
        next.len_utf8()
    }

    fn take_attributes(&mut self, rest: &str, quote: Option<u8>, out: &mut String) -> usize {
        let bytes = rest.as_bytes();
        // In script and style, quotes belong to the hidden content.
        let special = |&byte: &u8| match quote {
            Some(quote) => byte == quote,
            None => byte == b'>' || self.hidden.is_none() && (byte == b'"' || byte == b'\''),
        };
        let Some(at) = bytes.iter().position(special) else { return rest.len() };
        self.state = match (quote, bytes[at]) {
            (Some(_), _) => State::Attributes { quote: None },
            (None, b'>') => {
                self.end_tag(out);
                State::Text
            }
            (None, opening) => State::Attributes { quote: Some(opening) },
        };
        at + 1
    }

    fn end_tag(&mut self, out: &mut String) {
        let name = self.word.strip_prefix('/').unwrap_or(&self.word);
        let is_end = name.len() < self.word.len();
        match self.hidden {
            Some(hidden) if is_end && name == hidden => self.hidden = None,
            Some(_) => {}
            None if !INLINE.contains(&name) => {
                let starts_hidden = ["script", "style"].into_iter().find(|&hidden| hidden == name);
                self.hidden = starts_hidden.filter(|_| !is_end);
                self.tell_space(out);
            }
            None => {}
        }
    }

    fn take_comment(&mut self, next: char, dashes: u8) -> usize {
        self.state = match next {
            '-' => State::Comment { dashes: (dashes + 1).min(2) },
            '>' if dashes == 2 => State::Text,
            _ => State::Comment { dashes: 0 },
        };
        next.len_utf8()
    }

    fn take_reference(&mut self, next: char, out: &mut String) -> usize {
        if next == ';' {
            match reference(&self.word) {
                Some(letter) => {
                    self.tell(letter.encode_utf8(&mut [0; 4]), out);
                    self.state = State::Text;
                    return 1;
                }
                None => self.end_reference(out),
            }
        } else if (next.is_ascii_alphanumeric() || next == '#')
            && self.word.len() < REFERENCE_SIZE_MAX
        {
            self.word.push(next);
            return 1;
        } else {
            self.end_reference(out);
        }
        0
    }

    /// Not a reference after all: emitted as text.
    fn end_reference(&mut self, out: &mut String) {
        self.state = State::Text;
        self.tell("&", out);
        let word = std::mem::take(&mut self.word);
        self.tell(&word, out);
    }
}

/// Names of U+00A0 to U+00FF, in order.
const LATIN_1: [&str; 96] = [
    "nbsp", "iexcl", "cent", "pound", "curren", "yen", "brvbar", "sect", "uml", "copy", "ordf",
    "laquo", "not", "shy", "reg", "macr", "deg", "plusmn", "sup2", "sup3", "acute", "micro",
    "para", "middot", "cedil", "sup1", "ordm", "raquo", "frac14", "frac12", "frac34", "iquest",
    "Agrave", "Aacute", "Acirc", "Atilde", "Auml", "Aring", "AElig", "Ccedil", "Egrave", "Eacute",
    "Ecirc", "Euml", "Igrave", "Iacute", "Icirc", "Iuml", "ETH", "Ntilde", "Ograve", "Oacute",
    "Ocirc", "Otilde", "Ouml", "times", "Oslash", "Ugrave", "Uacute", "Ucirc", "Uuml", "Yacute",
    "THORN", "szlig", "agrave", "aacute", "acirc", "atilde", "auml", "aring", "aelig", "ccedil",
    "egrave", "eacute", "ecirc", "euml", "igrave", "iacute", "icirc", "iuml", "eth", "ntilde",
    "ograve", "oacute", "ocirc", "otilde", "ouml", "divide", "oslash", "ugrave", "uacute", "ucirc",
    "uuml", "yacute", "thorn", "yuml",
];

const OTHERS: [(&str, char); 23] = [
    ("amp", '&'),
    ("lt", '<'),
    ("gt", '>'),
    ("quot", '"'),
    ("apos", '\''),
    ("ndash", '\u{2013}'),
    ("mdash", '\u{2014}'),
    ("lsquo", '\u{2018}'),
    ("rsquo", '\u{2019}'),
    ("sbquo", '\u{201a}'),
    ("ldquo", '\u{201c}'),
    ("rdquo", '\u{201d}'),
    ("bdquo", '\u{201e}'),
    ("bull", '\u{2022}'),
    ("hellip", '\u{2026}'),
    ("euro", '\u{20ac}'),
    ("trade", '\u{2122}'),
    ("OElig", '\u{152}'),
    ("oelig", '\u{153}'),
    ("Scaron", '\u{160}'),
    ("scaron", '\u{161}'),
    ("ensp", ' '),
    ("emsp", ' '),
];

fn reference(name: &str) -> Option<char> {
    if let Some(digits) = name.strip_prefix('#') {
        let code = match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => digits.parse().ok()?,
        };
        return char::from_u32(code);
    }
    if let Some((_, letter)) = OTHERS.iter().find(|(other, _)| *other == name) {
        return Some(*letter);
    }
    let index = LATIN_1.iter().position(|&latin| latin == name)?;
    char::from_u32(0xa0 + index as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strip<'a>(pieces: impl IntoIterator<Item = &'a str>) -> String {
        let mut stripper = Stripper::new();
        let mut out = String::new();
        pieces.into_iter().for_each(|piece| stripper.push(piece, &mut out));
        stripper.finish(&mut out);
        out
    }

    const CASES: &[(&str, &str)] = &[
        ("plain", "plain"),
        ("<p>one</p><p>two", "one two"),
        ("w<b>or</b>d <i>x</i>", "word x"),
        ("a\r\n   b&nbsp;c\u{a0}d", "a b c d"),
        ("<td>a</td><td>b</td>", "a b "),
        ("a<br/>b<BR>c", "a b c"),
        ("<a href=\"x>y\" title='>'>link</a>", "link"),
        ("a < b && c > d", "a < b && c > d"),
        ("x<style type=a>p > b { \"'<i> }</style>y<script>if (a<b) '</x>'</script>z", "x y z"),
        ("a<!-- x > -- y --->b<!---->c", "abc"),
        ("<!DOCTYPE html><?xml x?>t", "t"),
        ("J&ouml;rg &amp; &#74;&#x4a; &Ouml;&lt;&euro;", "J\u{f6}rg & JJ \u{d6}<\u{20ac}"),
        ("&unknown; &; &#xffffffff; & &amp", "&unknown; &; &#xffffffff; & &amp"),
        ("&verylongnamethatisnoreference;", "&verylongnamethatisnoreference;"),
        ("open <a href=\"", "open "),
        ("<", ""),
        ("\u{f6}<\u{f6}>\u{f6}", "\u{f6}<\u{f6}>\u{f6}"),
    ];

    #[test]
    fn documents() {
        for (source, expected) in CASES {
            assert_eq!(strip([*source]), *expected, "{source:?}");
            let letters = source.char_indices().map(|(at, c)| &source[at..at + c.len_utf8()]);
            assert_eq!(strip(letters), *expected, "{source:?} letter by letter");
        }
    }

    #[test]
    fn latin_1_names_are_in_place() {
        assert_eq!(reference("nbsp"), Some('\u{a0}'));
        assert_eq!(reference("iquest"), Some('\u{bf}'));
        assert_eq!(reference("szlig"), Some('\u{df}'));
        assert_eq!(reference("yuml"), Some('\u{ff}'));
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(
            source in "(<|>|/|!--|--|p|b|script|style|&|amp;|#1|\"| |\u{f6}){0,30}",
            cut in 0usize..60,
        ) {
            let whole = strip([source.as_str()]);
            if let Some((head, tail)) = source.split_at_checked(cut) {
                prop_assert_eq!(strip([head, tail]), whole);
            }
        }
    }
}
