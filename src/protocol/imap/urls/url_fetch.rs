//! URLFETCH (RFC 4467 7).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text},
    },
    URLS_MAX,
};

/// `urlfetch = "URLFETCH" 1*(SP url-full)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlFetch<'a> {
    pub urls: Vec<Text<'a>>,
}

impl<'a> Arguments<'a> for UrlFetch<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<UrlFetch<'a>> {
        cursor.arguments()?;
        let mut urls = Vec::new();
        loop {
            if urls.len() == URLS_MAX {
                return Err("too many URLs");
            }
            urls.push(cursor.astring()?);
            if !cursor.another() {
                return Ok(UrlFetch { urls });
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
        let of = |urls| CommandBody::UrlFetch(UrlFetch { urls });
        check("URLFETCH \"imap://x\"", of(vec![text("imap://x")]));
        check("URLFETCH imap://x {8}\r\nimap://y", of(vec![text("imap://x"), text("imap://y")]));
    }

    #[test]
    fn a_limit() {
        let line = |urls| format!("a URLFETCH{}\r\n", " x".repeat(urls));
        assert!(parse(line(URLS_MAX).as_bytes()).is_ok());
        let more = line(URLS_MAX + 1);
        assert_eq!(parse(more.as_bytes()).map_err(|error| error.what), Err("too many URLs"));
    }
}
