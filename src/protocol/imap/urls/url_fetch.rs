//! URLFETCH (RFC 4467 7, RFC 5524).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text},
    },
    URLS_MAX,
};

/// `urlfetch = "URLFETCH" 1*(SP (url-full / "(" url-full *(SP url-fetch-param) ")"))`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UrlFetch<'a> {
    /// Each URL, and what is wanted of it.
    pub urls: Vec<(Text<'a>, Wanted)>,
}

/// What is wanted of an URL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Its octets, in the form of RFC 4467.
    Octets,
    /// Items of RFC 5524.
    Items { structure: bool, content: Option<Content> },
}

/// What an URL names, as it is, or without its transfer encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    Body,
    Binary,
}

impl<'a> Arguments<'a> for UrlFetch<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<UrlFetch<'a>> {
        cursor.arguments()?;
        let mut urls = Vec::new();
        loop {
            if urls.len() == URLS_MAX {
                return Err("too many URLs");
            }
            urls.push(match cursor.peek() {
                Some(b'(') => with_items(cursor)?,
                _ => (cursor.astring()?, Wanted::Octets),
            });
            if !cursor.another() {
                return Ok(UrlFetch { urls });
            }
        }
    }
}

/// `"(" url-full *(SP ("BODY" / "BINARY" / "BODYPARTSTRUCTURE")) ")"`: each item once, and not both
/// BODY and BINARY (RFC 5524 3.1).
fn with_items<'a>(cursor: &mut Cursor<'a>) -> Parsed<(Text<'a>, Wanted)> {
    let mut url = None;
    let (mut structure, mut content) = (false, None);
    cursor.list(false, "an URL is missing", |cursor| {
        if url.is_none() {
            url = Some(cursor.astring()?);
            return Ok(());
        }
        let item = match cursor.word()?.as_bytes() {
            b"BODY" => Some(Content::Body),
            b"BINARY" => Some(Content::Binary),
            b"BODYPARTSTRUCTURE" => None,
            _ => return Err("unknown item of an URL"),
        };
        let is_new = match item {
            Some(item) => content.replace(item).is_none(),
            None => !std::mem::replace(&mut structure, true),
        };
        if is_new { Ok(()) } else { Err("an item of an URL is asked for twice") }
    })?;
    let url = url.ok_or("an URL is missing")?;
    match structure || content.is_some() {
        true => Ok((url, Wanted::Items { structure, content })),
        false => Ok((url, Wanted::Octets)),
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
        let plain = |url| (text(url), Wanted::Octets);
        check("URLFETCH \"imap://x\"", of(vec![plain("imap://x")]));
        check("URLFETCH imap://x {8}\r\nimap://y", of(vec![plain("imap://x"), plain("imap://y")]));
        check("URLFETCH (imap://x)", of(vec![plain("imap://x")]));
        let items = |structure, content| (text("imap://x"), Wanted::Items { structure, content });
        check("URLFETCH (imap://x BODY)", of(vec![items(false, Some(Content::Body))]));
        check(
            "URLFETCH (\"imap://x\" bodypartstructure Binary ) (imap://x BODYPARTSTRUCTURE)",
            of(vec![items(true, Some(Content::Binary)), items(true, None)]),
        );
    }

    /// RFC 5524 3.1.
    #[test]
    fn items_that_are_refused() {
        for items in ["BODY BINARY", "BODY BODY", "BODYPARTSTRUCTURE BODYPARTSTRUCTURE", "SIZE"] {
            let line = format!("a URLFETCH (x {items})\r\n");
            assert!(parse(line.as_bytes()).is_err(), "{items}");
        }
        for line in ["a URLFETCH ()\r\n", "a URLFETCH (x\r\n", "a URLFETCH (x (BODY))\r\n"] {
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_limit() {
        let line = |urls| format!("a URLFETCH{}\r\n", " x".repeat(urls));
        assert!(parse(line(URLS_MAX).as_bytes()).is_ok());
        let more = line(URLS_MAX + 1);
        assert_eq!(parse(more.as_bytes()).map_err(|error| error.what), Err("too many URLs"));
    }
}
