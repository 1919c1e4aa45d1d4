//! ID (RFC 2971 3.1): the client's description of itself.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
};

/// ID fields in one command (RFC 2971 3.3).
const ID_FIELDS_MAX: usize = 30;
/// Octets of an ID value (RFC 2971 3.3).
const ID_VALUE_MAX: usize = 1_024;

/// `id = "ID" SP id_params_list`, `id_params_list = "(" *(string SP nstring) ")" / nil`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Id<'a> {
    /// Empty for `NIL`.
    pub fields: Vec<(Text<'a>, Option<Text<'a>>)>,
}

impl Id<'_> {
    /// Whether an Apple mail program says that it fetches or indexes in the background, which can
    /// wait (Apple Technical Note TN3189).
    pub fn can_wait(&self) -> bool {
        let events = [&b"back-fill"[..], b"indexer"];
        self.fields.iter().any(|(field, value)| {
            let value = value.as_deref().unwrap_or_default();
            field.eq_ignore_ascii_case(b"event")
                && events.iter().any(|event| value.eq_ignore_ascii_case(event))
        })
    }
}

impl<'a> Arguments<'a> for Id<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Id<'a>> {
        cursor.arguments()?;
        let mut fields = Vec::new();
        if cursor.eat_all(b"NIL") {
            return Ok(Id { fields });
        }
        cursor.list(true, "ID takes a list or NIL", |cursor| {
            let field = cursor.string()?;
            cursor.space()?;
            let value = cursor.nstring()?;
            if fields.len() == ID_FIELDS_MAX {
                return Err("too many ID fields");
            }
            if field.len().max(value.as_deref().map_or(0, <[u8]>::len)) > ID_VALUE_MAX {
                return Err("ID field too long");
            }
            fields.push((field, value));
            Ok(())
        })?;
        Ok(Id { fields })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, text},
        },
        Id,
    };

    #[test]
    fn fields() {
        check("ID NIL", CommandBody::Id(Id { fields: vec![] }));
        check("ID ()", CommandBody::Id(Id { fields: vec![] }));
        let fields = vec![(text("name"), Some(text("x"))), (text("os"), None)];
        check("ID (\"name\" \"x\" \"os\" NIL)", CommandBody::Id(Id { fields }));
    }

    #[test]
    fn background_events() {
        let id = |field, value| Id { fields: vec![(text("name"), None), (text(field), value)] };
        assert!(id("event", Some(text("back-fill"))).can_wait());
        assert!(id("Event", Some(text("INDEXER"))).can_wait());
        assert!(!id("event", Some(text("user"))).can_wait());
        assert!(!id("event", None).can_wait());
        assert!(!id("vendor", Some(text("indexer"))).can_wait());
    }
}
