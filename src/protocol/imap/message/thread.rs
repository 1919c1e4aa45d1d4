//! THREAD (RFC 5256 3; REFS: draft-ietf-morg-inthread-01).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text},
    },
    search::SearchKey,
    sort::charset_and_keys,
};

/// `thread = "THREAD" SP thread-alg SP charset 1*(SP search-key)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thread<'a> {
    /// Its `UID` form.
    pub uid: bool,
    pub algorithm: Algorithm,
    pub charset: Text<'a>,
    pub key: SearchKey<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    OrderedSubject,
    References,
    /// As REFERENCES, without looking at subjects, and with the threads in the order of their
    /// newest arrivals.
    Refs,
}

impl<'a> Arguments<'a> for Thread<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Thread<'a>> {
        cursor.arguments()?;
        let algorithm = match cursor.word()?.as_bytes() {
            b"ORDEREDSUBJECT" => Algorithm::OrderedSubject,
            b"REFERENCES" => Algorithm::References,
            b"REFS" => Algorithm::Refs,
            _ => return Err("unknown threading algorithm"),
        };
        cursor.space()?;
        let (charset, key) = charset_and_keys(cursor)?;
        Ok(Thread { uid, algorithm, charset, key })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid || self.key.has_numbers()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, text},
        },
        *,
    };

    #[test]
    fn algorithms() {
        let thread = |uid, algorithm| {
            let charset = text("UTF-8");
            CommandBody::Thread(Thread { uid, algorithm, charset, key: SearchKey::All })
        };
        check("THREAD ORDEREDSUBJECT UTF-8 ALL", thread(false, Algorithm::OrderedSubject));
        check("UID THREAD references \"UTF-8\" ALL", thread(true, Algorithm::References));
        check("THREAD REFS {5}\r\nUTF-8 ALL", thread(false, Algorithm::Refs));
    }
}
