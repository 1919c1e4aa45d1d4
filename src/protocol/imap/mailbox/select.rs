//! SELECT and EXAMINE (RFC 3501 6.3.1, 6.3.2) with the parameters of RFC 4466 2.1, which are those
//! of RFC 7162.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
    sequence::SequenceSet,
};
use crate::model::{ModSeq, UidValidity};

/// `select = "SELECT" SP mailbox [select-params]`,
/// `select-params = SP "(" select-param *(SP select-param) ")"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Select<'a> {
    pub mailbox: MailboxName<'a>,
    /// The parameter of RFC 7162 3.1.8.
    pub condstore: bool,
    /// The parameter of RFC 7162 3.2.5.
    pub resync: Option<Resync>,
}

/// `"QRESYNC" SP "(" uidvalidity SP mod-sequence-value [SP known-uids] [SP seq-match-data] ")"`:
/// what a client has of the mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resync {
    pub uid_validity: UidValidity,
    pub mod_seq: ModSeq,
    /// Without `*`.
    pub known: Option<SequenceSet>,
    /// RFC 7162 3.2.5.2: message numbers, and the UIDs that go with them; equally many, without
    /// `*`.
    pub matches: Option<(SequenceSet, SequenceSet)>,
}

/// `examine = "EXAMINE" SP mailbox [select-params]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examine<'a>(pub Select<'a>);

impl<'a> Arguments<'a> for Select<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Select<'a>> {
        cursor.arguments()?;
        let mut select = Select { mailbox: cursor.mailbox()?, condstore: false, resync: None };
        select_parameters(cursor, &mut select)?;
        Ok(select)
    }

    /// RFC 9586 3.6
    fn uses_numbers(&self) -> bool {
        self.resync.as_ref().is_some_and(|resync| resync.matches.is_some())
    }
}

impl<'a> Arguments<'a> for Examine<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Examine<'a>> {
        Select::parse(cursor, uid).map(Examine)
    }

    fn uses_numbers(&self) -> bool {
        self.0.uses_numbers()
    }
}

/// Unknown parameters must be refused (RFC 4466 2.1).
fn select_parameters(cursor: &mut Cursor<'_>, select: &mut Select<'_>) -> Parsed<()> {
    if !cursor.another() {
        return Ok(());
    }
    cursor.list(false, "a parameter list is missing", |cursor| {
        match cursor.word()?.as_bytes() {
            b"CONDSTORE" => select.condstore = true,
            b"QRESYNC" => {
                cursor.space()?;
                select.resync = Some(resync(cursor)?);
            }
            _ => return Err("unknown select parameter"),
        }
        Ok(())
    })
}

fn resync(cursor: &mut Cursor<'_>) -> Parsed<Resync> {
    cursor.expect(b'(', "QRESYNC has parameters in parentheses")?;
    cursor.spaces();
    let uid_validity = u32::try_from(cursor.number()?).ok().filter(|number| *number > 0);
    let uid_validity = UidValidity(uid_validity.ok_or("not a UIDVALIDITY")?);
    cursor.space()?;
    let mod_seq = cursor.mod_seq()?;
    let mut resync = Resync { uid_validity, mod_seq, known: None, matches: None };
    if cursor.another() && cursor.peek() != Some(b'(') {
        resync.known = Some(set_without_star(cursor)?);
        cursor.another();
    }
    if cursor.eat(b'(') {
        cursor.spaces();
        let numbers = set_without_star(cursor)?;
        cursor.space()?;
        let uids = set_without_star(cursor)?;
        cursor.spaces();
        cursor.expect(b')', "a closing parenthesis is missing")?;
        if numbers.count() != uids.count() {
            return Err("QRESYNC needs a UID for each message number");
        }
        resync.matches = Some((numbers, uids));
        cursor.spaces();
    }
    cursor.expect(b')', "a closing parenthesis is missing")?;
    Ok(resync)
}

/// What the client knows: neither `*` nor `$`, which is of the mailbox that it leaves.
fn set_without_star(cursor: &mut Cursor<'_>) -> Parsed<SequenceSet> {
    let set = cursor.sequence_set()?;
    match set.has_star() || set.is_saved_result() {
        true => Err("this set must not contain * or $"),
        false => Ok(set),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, mailbox, set},
        },
        *,
    };

    #[test]
    fn parameters() {
        let select = |name, condstore| Select { mailbox: mailbox(name), condstore, resync: None };
        check("SELECT INBOX", CommandBody::Select(select("INBOX", false)));
        check("SELECT \"a b\" (CONDSTORE)", CommandBody::Select(select("a b", true)));
        check("SELECT {5}\r\nINBOX", CommandBody::Select(select("INBOX", false)));
        check("EXAMINE x", CommandBody::Examine(Examine(select("x", false))));
    }

    /// RFC 7162 3.2.5, 7.
    #[test]
    fn quick_resynchronization() {
        let select = |known: Option<&str>, matches: Option<(&str, &str)>| {
            let (known, matches) = (known.map(set), matches.map(|(a, b)| (set(a), set(b))));
            let (uid_validity, mod_seq) = (UidValidity(67890007), ModSeq(20050715194045000));
            let resync = Some(Resync { uid_validity, mod_seq, known, matches });
            CommandBody::Select(Select { mailbox: mailbox("INBOX"), condstore: false, resync })
        };
        let begin = "SELECT INBOX (QRESYNC (67890007 20050715194045000";
        check(&format!("{begin}))"), select(None, None));
        check(&format!("{begin} 41,43:211,214:541))"), select(Some("41,43:211,214:541"), None));
        let numbers = "1,3 4,9";
        let both = select(Some("1:29997"), Some(("1,3", "4,9")));
        check(&format!("{begin} 1:29997 ({numbers})))"), both.clone());
        check(&format!("{begin} 1:29997 ( {numbers} ) ) )"), both);
        check(&format!("{begin} ({numbers})))"), select(None, Some(("1,3", "4,9"))));
        const WRONG: &[&str] = &[
            "QRESYNC",
            "QRESYNC ()",
            "QRESYNC (67890007)",
            "QRESYNC (0 1)",
            "QRESYNC (4294967296 1)",
            "QRESYNC (1 9223372036854775808)",
            "QRESYNC (1 1 1:*)",
            "QRESYNC (1 1 *)",
            "QRESYNC (1 1 $)",
            "QRESYNC (1 1 1:2 ($ $))",
            "QRESYNC (1 1 1:2 (1,2 3))",
            "QRESYNC (1 1 1:2 (1 *))",
            "QRESYNC (1 1 1:2 (1 1) 2)",
            "QRESYNC (1 1 1:2 3)",
        ];
        for wrong in WRONG {
            assert!(parse(format!("a SELECT x ({wrong})\r\n").as_bytes()).is_err(), "{wrong}");
        }
    }
}
