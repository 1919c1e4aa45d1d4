//! Arguments of FETCH (RFC 3501 6.4.5, RFC 7162 3.1.4).

use super::super::{
    command::{Fetch, FetchItem, Partial, Section, SectionPart, Text},
    cursor::{Cursor, Parsed},
};

/// Different items in one FETCH.
const ITEMS_MAX: usize = 100;
/// Numbers in the path of one section: deeper parts do not exist (`mime` stops at 64 levels).
const PATH_MAX: usize = 100;
/// Field names in one HEADER.FIELDS.
const FIELDS_MAX: usize = 500;

pub(crate) fn fetch<'a>(cursor: &mut Cursor<'a>, uid: bool) -> Parsed<Fetch<'a>> {
    let set = cursor.sequence_set()?;
    cursor.space()?;
    let mut items = Vec::new();
    if cursor.peek() == Some(b'(') {
        cursor.list(false, "fetch items are missing", |cursor| {
            let item = item(cursor)?;
            push(&mut items, item)
        })?;
    } else {
        items = macro_or_item(cursor)?;
    }
    let mut changed_since = None;
    if cursor.another() {
        cursor.list(false, "a modifier list is missing", |cursor| {
            if !cursor.eat_all(b"CHANGEDSINCE ") {
                return Err("unknown FETCH modifier");
            }
            cursor.spaces();
            changed_since = Some(cursor.mod_seq()?);
            Ok(())
        })?;
        push(&mut items, FetchItem::ModSeq)?;
    }
    if uid {
        // RFC 3501 6.4.8: the UID is told whether asked for or not.
        push(&mut items, FetchItem::Uid)?;
    }
    Ok(Fetch { uid, set, items, changed_since })
}

/// Adds an item that is not there yet.
fn push<'a>(items: &mut Vec<FetchItem<'a>>, item: FetchItem<'a>) -> Parsed<()> {
    if items.contains(&item) {
        return Ok(());
    }
    if items.len() == ITEMS_MAX {
        return Err("too many fetch items");
    }
    items.push(item);
    Ok(())
}

fn macro_or_item<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<FetchItem<'a>>> {
    use FetchItem::{Body, Envelope, Flags, InternalDate, Rfc822Size};
    let start = cursor.rest();
    let word = cursor.word()?;
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
    let word = cursor.word().map_err(|_| "unknown fetch item")?;
    let bracket = cursor.peek() == Some(b'[');
    Ok(match word.as_bytes() {
        b"BODY" if bracket => return section_item(cursor, false),
        b"BODY.PEEK" if bracket => return section_item(cursor, true),
        b"ENVELOPE" => FetchItem::Envelope,
        b"FLAGS" => FetchItem::Flags,
        b"INTERNALDATE" => FetchItem::InternalDate,
        b"RFC822" => FetchItem::Rfc822,
        b"RFC822.HEADER" => FetchItem::Rfc822Header,
        b"RFC822.SIZE" => FetchItem::Rfc822Size,
        b"RFC822.TEXT" => FetchItem::Rfc822Text,
        b"BODY" => FetchItem::Body,
        b"BODYSTRUCTURE" => FetchItem::BodyStructure,
        b"UID" => FetchItem::Uid,
        b"MODSEQ" => FetchItem::ModSeq,
        _ => return Err("unknown fetch item"),
    })
}

/// `[section]` and `<offset.count>`.
fn section_item<'a>(cursor: &mut Cursor<'a>, peek: bool) -> Parsed<FetchItem<'a>> {
    cursor.expect(b'[', "a section is missing")?;
    cursor.spaces();
    let section = section(cursor)?;
    cursor.spaces();
    cursor.expect(b']', "a section must end in ]")?;
    let mut partial = None;
    if cursor.eat(b'<') {
        let offset = cursor.number()?;
        cursor.expect(b'.', "a partial is <offset.count>")?;
        let count = cursor.number()?;
        cursor.expect(b'>', "a partial is <offset.count>")?;
        if count == 0 {
            return Err("a partial's count must not be 0");
        }
        partial = Some(Partial { offset, count });
    }
    Ok(FetchItem::Section { section, partial, peek })
}

fn section<'a>(cursor: &mut Cursor<'a>) -> Parsed<Section<'a>> {
    let mut section = Section::default();
    if cursor.peek() == Some(b']') {
        return Ok(section);
    }
    while cursor.peek().is_some_and(|octet| octet.is_ascii_digit()) {
        let number = u32::try_from(cursor.number()?).map_err(|_| "part number too large")?;
        if number == 0 {
            return Err("parts are numbered from 1");
        }
        if section.path.len() == PATH_MAX {
            return Err("section too deep");
        }
        section.path.push(number);
        if !cursor.eat(b'.') {
            return Ok(section);
        }
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
