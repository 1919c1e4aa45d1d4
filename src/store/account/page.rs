//! Account pages: the published state of an account as a checkpoint writes it, one log entry each.
//!
//! A directory page (`root`) names it, and it names the runs with the mailboxes' messages. Pure
//! encoding; `checkpoint` decides when, `paging` reads back. Fields may be added at the end of each
//! record and of the page: readers ignore bytes after the fields that they know.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use super::{
    super::{
        format::{
            codec::{Decoded, Malformed, Put, Reader},
            effect::{
                MAILBOX_MIN, NewMailbox, PropertyKey, put_mailbox, put_property, read_mailbox,
                read_property,
            },
            run::RunRef,
        },
        message::MailboxStatus,
    },
    annotations::MailboxAnnotations,
    cards::MailboxCards,
    mailbox::Mailbox,
    properties::Properties,
    state::AccountState,
    tombstones::Tombstones,
};
use crate::{
    model::{AccountId, Lsn, MailboxId, ModSeq, Uid},
    plant::{Plant, planted},
};

/// Bit of a mailbox's page flags: the account is subscribed to the mailbox's name.
const SUBSCRIBED: u8 = 1;

/// Encodes the published state of an account, in version 2. Its mailboxes' deltas must be in their
/// runs.
pub(crate) fn encode_account(state: &AccountState) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    // A record's length is known only when it is encoded.
    let mut record = Vec::with_capacity(256);
    for number in [
        state.id.0,
        state.applied.0,
        state.mod_seq.0,
        u64::from(state.names.next_mailbox),
        u64::from(state.names.next_uid_validity),
    ] {
        record.put_varint(number);
    }
    out.put_bytes(&record);

    let mailboxes = state.names.list();
    out.put_varint(mailboxes.len() as u64);
    for info in mailboxes {
        record.clear();
        let subscribed = state.names.subscriptions.contains(&info.name);
        record.put_u8(if subscribed { SUBSCRIBED } else { 0 });
        let id = info.id;
        put_mailbox(
            &mut record,
            &NewMailbox {
                id,
                uid_validity: info.uid_validity,
                special_use: info.special_use,
                name: info.name,
            },
        );
        let empty = Mailbox::new(info.uid_validity);
        put_mailbox_state(&mut record, state.mailboxes.get(&id).unwrap_or(&empty));
        out.put_bytes(&record);
    }
    // Subscriptions are stored normalised, like names: those that `find` finds are encoded above.
    let names = &state.names;
    let others = names.subscriptions.iter().filter(|name| names.find(name).is_none());
    let subscriptions: Vec<&String> = others.collect();
    out.put_varint(subscriptions.len() as u64);
    subscriptions.iter().for_each(|name| out.put_bytes(name.as_bytes()));
    let properties = state.properties.published();
    let lost = |key: &PropertyKey| planted(Plant::LoseProperty) && key.1 != MailboxId(0);
    out.put_varint(properties.keys().filter(|key| !lost(key)).count() as u64);
    for (key, value) in properties.iter().filter(|(key, _)| !lost(key)) {
        record.clear();
        put_property(&mut record, key, Some(value));
        out.put_bytes(&record);
    }
    put_cards(&mut out, state);
    put_annotations(&mut out, state);
    out
}

/// Appends the cards of mailboxes that have any.
fn put_cards(out: &mut Vec<u8>, state: &AccountState) {
    let with = || state.mailboxes.iter().filter(|(_, mailbox)| mailbox.cards.next() > Uid(1));
    out.put_varint(with().count() as u64);
    for (id, mailbox) in with() {
        out.put_varint(u64::from(id.0));
        let mut record = Vec::new();
        mailbox.cards.put(&mut record);
        out.put_bytes(&record);
    }
}

/// Appends the locations of annotations of mailboxes that have any.
fn put_annotations(out: &mut Vec<u8>, state: &AccountState) {
    let all = state.mailboxes.iter();
    let all = all.filter_map(|(id, mailbox)| Some((id, mailbox.annotations.as_ref()?)));
    let with = || all.clone().filter(|(_, annotations)| !annotations.runs().is_empty());
    out.put_varint(with().count() as u64);
    for (id, annotations) in with() {
        out.put_varint(u64::from(id.0));
        let mut record = Vec::new();
        annotations.put_page(&mut record);
        out.put_bytes(&record);
    }
}

fn put_mailbox_state(out: &mut Vec<u8>, mailbox: &Mailbox) {
    let status = &mailbox.status;
    for number in [
        u64::from(status.messages),
        u64::from(status.recent),
        u64::from(status.unseen),
        u64::from(status.deleted),
        u64::from(status.uid_next.0),
        status.highest_mod_seq.0,
        status.size,
        u64::from(mailbox.recent_from.0),
    ] {
        out.put_varint(number);
    }
    out.put_varint(mailbox.keywords.len() as u64);
    mailbox.keywords.iter().for_each(|name| out.put_bytes(name.as_bytes()));
    out.put_varint(mailbox.runs.len() as u64);
    for run in &mailbox.runs {
        out.put_varint(run.lsn.0);
        out.put_varint(u64::from(run.records));
    }
    out.put_varint(mailbox.tombstones.floor().0);
    out.put_varint(u64::from(mailbox.tombstones.count()));
}

/// Reads a record with `read`. From version 2 on its length comes first, and fields that a later
/// version added are skipped.
fn record<'a, T>(
    version: u8,
    reader: &mut Reader<'a>,
    what: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Decoded<T>,
) -> Decoded<T> {
    match version {
        1 => read(reader),
        _ => read(&mut Reader::new(reader.bytes(what)?)),
    }
}

/// Decodes an account's page at `lsn`, whose payload has this `version` of its kind. Message tables
/// are not loaded.
pub(crate) fn decode_account(version: u8, lsn: Lsn, payload: &[u8]) -> Decoded<AccountState> {
    let mut reader = Reader::new(payload);
    let reader = &mut reader;
    let (mut state, next_mailbox, next_uid_validity) =
        record(version, reader, "account", |reader| {
            let mut state = AccountState::new(AccountId(reader.varint("account")?));
            state.applied = Lsn(reader.varint("applied")?);
            state.mod_seq = ModSeq(reader.varint("mod_seq")?);
            let next_mailbox = reader.varint_u32("next mailbox")?;
            Ok((state, next_mailbox, reader.varint_u32("next uid_validity")?))
        })?;
    state.page = Some(lsn);
    state.pending_mod_seq = state.mod_seq;
    if planted(Plant::ModSeqBack) {
        state.pending_mod_seq.0 = state.mod_seq.0.saturating_sub(1);
    }

    let names = Rc::make_mut(&mut state.names);
    for _ in 0..reader.count(MAILBOX_MIN, "mailboxes")? {
        let (flags, info, mailbox) = record(version, reader, "mailbox", |reader| {
            let flags = reader.u8("mailbox flags")?;
            let info = read_mailbox(reader)?;
            let mailbox = read_mailbox_state(version, reader, &info)?;
            Ok((flags, info, mailbox))
        })?;
        names.insert(&info);
        state.mailboxes.insert(info.id, mailbox);
        if flags & SUBSCRIBED != 0 {
            names.subscriptions.insert(info.name);
        }
    }
    names.next_mailbox = names.next_mailbox.max(next_mailbox);
    names.next_uid_validity = names.next_uid_validity.max(next_uid_validity);
    for _ in 0..reader.count(1, "subscriptions")? {
        names.subscriptions.insert(reader.string("subscription")?);
    }
    let mut properties = BTreeMap::new();
    for _ in 0..reader.count(5, "properties")? {
        let (key, value) = record(version, reader, "property", read_property)?;
        properties.insert(key, value.unwrap_or_default());
    }
    state.properties = Properties::stored(properties);
    if !names.contains(MailboxId::INBOX) {
        return Err(Malformed("account without INBOX"));
    }
    // Pages of the first version end here.
    let count = if reader.is_empty() { 0 } else { reader.count(4, "mailboxes with cards")? };
    for _ in 0..count {
        let id = MailboxId(reader.varint_u32("mailbox")?);
        let cards = MailboxCards::read(&mut Reader::new(reader.bytes("cards")?))?;
        if let Some(mailbox) = state.mailboxes.get_mut(&id) {
            mailbox.cards = cards;
        }
    }
    // Nor do those from before annotations.
    let count =
        if reader.is_empty() { 0 } else { reader.count(4, "mailboxes with annotations")? };
    for _ in 0..count {
        let id = MailboxId(reader.varint_u32("mailbox")?);
        let record = &mut Reader::new(reader.bytes("annotations")?);
        let annotations = MailboxAnnotations::read_page(record)?;
        if let Some(mailbox) = state.mailboxes.get_mut(&id) {
            mailbox.annotations = Some(Box::new(annotations));
        }
    }
    state.pending_names = state.names.clone();
    Ok(state)
}

fn read_mailbox_state(version: u8, reader: &mut Reader<'_>, info: &NewMailbox) -> Decoded<Mailbox> {
    let mut status = MailboxStatus {
        messages: reader.varint_u32("messages")?,
        recent: reader.varint_u32("recent")?,
        unseen: reader.varint_u32("unseen")?,
        deleted: reader.varint_u32("deleted")?,
        uid_next: Uid(reader.varint_u32("uid_next")?),
        highest_mod_seq: ModSeq(reader.varint("highest_mod_seq")?),
        size: reader.varint("size")?,
        uid_validity: info.uid_validity,
    };
    if planted(Plant::ReuseUid) {
        status.uid_next.0 = status.uid_next.0.saturating_sub(1).max(1);
    }
    let recent_from = Uid(reader.varint_u32("recent_from")?);
    let count = reader.count(1, "keywords")?;
    let keywords: Vec<String> =
        (0..count).map(|_| reader.string("keyword")).collect::<Decoded<_>>()?;
    let count = reader.count(2, "runs")?;
    let runs = (0..count)
        .map(|_| {
            let lsn = Lsn(reader.varint("run lsn")?);
            Ok(RunRef { lsn, records: reader.varint_u32("run records")? })
        })
        .collect::<Decoded<_>>()?;
    let tombstones = match version {
        // Its runs do not have the mod-sequences of expunges.
        1 => Tombstones::stored(status.highest_mod_seq, 0),
        _ => {
            let floor = ModSeq(reader.varint("floor")?);
            Tombstones::stored(floor, reader.varint_u32("tombstones")?)
        }
    };
    Ok(Mailbox::stored(status, Arc::new(keywords), recent_from, runs, tombstones))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{FlagSet, Flags, SpecialUse, UidValidity},
        store::{
            account::namespace::first_mailboxes,
            format::effect::{Effect, PropertyKind},
            message::{Message, MessageBody},
        },
    };
    use proptest::prelude::*;

    fn account() -> AccountState {
        let account = AccountId(u64::MAX);
        let mailbox = MailboxId::INBOX;
        let mut state = AccountState::new(account);
        let defaults = [("Sent".to_owned(), SpecialUse::Sent)];
        let message = Message {
            uid: Uid(9),
            mod_seq: ModSeq(5),
            flags: FlagSet { system: Flags::FLAGGED, ..FlagSet::default() },
            body: MessageBody { lsn: Lsn(4096), size: 77, entry_len: 200 },
            ..Message::default()
        };
        let effects = [
            Effect::Account { account, mailboxes: first_mailboxes(UidValidity(500), &defaults) },
            Effect::Subscription { account, name: "elsewhere".to_owned(), subscribed: true },
            Effect::Subscription { account, name: "INBOX".to_owned(), subscribed: false },
            Effect::Keyword { account, mailbox, names: vec!["$Junk".to_owned()] },
            Effect::Message { account, mailbox, message },
            Effect::Message { account, mailbox, message: Message { uid: Uid(11), ..message } },
            Effect::Expunge { account, mailbox, mod_seq: ModSeq(6), uids: vec![Uid(9)] },
            Effect::Property {
                account,
                key: (PropertyKind::Quota, MailboxId(0), b"storage".to_vec()),
                value: Some(b"10".to_vec()),
            },
        ];
        let effects: Vec<(Lsn, Effect)> = (100..).map(Lsn).zip(effects).collect();
        state.replay(&effects);
        state.applied = Lsn(200);
        state
    }

    /// As version 1 wrote it: nothing framed, no floor.
    fn encode_version_1(state: &AccountState) -> Vec<u8> {
        let payload = encode_account(state);
        let mut reader = Reader::new(&payload);
        let mut out = reader.bytes("head").unwrap().to_vec();
        let count = reader.varint("mailboxes").unwrap();
        out.put_varint(count);
        for _ in 0..count {
            let record = reader.bytes("mailbox").unwrap();
            let mut fields = Reader::new(record);
            fields.u8("flags").unwrap();
            let mailbox = &state.mailboxes[&read_mailbox(&mut fields).unwrap().id];
            let mut since_then = Vec::new();
            since_then.put_varint(mailbox.tombstones.floor().0);
            since_then.put_varint(u64::from(mailbox.tombstones.count()));
            out.extend_from_slice(record.strip_suffix(&since_then[..]).unwrap());
        }
        let count = reader.varint("subscriptions").unwrap();
        out.put_varint(count);
        (0..count).for_each(|_| out.put_bytes(reader.bytes("subscription").unwrap()));
        let count = reader.varint("properties").unwrap();
        out.put_varint(count);
        (0..count).for_each(|_| out.extend_from_slice(reader.bytes("property").unwrap()));
        out
    }

    #[test]
    fn accounts_round_trip() {
        let state = account();
        let decoded = check(&state, 2, &encode_account(&state));
        let inbox = &decoded.mailboxes[&MailboxId::INBOX].tombstones;
        assert_eq!((inbox.floor(), inbox.count()), (ModSeq(0), 1));
    }

    #[test]
    fn version_1_is_read_and_knows_of_no_expunges() {
        let state = account();
        let decoded = check(&state, 1, &encode_version_1(&state));
        let inbox = &decoded.mailboxes[&MailboxId::INBOX].tombstones;
        assert_eq!((inbox.floor(), inbox.count()), (ModSeq(6), 0));
    }

    /// Every record longer than we know it, and the page too.
    #[test]
    fn what_later_versions_add_is_passed_over() {
        let state = account();
        let payload = encode_account(&state);
        let mut reader = Reader::new(&payload);
        let mut out = Vec::new();
        let copy = |reader: &mut Reader<'_>, out: &mut Vec<u8>| {
            let mut record = reader.bytes("record").unwrap().to_vec();
            record.extend_from_slice(&[99; 3]);
            out.put_bytes(&record);
        };
        copy(&mut reader, &mut out);
        let count = reader.varint("mailboxes").unwrap();
        out.put_varint(count);
        (0..count).for_each(|_| copy(&mut reader, &mut out));
        let count = reader.varint("subscriptions").unwrap();
        out.put_varint(count);
        (0..count).for_each(|_| out.put_bytes(reader.bytes("subscription").unwrap()));
        let count = reader.varint("properties").unwrap();
        out.put_varint(count);
        (0..count).for_each(|_| copy(&mut reader, &mut out));
        out.extend_from_slice(reader.take(reader.remaining(), "cards").unwrap());
        out.extend_from_slice(&[99; 5]);
        check(&state, 2, &out);
    }

    fn check(state: &AccountState, version: u8, payload: &[u8]) -> AccountState {
        let decoded = decode_account(version, Lsn(8192), payload).unwrap();
        assert_eq!(decoded.names, state.names);
        assert_eq!(decoded.pending_names, state.names);
        assert_eq!(decoded.properties.published(), state.properties.published());
        assert_eq!(
            (decoded.id, decoded.applied, decoded.mod_seq, decoded.page),
            (state.id, state.applied, state.mod_seq, Some(Lsn(8192)))
        );
        for (id, mailbox) in &state.mailboxes {
            let other = &decoded.mailboxes[id];
            assert_eq!(other.status, mailbox.status);
            assert_eq!(other.keywords, mailbox.keywords);
            assert_eq!(other.runs, mailbox.runs);
            assert!(other.loaded.is_none() && other.live);
        }
        decoded
    }

    proptest! {
        #[test]
        fn damaged_pages_never_panic(
            at in any::<usize>(), with in any::<u8>(), cut in any::<usize>(), version in 1u8..=2,
        ) {
            let state = account();
            let mut page = match version {
                1 => encode_version_1(&state),
                _ => encode_account(&state),
            };
            let at = at % page.len();
            page[at] ^= with;
            page.truncate(cut % (page.len() + 1));
            let _ = decode_account(version, Lsn(0), &page);
        }

    }
}
