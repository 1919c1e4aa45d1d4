//! SORT (RFC 5256 3, RFC 5957, and with RETURN RFC 5267 3).

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text},
    },
    returns::SearchReturn,
    search::{SearchKey, keys},
};

/// `sort = "SORT" [SP "RETURN" SP "(" … ")"] SP "(" sort-criterion *(SP sort-criterion) ")" SP
/// charset 1*(SP search-key)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sort<'a> {
    /// Its `UID` form.
    pub uid: bool,
    /// `None`: answer by SORT.
    pub returns: Option<SearchReturn>,
    /// What UPDATE wants of new messages (RFC 5465 7): the list, with its parentheses.
    pub update_fetch: Option<&'a [u8]>,
    /// Each key at most once: later ones of the same kind decide nothing. Never empty.
    pub order: Vec<Criterion>,
    pub charset: Text<'a>,
    pub key: SearchKey<'a>,
}

/// `sort-criterion = ["REVERSE" SP] sort-key`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Criterion {
    pub key: SortKey,
    pub reverse: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SortKey {
    /// The internal date with its time.
    Arrival,
    /// The mailbox of the first address.
    Cc,
    /// The sent date (RFC 5256 2.2).
    Date,
    /// The name of the first address, or the address itself (RFC 5957 3).
    DisplayFrom,
    DisplayTo,
    From,
    Size,
    /// The base subject (RFC 5256 2.1).
    Subject,
    To,
}

impl<'a> Arguments<'a> for Sort<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Sort<'a>> {
        cursor.arguments()?;
        let mut update_fetch = None;
        let returns = SearchReturn::read(cursor, &mut update_fetch)?;
        let mut order: Vec<Criterion> = Vec::new();
        cursor.list(false, "sort criteria are missing", |cursor| {
            let criterion = criterion(cursor)?;
            if order.iter().all(|known| known.key != criterion.key) {
                order.push(criterion);
            }
            Ok(())
        })?;
        cursor.space()?;
        let (charset, key) = charset_and_keys(cursor)?;
        Ok(Sort { uid, returns, update_fetch, order, charset, key })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid || self.key.has_numbers()
    }
}

fn criterion(cursor: &mut Cursor<'_>) -> Parsed<Criterion> {
    const UNKNOWN: &str = "unknown sort criterion";
    let mut word = cursor.word().map_err(|_| UNKNOWN)?;
    let reverse = word.as_bytes() == b"REVERSE";
    if reverse {
        cursor.space()?;
        word = cursor.word().map_err(|_| UNKNOWN)?;
    }
    let key = match word.as_bytes() {
        b"ARRIVAL" => SortKey::Arrival,
        b"CC" => SortKey::Cc,
        b"DATE" => SortKey::Date,
        b"DISPLAYFROM" => SortKey::DisplayFrom,
        b"DISPLAYTO" => SortKey::DisplayTo,
        b"FROM" => SortKey::From,
        b"SIZE" => SortKey::Size,
        b"SUBJECT" => SortKey::Subject,
        b"TO" => SortKey::To,
        _ => return Err(UNKNOWN),
    };
    Ok(Criterion { key, reverse })
}

/// `search-criteria = charset 1*(SP search-key)`: unlike in SEARCH the charset is always there.
pub(super) fn charset_and_keys<'a>(cursor: &mut Cursor<'a>) -> Parsed<(Text<'a>, SearchKey<'a>)> {
    let charset = cursor.astring()?;
    cursor.space()?;
    Ok((charset, keys(cursor)?))
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

    /// RFC 5256 3, RFC 5957 5, RFC 5267 3.3.
    #[test]
    fn criteria() {
        use SortKey::{Arrival, Cc, Date, DisplayFrom, DisplayTo, From, Size, Subject, To};
        let up = |key| Criterion { key, reverse: false };
        let down = |key| Criterion { key, reverse: true };
        let sort = |order: &[Criterion]| Sort {
            uid: false,
            returns: None,
            update_fetch: None,
            order: order.to_vec(),
            charset: text("UTF-8"),
            key: SearchKey::All,
        };
        let cases: &[(&str, &[Criterion])] = &[
            ("SUBJECT", &[up(Subject)]),
            ("subject reverse date", &[up(Subject), down(Date)]),
            (
                "REVERSE ARRIVAL CC REVERSE FROM SIZE TO",
                &[down(Arrival), up(Cc), down(From), up(Size), up(To)],
            ),
            ("DISPLAYFROM REVERSE DISPLAYTO", &[up(DisplayFrom), down(DisplayTo)]),
            ("DATE DATE REVERSE DATE SIZE", &[up(Date), up(Size)]),
        ];
        for (line, order) in cases {
            check(&format!("SORT ({line}) UTF-8 ALL"), CommandBody::Sort(sort(order)));
        }
        let many = format!("SORT ({}SIZE) UTF-8 ALL", "DATE ".repeat(5_000));
        check(&many, CommandBody::Sort(sort(&[up(Date), up(Size)])));
        let all = SearchReturn { all: true, ..SearchReturn::default() };
        let extended = Sort { uid: true, returns: Some(all), ..sort(&[down(Date)]) };
        check("UID SORT RETURN () (REVERSE DATE) UTF-8 ALL", CommandBody::Sort(extended));
    }
}
