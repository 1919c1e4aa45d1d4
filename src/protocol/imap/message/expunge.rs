//! EXPUNGE (RFC 3501 6.4.3) and UID EXPUNGE (RFC 4315 2.1).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    sequence::SequenceSet,
};

/// `"EXPUNGE"` / `"UID" SP "EXPUNGE" SP sequence-set`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expunge {
    /// Of the `UID` form.
    pub uids: Option<SequenceSet>,
}

impl Arguments<'_> for Expunge {
    fn parse(cursor: &mut Cursor<'_>, uid: bool) -> Parsed<Expunge> {
        if !uid {
            return Ok(Expunge { uids: None });
        }
        cursor.arguments()?;
        Ok(Expunge { uids: Some(cursor.sequence_set()?) })
    }

    fn uid(&self) -> bool {
        self.uids.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, set},
        },
        Expunge,
    };

    #[test]
    fn forms() {
        check("EXPUNGE", CommandBody::Expunge(Expunge { uids: None }));
        let uids = Some(set("3,5:*"));
        check("UID EXPUNGE 3,5:*", CommandBody::Expunge(Expunge { uids }));
    }
}
