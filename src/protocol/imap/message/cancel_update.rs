//! CANCELUPDATE (RFC 5267 4.3.5): no further changes of some results are told.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
};

/// Tags in one command.
const TAGS_MAX: usize = 100;

/// `"CANCELUPDATE" 1*(SP quoted)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CancelUpdate<'a> {
    /// Of the commands that asked for the results. Never empty.
    pub tags: Vec<Text<'a>>,
}

impl<'a> Arguments<'a> for CancelUpdate<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<CancelUpdate<'a>> {
        cursor.arguments()?;
        let mut tags = vec![cursor.astring()?];
        while cursor.another() {
            if tags.len() == TAGS_MAX {
                return Err("too many tags");
            }
            tags.push(cursor.astring()?);
        }
        Ok(CancelUpdate { tags })
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
    fn tags() {
        let cancel = |tags: &[&'static str]| {
            let tags = tags.iter().copied().map(text).collect();
            CommandBody::CancelUpdate(CancelUpdate { tags })
        };
        check("CANCELUPDATE \"B01\"", cancel(&["B01"]));
        check("CANCELUPDATE \"B01\" \"B02\" c", cancel(&["B01", "B02", "c"]));
        let many = |count| format!("a CANCELUPDATE{}\r\n", " \"x\"".repeat(count));
        assert!(parse(many(TAGS_MAX).as_bytes()).is_ok());
        for wrong in ["a CANCELUPDATE\r\n", "a UID CANCELUPDATE x\r\n", &many(TAGS_MAX + 1)] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
