//! COPY (RFC 3501 6.4.7) and MOVE (RFC 6851 3.1).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    name::MailboxName,
    sequence::SequenceSet,
};

/// `copy = "COPY" SP sequence-set SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copy<'a> {
    /// Its `UID` form.
    pub uid: bool,
    pub set: SequenceSet,
    pub mailbox: MailboxName<'a>,
}

/// `move = "MOVE" SP sequence-set SP mailbox`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move<'a>(pub Copy<'a>);

impl<'a> Arguments<'a> for Copy<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Copy<'a>> {
        cursor.arguments()?;
        let set = cursor.sequence_set()?;
        cursor.space()?;
        Ok(Copy { uid, set, mailbox: cursor.mailbox()? })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid
    }
}

impl<'a> Arguments<'a> for Move<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Move<'a>> {
        Copy::parse(cursor, uid).map(Move)
    }

    fn uid(&self) -> bool {
        self.0.uid
    }

    fn uses_numbers(&self) -> bool {
        self.0.uses_numbers()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, mailbox, set},
        },
        Copy, Move,
    };

    #[test]
    fn forms() {
        let copy = |uid| Copy { uid, set: set("2:4"), mailbox: mailbox("x") };
        check("COPY 2:4 x", CommandBody::Copy(copy(false)));
        check("UID MOVE 2:4 x", CommandBody::Move(Move(copy(true))));
    }
}
