//! FETCH (RFC 3501 6.4.5, RFC 9394 3.3, RFC 7162 3.1.4).

use smallvec::SmallVec;

use super::{
    super::{
        arguments::Arguments,
        cursor::{Cursor, Parsed, Text, UNKNOWN_ITEM},
        sequence::SequenceSet,
    },
    returns::PartialRange,
};
use crate::model::ModSeq;

/// Different items in one FETCH.
const ITEMS_MAX: usize = 100;
/// Numbers in the path of one section: deeper parts do not exist (`mime` records at most 64
/// levels).
const PATH_MAX: usize = 100;
/// Field names in one HEADER.FIELDS.
const FIELDS_MAX: usize = 500;

/// `fetch = "FETCH" SP sequence-set SP ("ALL" / "FULL" / "FAST" / fetch-att / "(" fetch-att *(SP
/// fetch-att) ")") [SP "(" fetch-modifier *(SP fetch-modifier) ")"]`. Macros are expanded; repeated
/// items are dropped, also those that differ in `PEEK` only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch<'a> {
    /// Its `UID` form.
    pub uid: bool,
    pub set: SequenceSet,
    pub items: Vec<FetchItem<'a>>,
    /// UID is among the items, but only for this being the `UID` form (RFC 3501 6.4.8).
    pub uid_is_implied: bool,
    /// RFC 7162 3.1.4.1. Implies MODSEQ, which is then in `items`.
    pub changed_since: Option<ModSeq>,
    /// RFC 9394 3.3: which of the messages of `set`.
    pub partial: Option<PartialRange>,
    /// RFC 7162 3.2.6; only of the `UID` form, and with `changed_since`.
    pub vanished: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchItem<'a> {
    Envelope,
    Flags,
    InternalDate,
    /// When the message came into the mailbox (RFC 8514 4.2).
    SaveDate,
    /// RFC 8970 3.1; with and without LAZY, since it never takes long.
    Preview,
    /// RFC 8474 5.1
    EmailId,
    /// RFC 8474 5.2
    ThreadId,
    /// The message; sets `\Seen`.
    Rfc822,
    Rfc822Header,
    Rfc822Size,
    /// The text; sets `\Seen`.
    Rfc822Text,
    /// `BODY`: BODYSTRUCTURE without extension data.
    Body,
    BodyStructure,
    Uid,
    ModSeq,
    /// `BODY[…]`; sets `\Seen` unless `peek`.
    Section {
        section: Section<'a>,
        partial: Option<Partial>,
        peek: bool,
    },
    /// `BINARY[…]`: a part without its transfer encoding (RFC 3516 4.2); sets `\Seen` unless
    /// `peek`. Sections that are no whole part are taken, too, as other servers do: what they mean
    /// is never encoded.
    Binary {
        section: Section<'a>,
        partial: Option<Partial>,
        peek: bool,
    },
    /// `BINARY.SIZE[…]`: the octets of it (RFC 3516 4.3).
    BinarySize(Section<'a>),
}

/// Part numbers, from 1; empty for the message itself.
pub type PartPath = SmallVec<[u32; 4]>;

impl FetchItem<'_> {
    /// Whether the answer contains octets of the message itself.
    pub fn has_octets(&self) -> bool {
        matches!(
            self,
            FetchItem::Rfc822
                | FetchItem::Rfc822Header
                | FetchItem::Rfc822Text
                | FetchItem::Section { .. }
                | FetchItem::Binary { .. }
                | FetchItem::BinarySize(_)
        )
    }

    fn toggle_peek(&mut self) {
        if let FetchItem::Section { peek, .. } | FetchItem::Binary { peek, .. } = self {
            *peek = !*peek;
        }
    }

    /// Whether fetching it sets `\Seen` (RFC 3501 6.4.5).
    pub fn sets_seen(&self) -> bool {
        matches!(
            self,
            FetchItem::Rfc822
                | FetchItem::Rfc822Text
                | FetchItem::Section { peek: false, .. }
                | FetchItem::Binary { peek: false, .. }
        )
    }
}

/// `<offset.count>` of a section: octets. `count` is not 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partial {
    pub offset: u64,
    pub count: u64,
}

/// The text between the brackets of `BODY[…]`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Section<'a> {
    pub path: PartPath,
    pub part: SectionPart<'a>,
}

/// Which octets of the part (RFC 3501 6.4.5).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum SectionPart<'a> {
    /// Not specified: the whole message, or the part's body.
    #[default]
    Full,
    Header,
    HeaderFields(Vec<Text<'a>>),
    HeaderFieldsNot(Vec<Text<'a>>),
    Text,
    /// Only with a path.
    Mime,
}

impl<'a> Arguments<'a> for Fetch<'a> {
    fn parse(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Fetch<'a>> {
        cursor.arguments()?;
        let set = cursor.sequence_set()?;
        cursor.space()?;
        let mut items = match cursor.peek() {
            Some(b'(') => fetch_items(cursor)?,
            _ => macro_or_item(cursor)?,
        };
        let (mut changed_since, mut vanished, mut partial) = (None, false, None);
        if cursor.another() {
            cursor.list(false, "a modifier list is missing", |cursor| {
                match cursor.word()?.as_bytes() {
                    b"CHANGEDSINCE" => {
                        cursor.space()?;
                        changed_since = Some(cursor.mod_seq()?);
                    }
                    b"VANISHED" => vanished = true,
                    b"PARTIAL" if partial.is_none() => {
                        cursor.space()?;
                        partial = Some(PartialRange::read(cursor)?);
                    }
                    _ => return Err("unknown FETCH modifier"),
                }
                Ok(())
            })?;
        }
        if vanished && !(uid && changed_since.is_some()) {
            return Err("VANISHED is for UID FETCH with CHANGEDSINCE");
        }
        // What is implied does not count as one of the client's items.
        if changed_since.is_some() && !items.contains(&FetchItem::ModSeq) {
            items.push(FetchItem::ModSeq);
        }
        // RFC 3501 6.4.8: the UID is sent whether requested or not.
        let uid_is_implied = uid && !items.contains(&FetchItem::Uid);
        if uid_is_implied {
            items.push(FetchItem::Uid);
        }
        Ok(Fetch { uid, set, items, uid_is_implied, changed_since, vanished, partial })
    }

    fn uid(&self) -> bool {
        self.uid
    }

    fn uses_numbers(&self) -> bool {
        !self.uid
    }
}

/// `"(" fetch-att *(SP fetch-att) ")"`
pub(in crate::protocol::imap) fn fetch_items<'a>(
    cursor: &mut Cursor<'a>,
) -> Parsed<Vec<FetchItem<'a>>> {
    let mut items = Vec::new();
    cursor.list(false, "fetch items are missing", |cursor| {
        let item = item(cursor)?;
        push(&mut items, item)
    })?;
    Ok(items)
}

/// Whether `list`, with its parentheses, is one that a FETCH may have.
pub fn is_fetch_list(list: &[u8]) -> bool {
    fetch_items(&mut Cursor::new(list)).is_ok()
}

/// Adds an item unless it is already there: with and without `PEEK` it is one, which sets `\Seen`.
fn push<'a>(items: &mut Vec<FetchItem<'a>>, mut item: FetchItem<'a>) -> Parsed<()> {
    if items.contains(&item) {
        return Ok(());
    }
    item.toggle_peek();
    if let Some(other) = items.iter_mut().find(|it| **it == item) {
        if !item.sets_seen() {
            other.toggle_peek();
        }
        return Ok(());
    }
    item.toggle_peek();
    if items.len() == ITEMS_MAX {
        return Err("too many fetch items");
    }
    items.push(item);
    Ok(())
}

fn macro_or_item<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<FetchItem<'a>>> {
    use FetchItem::{Body, Envelope, Flags, InternalDate, Rfc822Size};
    let start = cursor.rest();
    let word = cursor.word().map_err(|_| UNKNOWN_ITEM)?;
    Ok(match word.as_bytes() {
        b"ALL" => vec![Flags, InternalDate, Rfc822Size, Envelope],
        b"FAST" => vec![Flags, InternalDate, Rfc822Size],
        b"FULL" => vec![Flags, InternalDate, Rfc822Size, Envelope, Body],
        _ => {
            *cursor = Cursor::new(start);
            vec![item(cursor)?]
        }
    })
}

fn item<'a>(cursor: &mut Cursor<'a>) -> Parsed<FetchItem<'a>> {
    let word = cursor.word().map_err(|_| UNKNOWN_ITEM)?;
    let bracket = cursor.peek() == Some(b'[');
    Ok(match word.as_bytes() {
        b"BODY" if bracket => return section_item(cursor, false),
        b"BODY.PEEK" if bracket => return section_item(cursor, true),
        b"BINARY" if bracket => return binary(cursor, false),
        b"BINARY.PEEK" if bracket => return binary(cursor, true),
        b"BINARY.SIZE" if bracket => FetchItem::BinarySize(in_brackets(cursor)?),
        b"ENVELOPE" => FetchItem::Envelope,
        b"FLAGS" => FetchItem::Flags,
        b"INTERNALDATE" => FetchItem::InternalDate,
        b"SAVEDATE" => FetchItem::SaveDate,
        b"PREVIEW" => {
            cursor.eat_all(b" (LAZY)");
            FetchItem::Preview
        }
        b"EMAILID" => FetchItem::EmailId,
        b"THREADID" => FetchItem::ThreadId,
        b"RFC822" => FetchItem::Rfc822,
        b"RFC822.HEADER" => FetchItem::Rfc822Header,
        b"RFC822.SIZE" => FetchItem::Rfc822Size,
        b"RFC822.TEXT" => FetchItem::Rfc822Text,
        b"BODY" => FetchItem::Body,
        b"BODYSTRUCTURE" => FetchItem::BodyStructure,
        b"UID" => FetchItem::Uid,
        b"MODSEQ" => FetchItem::ModSeq,
        _ => return Err(UNKNOWN_ITEM),
    })
}

/// `[section]` and `<offset.count>`.
fn section_item<'a>(cursor: &mut Cursor<'a>, peek: bool) -> Parsed<FetchItem<'a>> {
    let section = in_brackets(cursor)?;
    Ok(FetchItem::Section { section, partial: partial(cursor, false)?, peek })
}

/// The same, or `<offset>`: all from there.
fn binary<'a>(cursor: &mut Cursor<'a>, peek: bool) -> Parsed<FetchItem<'a>> {
    let section = in_brackets(cursor)?;
    Ok(FetchItem::Binary { section, partial: partial(cursor, true)?, peek })
}

/// `[section]`
fn in_brackets<'a>(cursor: &mut Cursor<'a>) -> Parsed<Section<'a>> {
    cursor.expect(b'[', "a section is missing")?;
    cursor.spaces();
    let section = section(cursor)?;
    cursor.spaces();
    cursor.expect(b']', "a section must end in ]")?;
    Ok(section)
}

fn partial(cursor: &mut Cursor<'_>, may_be_open: bool) -> Parsed<Option<Partial>> {
    if !cursor.eat(b'<') {
        return Ok(None);
    }
    let offset = cursor.number()?;
    if may_be_open && cursor.eat(b'>') {
        return Ok(Some(Partial { offset, count: u64::MAX }));
    }
    cursor.expect(b'.', "a partial is <offset.count>")?;
    let count = cursor.number()?;
    cursor.expect(b'>', "a partial is <offset.count>")?;
    if count == 0 {
        return Err("a partial's count must not be 0");
    }
    Ok(Some(Partial { offset, count }))
}

/// Part numbers with dots between; whether a word has to follow.
fn part_numbers(cursor: &mut Cursor<'_>, path: &mut PartPath) -> Parsed<bool> {
    while cursor.peek().is_some_and(|octet| octet.is_ascii_digit()) {
        let number = u32::try_from(cursor.number()?).map_err(|_| "part number too large")?;
        if number == 0 {
            return Err("parts are numbered from 1");
        }
        if path.len() == PATH_MAX {
            return Err("section too deep");
        }
        path.push(number);
        if !cursor.eat(b'.') {
            return Ok(false);
        }
    }
    Ok(true)
}

fn section<'a>(cursor: &mut Cursor<'a>) -> Parsed<Section<'a>> {
    match cursor.peek() {
        Some(b']') => Ok(Section::default()),
        _ => parse_section(cursor),
    }
}

/// `section-spec`
pub(in crate::protocol::imap) fn parse_section<'a>(cursor: &mut Cursor<'a>) -> Parsed<Section<'a>> {
    let mut section = Section::default();
    if !part_numbers(cursor, &mut section.path)? {
        return Ok(section);
    }
    let word = cursor.word().map_err(|_| "unknown section")?;
    section.part = match word.as_bytes() {
        b"HEADER" => SectionPart::Header,
        b"TEXT" => SectionPart::Text,
        b"HEADER.FIELDS" => SectionPart::HeaderFields(fields(cursor)?),
        b"HEADER.FIELDS.NOT" => SectionPart::HeaderFieldsNot(fields(cursor)?),
        b"MIME" if !section.path.is_empty() => SectionPart::Mime,
        b"MIME" => return Err("MIME needs a part number"),
        _ => return Err("unknown section"),
    };
    Ok(section)
}

fn fields<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<Text<'a>>> {
    cursor.space()?;
    let mut fields = Vec::new();
    cursor.list(false, "a list of field names is missing", |cursor| {
        if fields.len() == FIELDS_MAX {
            return Err("too many field names");
        }
        fields.push(cursor.astring()?);
        Ok(())
    })?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, set, text},
        },
        *,
    };

    fn fetch(items: &[FetchItem<'static>]) -> CommandBody<'static> {
        CommandBody::Fetch(Fetch {
            uid: false,
            set: set("1"),
            items: items.to_vec(),
            uid_is_implied: false,
            changed_since: None,
            vanished: false,
            partial: None,
        })
    }

    /// RFC 3501 6.4.5.
    #[test]
    fn fetch_items() {
        use FetchItem::*;
        check("FETCH 1 FLAGS", fetch(&[Flags]));
        check("FETCH 1 (FLAGS)", fetch(&[Flags]));
        check("FETCH 1 (UID flags UID)", fetch(&[Uid, Flags]));
        check("FETCH 1 SaveDate", fetch(&[SaveDate]));
        check("FETCH 1 (emailid THREADID)", fetch(&[EmailId, ThreadId]));
        // RFC 8970 6.
        check("FETCH 1 preview", fetch(&[Preview]));
        check("FETCH 1 PREVIEW (LAZY)", fetch(&[Preview]));
        check("FETCH 1 (PREVIEW (lazy) FLAGS)", fetch(&[Preview, Flags]));
        assert!(parse(b"a FETCH 1 (PREVIEW (FUZZY))\r\n").is_err());
        assert!(parse(b"a FETCH 1 PREVIEW (CHANGEDSINCE 1)\r\n").is_ok());
        check("FETCH 1 FAST", fetch(&[Flags, InternalDate, Rfc822Size]));
        check("FETCH 1 ALL", fetch(&[Flags, InternalDate, Rfc822Size, Envelope]));
        check("FETCH 1 FULL", fetch(&[Flags, InternalDate, Rfc822Size, Envelope, Body]));
        check(
            "FETCH 1 (RFC822 RFC822.HEADER RFC822.TEXT BODY BODYSTRUCTURE MODSEQ)",
            fetch(&[Rfc822, Rfc822Header, Rfc822Text, Body, BodyStructure, ModSeq]),
        );
    }

    #[test]
    fn fetch_sections() {
        let section = |path: &[u32], part| Section { path: path.into(), part };
        let peek = |section| FetchItem::Section { section, partial: None, peek: true };
        check("FETCH 1 BODY.PEEK[]", fetch(&[peek(section(&[], SectionPart::Full))]));
        check("FETCH 1 BODY.PEEK[1.2.3]", fetch(&[peek(section(&[1, 2, 3], SectionPart::Full))]));
        check("FETCH 1 BODY.PEEK[1.MIME]", fetch(&[peek(section(&[1], SectionPart::Mime))]));
        check("FETCH 1 BODY.PEEK[4.text]", fetch(&[peek(section(&[4], SectionPart::Text))]));
        check("FETCH 1 BODY.PEEK[HEADER]", fetch(&[peek(section(&[], SectionPart::Header))]));
        check(
            "FETCH 1 BODY.PEEK[HEADER.FIELDS (From \"To\")]",
            fetch(&[peek(section(&[], SectionPart::HeaderFields(vec![text("From"), text("To")])))]),
        );
        check(
            "FETCH 1 BODY.PEEK[2.HEADER.FIELDS.NOT ({2}\r\nTo)]",
            fetch(&[peek(section(&[2], SectionPart::HeaderFieldsNot(vec![text("To")])))]),
        );
        check(
            "FETCH 1 (BODY[]<0.2048> BODY[TEXT])",
            fetch(&[
                FetchItem::Section {
                    section: section(&[], SectionPart::Full),
                    partial: Some(Partial { offset: 0, count: 2048 }),
                    peek: false,
                },
                FetchItem::Section {
                    section: section(&[], SectionPart::Text),
                    partial: None,
                    peek: false,
                },
            ]),
        );
    }

    /// RFC 3516 4.2, 4.3, 6.
    #[test]
    fn binary_items() {
        let section = |path: &[u32], part| Section { path: path.into(), part };
        let full = |path: &[u32]| section(path, SectionPart::Full);
        let binary = |section, partial: Option<(u64, u64)>, peek| {
            let partial = partial.map(|(offset, count)| Partial { offset, count });
            fetch(&[FetchItem::Binary { section, partial, peek }])
        };
        check("FETCH 1 BINARY[]", binary(full(&[]), None, false));
        check("FETCH 1 (BINARY.PEEK[1.2]<3.4>)", binary(full(&[1, 2]), Some((3, 4)), true));
        check("FETCH 1 BINARY[1]<40>", binary(full(&[1]), Some((40, u64::MAX)), false));
        check("FETCH 1 binary.size[ 7 ]", fetch(&[FetchItem::BinarySize(full(&[7]))]));
        check("FETCH 1 BINARY[1.MIME]", binary(section(&[1], SectionPart::Mime), None, false));
    }

    /// RFC 3501 6.4.8, RFC 7162 3.1.4, 3.2.6.
    #[test]
    fn fetch_forms() {
        let fetch = |vanished| {
            CommandBody::Fetch(Fetch {
                uid: true,
                set: set("1:*"),
                items: vec![FetchItem::Flags, FetchItem::ModSeq, FetchItem::Uid],
                uid_is_implied: true,
                partial: None,
                changed_since: Some(ModSeq(12345)),
                vanished,
            })
        };
        check("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345)", fetch(false));
        check("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345 VANISHED)", fetch(true));
        check("UID FETCH 1:* (FLAGS) (VANISHED CHANGEDSINCE 12345)", fetch(true));
        for wrong in ["UID FETCH 1 FLAGS (VANISHED)", "FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)"] {
            assert!(parse(format!("a {wrong}\r\n").as_bytes()).is_err(), "{wrong}");
        }
    }
}
