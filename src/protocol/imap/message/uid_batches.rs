//! UIDBATCHES (RFC 10022): ranges of UIDs that divide a mailbox into batches.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `"UIDBATCHES" SP nz-number [SP nz-number ":" nz-number]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UidBatches {
    /// Messages in each batch, from the newest on.
    pub size: u32,
    /// The first and the last batch to be told, from 1, in the order that they were sent in.
    pub batches: Option<(u32, u32)>,
}

impl Arguments<'_> for UidBatches {
    fn parse(cursor: &mut Cursor<'_>, _: bool) -> Parsed<UidBatches> {
        cursor.arguments()?;
        let size = number(cursor)?;
        let mut batches = None;
        if cursor.another() {
            let first = number(cursor)?;
            cursor.expect(b':', "batches are a range such as 1:4")?;
            let last = number(cursor)?;
            batches = Some((first, last));
        }
        Ok(UidBatches { size, batches })
    }
}

/// `nz-number`
fn number(cursor: &mut Cursor<'_>) -> Parsed<u32> {
    let number = u32::try_from(cursor.number()?).ok();
    number.filter(|it| *it > 0).ok_or("not a number from 1 to 4294967295")
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, parse, tests::check},
        *,
    };

    #[test]
    fn forms() {
        let batches = |size, batches| CommandBody::UidBatches(UidBatches { size, batches });
        check("UIDBATCHES 2000", batches(2_000, None));
        check("UIDBATCHES 500 10:20", batches(500, Some((10, 20))));
        check("UIDBATCHES 2000 4:1", batches(2_000, Some((4, 1))));
        for wrong in ["", " 0", " 4294967296", " x", " 1 1", " 1 0:1", " 1 1:*", " 1 1:2 3"] {
            assert!(parse(format!("a UIDBATCHES{wrong}\r\n").as_bytes()).is_err(), "{wrong}");
        }
    }
}
