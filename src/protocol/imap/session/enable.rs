//! ENABLE (RFC 5161 3.1): extensions that change what the server sends unasked.

use super::super::{
    arguments::Arguments,
    capability::Capabilities,
    cursor::{Cursor, Parsed},
};

/// Names in one ENABLE.
const ENABLE_NAMES_MAX: usize = 50;

/// `enable = "ENABLE" 1*(SP capability)`
/// Names that are not known, or cannot be enabled, are left out (RFC 5161 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enable {
    pub extensions: Capabilities,
}

impl Arguments<'_> for Enable {
    fn parse(cursor: &mut Cursor<'_>, _: bool) -> Parsed<Enable> {
        cursor.arguments()?;
        let mut extensions = Capabilities::NONE;
        let mut count = 0;
        loop {
            if count == ENABLE_NAMES_MAX {
                return Err("too many extensions");
            }
            count += 1;
            if let Some(known) = Capabilities::that_can_be_enabled(cursor.atom()?) {
                extensions.insert(known);
            }
            if !cursor.another() {
                return Ok(Enable { extensions });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{Capability, CommandBody, parse, tests::check},
        *,
    };

    #[test]
    fn names() {
        let enable = |extensions| CommandBody::Enable(Enable { extensions });
        let condstore = [Capability::CondStore].into_iter().collect();
        check("ENABLE Condstore X-Y", enable(condstore));
        let qresync = [Capability::QResync].into_iter().collect();
        check("ENABLE qresync", enable(qresync));
        check("ENABLE X-Y IDLE", enable(Capabilities::NONE));
    }

    #[test]
    fn a_limit() {
        let line = |names| format!("a ENABLE{}\r\n", " X".repeat(names));
        assert!(parse(line(ENABLE_NAMES_MAX).as_bytes()).is_ok());
        let more = line(ENABLE_NAMES_MAX + 1);
        let error = parse(more.as_bytes()).expect_err("too many");
        assert_eq!(error.what, "too many extensions");
    }
}
