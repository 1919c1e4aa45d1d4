//! The base subject (RFC 5256 2.1): what SORT and THREAD compare of a Subject field.
//!
//! Called when a card is made. Linear in the size of the subject, however its marks are nested.

use super::encoded_word;

/// A Subject without the marks of replies and forwarded messages.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct BaseSubject {
    /// Decoded; the case is as sent.
    pub text: String,
    /// There were marks (RFC 5256 3, "reply or forward").
    pub is_reply: bool,
}

impl BaseSubject {
    /// Of an unfolded value.
    pub(super) fn of(value: &[u8]) -> BaseSubject {
        let spaced = match encoded_word::is_plain(value) {
            true => spaced(&String::from_utf8_lossy(value)),
            false => spaced(&encoded_word::decode_unfolded(value).text),
        };
        let mut rest = Rest { text: &spaced, is_reply: false };
        rest.reduce();
        BaseSubject { text: rest.text.to_owned(), is_reply: rest.is_reply }
    }
}

/// Step 1: white space becomes single spaces.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\t' | '\r' | '\n' | ' ' if out.ends_with(' ') => {}
            '\t' | '\r' | '\n' => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

/// What is left of a subject.
struct Rest<'a> {
    text: &'a str,
    is_reply: bool,
}

impl Rest<'_> {
    /// Steps 2 to 6.
    fn reduce(&mut self) {
        loop {
            self.drop_trailers();
            self.drop_leaders();
            // Step 6: `subj-fwd`.
            let inner = strip_prefix(self.text, "[fwd:").and_then(|it| it.strip_suffix(']'));
            let Some(inner) = inner else { return };
            self.text = inner;
            self.is_reply = true;
        }
    }

    /// Step 2: `subj-trailer = "(fwd)" / WSP`.
    fn drop_trailers(&mut self) {
        loop {
            self.text = self.text.trim_end_matches(' ');
            let Some(rest) = strip_suffix(self.text, "(fwd)") else { return };
            self.text = rest;
            self.is_reply = true;
        }
    }

    /// Steps 3 to 5: `subj-leader = (*subj-blob subj-refwd) / WSP`, and blobs that are not all
    /// there is.
    fn drop_leaders(&mut self) {
        loop {
            self.text = self.text.trim_start_matches(' ');
            let (mut behind, mut last) = (self.text, self.text);
            while let Some(next) = strip_blob(behind) {
                (last, behind) = (behind, next);
            }
            if let Some(rest) = strip_reply(behind) {
                self.text = rest;
                self.is_reply = true;
                continue;
            }
            // The last blob is the base if nothing else would be.
            self.text = if behind.is_empty() { last } else { behind };
            return;
        }
    }
}

/// `subj-refwd = ("re" / ("fw" ["d"])) *WSP [subj-blob] ":"`
fn strip_reply(text: &str) -> Option<&str> {
    let rest = strip_prefix(text, "re")
        .or_else(|| strip_prefix(text, "fwd"))
        .or_else(|| strip_prefix(text, "fw"))?
        .trim_start_matches(' ');
    rest.strip_prefix(':').or_else(|| strip_blob(rest)?.strip_prefix(':'))
}

/// `subj-blob = "[" *BLOBCHAR "]" *WSP`: no brackets inside.
fn strip_blob(text: &str) -> Option<&str> {
    let inside = text.strip_prefix('[')?;
    let end = inside.find(['[', ']'])?;
    Some(inside.get(end..)?.strip_prefix(']')?.trim_start_matches(' '))
}

fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn strip_suffix<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let (rest, end) = text.split_at_checked(text.len().checked_sub(suffix.len())?)?;
    end.eq_ignore_ascii_case(suffix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// (subject, base subject, whether it is of a reply or forwarded message)
    const CASES: &[(&str, &str, bool)] = &[
        ("", "", false),
        ("hello", "hello", false),
        ("  Hello \t World  ", "Hello World", false),
        ("Re: hello", "hello", true),
        ("RE : Re:re:  hello", "hello", true),
        ("Fw: hello", "hello", true),
        ("FWD: hello", "hello", true),
        ("re[2]: hello", "hello", true),
        ("Re [2] : hello", "hello", true),
        ("[list] hello", "hello", false),
        ("[list] Re: hello", "hello", true),
        ("[a] [b] re: [c] hello", "hello", true),
        ("Re: [list] Re: hello (fwd)  (FWD)", "hello", true),
        ("hello (fwd)", "hello", true),
        ("hello (fwd) there", "hello (fwd) there", false),
        ("[fwd: hello]", "hello", true),
        ("[Fwd: Re: [list] hello (fwd)]", "hello", true),
        ("Re: [Fwd: [Fwd: hello]]", "hello", true),
        ("[fwd: hello] there", "there", false),
        ("[a]", "[a]", false),
        ("[a][b]", "[b]", false),
        ("[a] [b] ", "[b]", false),
        ("[a] (fwd)", "[a]", true),
        ("Re: [a]", "[a]", true),
        ("[a] re:", "", true),
        ("re:", "", true),
        ("(fwd)", "", true),
        ("Reply: hello", "Reply: hello", false),
        ("Re hello", "Re hello", false),
        ("re[x[y]: hello", "re[x[y]: hello", false),
        ("[a[b] hello", "[a[b] hello", false),
        ("[unclosed hello", "[unclosed hello", false),
        ("fwdd: x", "fwdd: x", false),
        ("=?utf-8?q?Re=3A_Gr=C3=BC=C3=9Fe?=", "Gr\u{fc}\u{df}e", true),
        ("Re: =?utf-8?q?=5Blist=5D?= \u{e4}", "\u{e4}", true),
        ("[fwd: \u{e4}]", "\u{e4}", true),
        ("r\u{e9}: x", "r\u{e9}: x", false),
    ];

    #[test]
    fn base_subjects() {
        for &(subject, base, is_reply) in CASES {
            let found = BaseSubject::of(subject.as_bytes());
            assert_eq!((found.text.as_str(), found.is_reply), (base, is_reply), "{subject:?}");
        }
    }

    /// Each takes a moment, not minutes.
    #[test]
    fn long_subjects_take_no_longer_than_they_are() {
        for piece in ["[]", "[a] ", "re:", "re[", "[fwd:", "(fwd)", "[x]re:", "]", "[re:]", "  ["] {
            let found = BaseSubject::of(piece.repeat(64 * 1024 / piece.len()).as_bytes());
            assert!(found.text.len() <= 64 * 1024);
        }
        let nested = "[fwd:".repeat(8_000) + "x" + &"]".repeat(8_000);
        assert_eq!(BaseSubject::of(nested.as_bytes()).text, "x");
    }

    proptest! {
        /// Taking the base of a base changes nothing.
        #[test]
        fn a_base_is_its_own(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "re", ":", "[", "]", " ", "fwd", "(fwd)", "[fwd:", "x", "\u{e9}", "fw", "\t",
                ]),
                0..14,
            ),
        ) {
            let once = BaseSubject::of(pieces.concat().as_bytes());
            let again = BaseSubject::of(once.text.as_bytes());
            prop_assert_eq!(&again.text, &once.text);
            prop_assert!(!again.is_reply);
        }
    }
}
