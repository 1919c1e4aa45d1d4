//! LOGIN (RFC 3501 6.2.3).

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed, Text},
};

/// `login = "LOGIN" SP astring SP astring`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login<'a> {
    pub user: Text<'a>,
    pub password: Text<'a>,
}

impl<'a> Arguments<'a> for Login<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Login<'a>> {
        cursor.arguments()?;
        let user = cursor.astring()?;
        cursor.space()?;
        Ok(Login { user, password: cursor.astring()? })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody,
            tests::{check, text},
        },
        Login,
    };

    #[test]
    fn strings() {
        let login = |user, password| {
            CommandBody::Login(Login { user: text(user), password: text(password) })
        };
        check("LOGIN smith sesame", login("smith", "sesame"));
        check("LOGIN \"a b\" \"\"", login("a b", ""));
        check(r#"LOGIN "a\"b" "\\""#, login("a\"b", "\\"));
        check("LOGIN {3}\r\na b {2+}\r\n\r\n", login("a b", "\r\n"));
        check("LOGIN a]b 1", login("a]b", "1"));
    }
}
