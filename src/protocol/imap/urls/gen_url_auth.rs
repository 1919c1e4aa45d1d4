//! GENURLAUTH (RFC 4467 7).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text},
    },
    URLS_MAX,
};

/// `genurlauth = "GENURLAUTH" 1*(SP url-rump SP mechanism)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GenUrlAuth<'a> {
    /// Each URL, and the mechanism to sign it with.
    pub urls: Vec<(Text<'a>, &'a str)>,
}

impl<'a> Arguments<'a> for GenUrlAuth<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<GenUrlAuth<'a>> {
        cursor.arguments()?;
        let mut urls = Vec::new();
        loop {
            if urls.len() == URLS_MAX {
                return Err("too many URLs");
            }
            let url = cursor.astring()?;
            cursor.space()?;
            urls.push((url, cursor.atom()?));
            if !cursor.another() {
                return Ok(GenUrlAuth { urls });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, text},
        },
        *,
    };

    #[test]
    fn urls() {
        let of = |urls| CommandBody::GenUrlAuth(GenUrlAuth { urls });
        check("GENURLAUTH \"imap://x\" INTERNAL", of(vec![(text("imap://x"), "INTERNAL")]));
        check(
            "GENURLAUTH imap://x internal {8}\r\nimap://y XSAMPLE",
            of(vec![(text("imap://x"), "internal"), (text("imap://y"), "XSAMPLE")]),
        );
    }

    #[test]
    fn a_limit() {
        let line = |urls| format!("a GENURLAUTH{}\r\n", " x INTERNAL".repeat(urls));
        assert!(parse(line(URLS_MAX).as_bytes()).is_ok());
        let more = line(URLS_MAX + 1);
        assert_eq!(parse(more.as_bytes()).map_err(|error| error.what), Err("too many URLs"));
    }
}
