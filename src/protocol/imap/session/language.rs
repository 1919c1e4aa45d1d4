//! LANGUAGE (RFC 5255 3): the language of the texts that people read. There is one, English, which
//! is also that of `i-default` (RFC 2277 4.5).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// Languages in one command.
const LANGUAGES_MAX: usize = 50;

/// `language-cmd = "LANGUAGE" *(SP lang-range-quoted)`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Language {
    /// No range: which languages there are.
    List,
    /// The first range that one of them matches.
    Choose(&'static str),
    /// None does.
    Unknown,
}

/// The languages, by their tags.
pub const LANGUAGES: &[&str] = &["EN", "I-DEFAULT"];

/// The language that a range asks for, by RFC 4647 3.4: `en-GB` is answered by `en`, `default` (RFC
/// 5255 3.2) by the one that a session begins with.
fn lookup(range: &[u8]) -> Option<&'static str> {
    let named = |name: &str| {
        let rest = range.get(name.len()..)?;
        let begins = range.get(..name.len())?.eq_ignore_ascii_case(name.as_bytes());
        (begins && matches!(rest, [] | [b'-', ..])).then_some(())
    };
    if range.eq_ignore_ascii_case(b"default") || range.eq_ignore_ascii_case(b"i-default") {
        return Some("I-DEFAULT");
    }
    named("en").map(|()| "EN")
}

impl Arguments<'_> for Language {
    fn parse(cursor: &mut Cursor<'_>, _: bool) -> Parsed<Language> {
        let mut chosen = Language::List;
        for _ in 0..LANGUAGES_MAX {
            if !cursor.another() {
                return Ok(chosen);
            }
            let range = cursor.astring()?;
            chosen = match (chosen, lookup(&range)) {
                (Language::Choose(language), _) => Language::Choose(language),
                (_, Some(language)) => Language::Choose(language),
                (_, None) => Language::Unknown,
            };
        }
        if cursor.another() { Err("too many languages") } else { Ok(chosen) }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        *,
    };

    #[test]
    fn ranges() {
        let cases = [
            ("LANGUAGE", Language::List),
            ("LANGUAGE EN", Language::Choose("EN")),
            ("LANGUAGE en-GB-oed", Language::Choose("EN")),
            ("LANGUAGE enochian", Language::Unknown),
            ("LANGUAGE FR-CA", Language::Unknown),
            ("LANGUAGE FR \"en\" DEFAULT", Language::Choose("EN")),
            ("LANGUAGE default", Language::Choose("I-DEFAULT")),
            ("LANGUAGE i-default", Language::Choose("I-DEFAULT")),
        ];
        for (command, expected) in cases {
            check(command, CommandBody::Language(expected));
        }
        let many = format!("LANGUAGE{}", " de".repeat(LANGUAGES_MAX));
        check(&many, CommandBody::Language(Language::Unknown));
    }
}
