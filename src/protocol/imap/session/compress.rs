//! COMPRESS (RFC 4978 3): the octets of both directions are compressed from here on.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
};

/// `compress = "COMPRESS" SP algorithm`, `algorithm = "DEFLATE"`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compress;

impl Arguments<'_> for Compress {
    fn parse(cursor: &mut Cursor<'_>, _: bool) -> Parsed<Compress> {
        cursor.arguments()?;
        match cursor.atom()?.eq_ignore_ascii_case("DEFLATE") {
            true => Ok(Compress),
            false => Err("unknown compression; DEFLATE is known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{CommandBody, tests::check},
        Compress,
    };

    #[test]
    fn one_algorithm() {
        check("COMPRESS DEFLATE", CommandBody::Compress(Compress));
        check("compress deflate", CommandBody::Compress(Compress));
    }
}
