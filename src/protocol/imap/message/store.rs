//! STORE (RFC 3501 6.4.6, RFC 7162 3.1.3).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    flag_list::FlagList,
    sequence::SequenceSet,
};
use crate::model::{FlagAction, ModSeq};

/// `store = "STORE" SP sequence-set [SP "(" "UNCHANGEDSINCE" SP mod-sequence ")"]
/// SP store-att-flags`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store<'a> {
    /// Its `UID` form.
    pub uid: bool,
    pub set: SequenceSet,
    /// RFC 7162 3.1.3.
    pub unchanged_since: Option<ModSeq>,
    pub action: FlagAction,
    pub silent: bool,
    pub flags: FlagList<'a>,
}

impl<'a> Arguments<'a> for Store<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Store<'a>> {
        cursor.arguments()?;
        let set = cursor.sequence_set()?;
        cursor.space()?;
        let mut unchanged_since = None;
        if cursor.peek() == Some(b'(') {
            cursor.list(false, "a modifier is missing", |cursor| {
                if !cursor.eat_all(b"UNCHANGEDSINCE ") {
                    return Err("unknown STORE modifier");
                }
                cursor.spaces();
                unchanged_since = Some(cursor.mod_seq()?);
                Ok(())
            })?;
            cursor.space()?;
        }
        let action = if cursor.eat(b'+') {
            FlagAction::Add
        } else if cursor.eat(b'-') {
            FlagAction::Remove
        } else {
            FlagAction::Replace
        };
        let silent = match cursor.word()?.as_bytes() {
            b"FLAGS" => false,
            b"FLAGS.SILENT" => true,
            _ => return Err("only FLAGS can be stored"),
        };
        cursor.space()?;
        let flags = if cursor.peek() == Some(b'(') {
            cursor.flag_list()?
        } else {
            let mut flags = FlagList::default();
            cursor.flag(&mut flags)?;
            while cursor.another() {
                cursor.flag(&mut flags)?;
            }
            flags
        };
        Ok(Store { uid, set, unchanged_since, action, silent, flags })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, set},
        },
        *,
    };
    use crate::model::Flags;

    #[test]
    fn forms() {
        let store = Store {
            uid: false,
            set: set("2:4"),
            unchanged_since: None,
            action: FlagAction::Add,
            silent: false,
            flags: FlagList { system: Flags::DELETED, ..FlagList::default() },
        };
        check("STORE 2:4 +FLAGS (\\Deleted)", CommandBody::Store(store.clone()));
        check("STORE 2:4 +FLAGS \\Deleted", CommandBody::Store(store.clone()));
        check(
            "UID STORE 2:4 (UNCHANGEDSINCE 0) -flags.silent \\Deleted x Y",
            CommandBody::Store(Store {
                uid: true,
                unchanged_since: Some(ModSeq(0)),
                action: FlagAction::Remove,
                silent: true,
                flags: FlagList { system: Flags::DELETED, keywords: vec!["x", "Y"] },
                ..store.clone()
            }),
        );
        check(
            "STORE 2:4 FLAGS ()",
            CommandBody::Store(Store {
                action: FlagAction::Replace,
                flags: FlagList::default(),
                ..store
            }),
        );
    }
}
