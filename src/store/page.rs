//! Pages: what a checkpoint writes so that a start need not replay the whole log.
//!
//! A root leads to directory pages, these to account pages, these to mailbox runs (`run`). Each is
//! one log entry, found by its LSN. Pure encoding; `checkpoint` decides when, `paging` reads back.
//! Fields may be added at the end of every page: readers ignore what follows what they know.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::rc::Rc;

use bytes::Bytes;

use super::{
    codec::{Decoded, Malformed, Put, Reader},
    effect::{MAILBOX_MIN, NewMailbox, put_mailbox, put_property, read_mailbox, read_property},
    mailbox::Mailbox,
    message::MailboxStatus,
    run::RunRef,
    state::AccountState,
};
use crate::{
    model::{AccountId, Lsn, MailboxId, ModSeq, Uid},
    plant::{Plant, planted},
};

/// Bit of a mailbox's page flags: the account is subscribed to its name.
const SUBSCRIBED: u8 = 1;

/// Encodes the published state of an account. Its mailboxes' deltas must be in their runs.
pub(super) fn encode_account(state: &AccountState) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.put_varint(state.id.0);
    out.put_varint(state.applied.0);
    out.put_varint(state.mod_seq.0);
    out.put_varint(u64::from(state.names.next_mailbox));
    out.put_varint(u64::from(state.names.next_uid_validity));

    let mailboxes = state.names.list();
    out.put_varint(mailboxes.len() as u64);
    for info in mailboxes {
        let subscribed = state.names.subscriptions.contains(&info.name);
        out.put_u8(if subscribed { SUBSCRIBED } else { 0 });
        let id = info.id;
        put_mailbox(
            &mut out,
            &NewMailbox {
                id,
                uid_validity: info.uid_validity,
                special_use: info.special_use,
                name: info.name,
            },
        );
        let empty = Mailbox::new(info.uid_validity);
        put_mailbox_state(&mut out, state.mailboxes.get(&id).unwrap_or(&empty));
    }
    // Subscriptions are kept normalised, as names are: what `find` finds is told above.
    let names = &state.names;
    let others = names.subscriptions.iter().filter(|name| names.find(name).is_none());
    let subscriptions: Vec<&String> = others.collect();
    out.put_varint(subscriptions.len() as u64);
    subscriptions.iter().for_each(|name| out.put_bytes(name.as_bytes()));
    out.put_varint(state.properties.len() as u64);
    for (key, value) in &state.properties {
        put_property(&mut out, key, Some(value));
    }
    out
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
}

/// The account on a page at `lsn`; message tables are not loaded.
pub(super) fn decode_account(lsn: Lsn, payload: &[u8]) -> Decoded<AccountState> {
    let mut reader = Reader::new(payload);
    let reader = &mut reader;
    let mut state = AccountState::new(AccountId(reader.varint("account")?));
    state.page = Some(lsn);
    state.applied = Lsn(reader.varint("applied")?);
    state.mod_seq = ModSeq(reader.varint("mod_seq")?);
    state.pending_mod_seq = state.mod_seq;
    if planted(Plant::ModSeqBack) {
        state.pending_mod_seq.0 = state.mod_seq.0.saturating_sub(1);
    }
    let next_mailbox = reader.varint_u32("next mailbox")?;
    let next_uid_validity = reader.varint_u32("next uid_validity")?;

    let names = Rc::make_mut(&mut state.names);
    for _ in 0..reader.count(MAILBOX_MIN, "mailboxes")? {
        let flags = reader.u8("mailbox flags")?;
        let info = read_mailbox(reader)?;
        names.insert(&info);
        state.mailboxes.insert(info.id, read_mailbox_state(reader, &info)?);
        if flags & SUBSCRIBED != 0 {
            names.subscriptions.insert(info.name);
        }
    }
    names.next_mailbox = names.next_mailbox.max(next_mailbox);
    names.next_uid_validity = names.next_uid_validity.max(next_uid_validity);
    for _ in 0..reader.count(1, "subscriptions")? {
        names.subscriptions.insert(reader.string("subscription")?);
    }
    for _ in 0..reader.count(5, "properties")? {
        let (key, value) = read_property(reader)?;
        state.properties.insert(key, value.unwrap_or_default());
    }
    if !names.contains(MailboxId::INBOX) {
        return Err(Malformed("account without INBOX"));
    }
    state.pending_names = state.names.clone();
    Ok(state)
}

fn read_mailbox_state(reader: &mut Reader<'_>, info: &NewMailbox) -> Decoded<Mailbox> {
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
    Ok(Mailbox::stored(status, Rc::new(keywords), recent_from, runs))
}

/// Encodes one directory page: which account's page lies where. `records` ascend by account.
pub(super) fn encode_directory(records: &[(AccountId, Lsn)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + records.len() * 12);
    out.put_varint(records.len() as u64);
    let mut previous = 0;
    for (account, lsn) in records {
        out.put_varint(account.0.wrapping_sub(previous));
        out.put_varint(lsn.0);
        previous = account.0;
    }
    out
}

pub(super) fn decode_directory(payload: &[u8]) -> Decoded<Vec<(AccountId, Lsn)>> {
    let mut reader = Reader::new(payload);
    let count = reader.count(2, "directory records")?;
    let mut records = Vec::with_capacity(count);
    let mut previous = 0u64;
    for at in 0..count {
        let step = reader.varint("account")?;
        let account = previous
            .checked_add(step)
            .filter(|_| step > 0 || at == 0)
            .ok_or(Malformed("account"))?;
        previous = account;
        records.push((AccountId(account), Lsn(reader.varint("page lsn")?)));
    }
    Ok(records)
}

/// The page that leads to all others, and what belongs to the partition itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Root {
    /// Partition-wide effects below are in this root.
    pub applied: Lsn,
    /// One page for each bucket of the directory; `None` where a bucket is empty.
    pub buckets: Vec<Option<Lsn>>,
    /// Entries of spooled messages.
    pub spool: Vec<Lsn>,
    /// Deliveries already carried out, oldest first.
    pub deliveries: Vec<u128>,
    pub intents: Vec<(u128, Bytes)>,
    /// Bytes of each segment, by epoch, that were believed to be in use.
    pub segments: Vec<(u64, u64)>,
    /// Epochs of segments in which damage was found: their files stay.
    pub quarantined: Vec<u64>,
    /// Effects below were lost to damage, of whatever account: one whose page is older skips
    /// numbers that may have been given out. 0 if none.
    pub lost: Lsn,
}

pub(super) fn encode_root(root: &Root) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_varint(root.applied.0);
    out.put_varint(root.buckets.len() as u64);
    root.buckets.iter().for_each(|page| out.put_varint(page.map_or(0, |lsn| lsn.0)));
    out.put_varint(root.spool.len() as u64);
    root.spool.iter().for_each(|lsn| out.put_varint(lsn.0));
    out.put_varint(root.deliveries.len() as u64);
    root.deliveries.iter().for_each(|id| out.put_u128(*id));
    out.put_varint(root.intents.len() as u64);
    for (id, payload) in &root.intents {
        out.put_u128(*id);
        out.put_bytes(payload);
    }
    out.put_varint(root.segments.len() as u64);
    for (epoch, live) in &root.segments {
        out.put_varint(*epoch);
        out.put_varint(*live);
    }
    out.put_varint(root.quarantined.len() as u64);
    root.quarantined.iter().for_each(|epoch| out.put_varint(*epoch));
    out.put_varint(root.lost.0);
    out
}

pub(super) fn decode_root(payload: &[u8]) -> Decoded<Root> {
    let mut reader = Reader::new(payload);
    let reader = &mut reader;
    let applied = Lsn(reader.varint("applied")?);
    let count = reader.count(1, "buckets")?;
    // LSN 0 is a segment header's place, never an entry's.
    let buckets = (0..count)
        .map(|_| Ok(Some(Lsn(reader.varint("bucket")?)).filter(|lsn| lsn.0 != 0)))
        .collect::<Decoded<Vec<_>>>()?;
    if !buckets.len().is_power_of_two() {
        return Err(Malformed("number of buckets"));
    }
    let count = reader.count(1, "spool")?;
    let spool = (0..count).map(|_| reader.varint("spool").map(Lsn)).collect::<Decoded<Vec<_>>>()?;
    let count = reader.count(16, "deliveries")?;
    let deliveries = (0..count).map(|_| reader.u128("delivery")).collect::<Decoded<Vec<_>>>()?;
    let count = reader.count(17, "intents")?;
    let intents = (0..count)
        .map(|_| Ok((reader.u128("intent")?, Bytes::copy_from_slice(reader.bytes("intent")?))))
        .collect::<Decoded<Vec<_>>>()?;
    // Not there in roots of the first versions.
    let count = if reader.is_empty() { 0 } else { reader.count(2, "segments")? };
    let segments = (0..count)
        .map(|_| Ok((reader.varint("epoch")?, reader.varint("live bytes")?)))
        .collect::<Decoded<Vec<_>>>()?;
    // Nor these in roots of later ones.
    let count = if reader.is_empty() { 0 } else { reader.count(1, "quarantined")? };
    let quarantined = (0..count).map(|_| reader.varint("epoch")).collect::<Decoded<Vec<_>>>()?;
    let lost = Lsn(if reader.is_empty() { 0 } else { reader.varint("lost")? });
    Ok(Root { applied, buckets, spool, deliveries, intents, segments, quarantined, lost })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{FlagSet, Flags, SpecialUse, UidValidity},
        store::{
            effect::{Effect, PropertyKind},
            message::{Message, MessageBody},
            namespace::first_mailboxes,
        },
    };
    use proptest::{collection::vec, prelude::*};

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

    #[test]
    fn accounts_round_trip() {
        let state = account();
        let decoded = decode_account(Lsn(8192), &encode_account(&state)).unwrap();
        assert_eq!(decoded.names, state.names);
        assert_eq!(decoded.pending_names, state.names);
        assert_eq!(decoded.properties, state.properties);
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
    }

    proptest! {
        #[test]
        fn damaged_pages_never_panic(at in any::<usize>(), with in any::<u8>(), cut in any::<usize>()) {
            let mut page = encode_account(&account());
            let at = at % page.len();
            page[at] ^= with;
            page.truncate(cut % (page.len() + 1));
            let _ = decode_account(Lsn(0), &page);
            let _ = decode_directory(&page);
            let _ = decode_root(&page);
        }

        #[test]
        fn directories_round_trip(
            records in proptest::collection::btree_map(any::<u64>(), any::<u64>(), 0..50)
        ) {
            let records: Vec<_> =
                records.into_iter().map(|(id, lsn)| (AccountId(id), Lsn(lsn))).collect();
            prop_assert_eq!(decode_directory(&encode_directory(&records)), Ok(records));
        }

        #[test]
        fn roots_round_trip(
            buckets in vec(proptest::option::of(1u64..), 64), spool in vec(any::<u64>(), 0..9),
            deliveries in vec(any::<u128>(), 0..9), intent in any::<(u128, Vec<u8>)>(),
            segments in vec(any::<(u64, u64)>(), 0..9),
        ) {
            let root = Root {
                applied: Lsn(9),
                buckets: buckets.into_iter().map(|lsn| lsn.map(Lsn)).collect(),
                spool: spool.into_iter().map(Lsn).collect(),
                deliveries,
                intents: vec![(intent.0, intent.1.into())],
                segments,
                quarantined: vec![3, 9],
                lost: Lsn(77),
            };
            prop_assert_eq!(decode_root(&encode_root(&root)), Ok(root));
        }
    }
}
