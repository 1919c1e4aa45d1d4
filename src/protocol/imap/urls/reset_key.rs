//! RESETKEY (RFC 4467 7).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
};

/// `resetkey = "RESETKEY" [SP mailbox *(SP mechanism)]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResetKey<'a> {
    /// `None`: all of them.
    pub mailbox: Option<MailboxName<'a>>,
    /// Empty for INTERNAL.
    pub mechanisms: Vec<&'a str>,
}

/// Mechanisms in one RESETKEY.
const MECHANISMS_MAX: usize = 10;

impl<'a> Arguments<'a> for ResetKey<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<ResetKey<'a>> {
        let mut mechanisms = Vec::new();
        if !cursor.another() {
            return Ok(ResetKey { mailbox: None, mechanisms });
        }
        let mailbox = Some(cursor.mailbox()?);
        while cursor.another() {
            if mechanisms.len() == MECHANISMS_MAX {
                return Err("too many mechanisms");
            }
            mechanisms.push(cursor.atom()?);
        }
        Ok(ResetKey { mailbox, mechanisms })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox},
        },
        *,
    };

    #[test]
    fn forms() {
        let of = |mailbox, mechanisms| CommandBody::ResetKey(ResetKey { mailbox, mechanisms });
        check("RESETKEY", of(None, vec![]));
        check("RESETKEY ", of(None, vec![]));
        check("RESETKEY INBOX", of(Some(mailbox("INBOX")), vec![]));
        let both = vec!["INTERNAL", "XSAMPLE"];
        check("RESETKEY {1}\r\nx INTERNAL XSAMPLE", of(Some(mailbox("x")), both));
    }
}
