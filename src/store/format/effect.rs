//! Effects: what one log entry does to accounts, mailboxes and the partition, and its encoding.
//!
//! A mutation is exactly one entry, holding one effect or (kind `Transaction`) several; its payload
//! is a list of effects followed by at most one body block that the message effects refer to. The
//! same values are staged on pending state when appended, applied to published state once durable,
//! and applied again on replay: there is one meaning, not three. `docs/disk_format.md`, "Effects
//! and pages", has the layout.
//!
//! Invariant: every effect is framed by kind and length and may be longer than this version knows,
//! so that later versions add fields without a format change; an unknown kind refuses the entry.

use bytes::Bytes;

use super::{
    super::{
        log::entry_len,
        message::{Message, MessageBody},
    },
    annotations::{VALUE_MIN, put_value, read_value},
    codec::{Decoded, Malformed, Put, Reader},
    payload,
};
use crate::model::{
    AccountId, FlagSet, Flags, KeywordSet, Lsn, MailboxId, ModSeq, SpecialUse, Timestamp, Uid,
    UidValidity,
};

/// In a message effect: the body is in the body block of the same entry. Replaced by the entry's
/// LSN as soon as that is known.
pub(crate) const BODY_HERE: Lsn = Lsn(u64::MAX);

/// A mailbox as its creating effect describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NewMailbox {
    pub id: MailboxId,
    pub uid_validity: UidValidity,
    pub special_use: Option<SpecialUse>,
    pub name: String,
}

/// Kinds of opaque values of an account or a mailbox. Numbers are on disk for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PropertyKind {
    /// RFC 4314
    Acl = 1,
    /// Of [`AccountId::SHARES`]: the limits that were set for an account (RFC 9208).
    Quota = 2,
    /// RFC 5464
    Metadata = 3,
    /// Of a mailbox: whether its `\Seen` is each user's own. Of an account: what its user has seen
    /// in mailboxes of others.
    Seen = 4,
    /// Of [`AccountId::SHARES`]: whom the access lists of an account name.
    Share = 5,
    /// Of a user's account: the key that he signs URLs of a mailbox with (RFC 4467).
    UrlKey = 6,
}

/// Name of the one property of kind [`PropertyKind::Acl`] that a mailbox has: an encoded
/// [`crate::model::AccessList`].
pub(crate) const ACCESS_LIST: &[u8] = b"";

/// Name of the property of kind [`PropertyKind::Metadata`] that has the special use of a mailbox,
/// if it is not the one with which it was created (RFC 6154 4): the attribute, or nothing for none.
pub const SPECIAL_USE_ENTRY: &str = "/private/specialuse";

/// Name of the one property of kind [`PropertyKind::Seen`] that a mailbox has: one octet, whether
/// `\Seen` is each user's own.
pub(crate) const SEEN_IS_PERSONAL: &[u8] = b"";

/// Key of a property; mailbox 0 means the account itself.
pub type PropertyKey = (PropertyKind, MailboxId, Vec<u8>);

pub(crate) fn is_access_list(key: &PropertyKey) -> bool {
    key.0 == PropertyKind::Acl && key.2 == ACCESS_LIST
}

/// Key of the property of a user's account that has the encoded [`crate::model::SeenSet`] of a
/// mailbox of `owner`.
pub(crate) fn seen_key(owner: AccountId, mailbox: MailboxId) -> PropertyKey {
    let mut name = owner.0.to_le_bytes().to_vec();
    name.extend_from_slice(&mailbox.0.to_le_bytes());
    (PropertyKind::Seen, MailboxId(0), name)
}

/// Key of the property of `user`'s account that has the key for URLs of a mailbox: of his own
/// mailbox a property of that.
pub(crate) fn url_key_of(user: AccountId, (owner, mailbox): (AccountId, MailboxId)) -> PropertyKey {
    if owner == user {
        return (PropertyKind::UrlKey, mailbox, Vec::new());
    }
    let mut name = owner.0.to_le_bytes().to_vec();
    name.extend_from_slice(&mailbox.0.to_le_bytes());
    (PropertyKind::UrlKey, MailboxId(0), name)
}

/// Key of the property of [`AccountId::SHARES`] that has an owner's encoded
/// [`crate::model::Grantees`].
pub(crate) fn share_key(owner: AccountId) -> PropertyKey {
    (PropertyKind::Share, MailboxId(0), owner.0.to_le_bytes().to_vec())
}

/// Key of the property of [`AccountId::SHARES`] that has the encoded
/// [`crate::model::QuotaLimits`] of an account.
pub(crate) fn quota_key(account: AccountId) -> PropertyKey {
    (PropertyKind::Quota, MailboxId(0), account.0.to_le_bytes().to_vec())
}

/// The account that a key of [`quota_key`] names.
pub(crate) fn quota_owner(key: &PropertyKey) -> Option<AccountId> {
    let number = key.2.as_slice().try_into().ok().map(u64::from_le_bytes);
    number.filter(|_| (key.0, key.1) == (PropertyKind::Quota, MailboxId(0))).map(AccountId)
}

/// The owner that a key of [`share_key`] names.
pub(crate) fn share_owner(key: &PropertyKey) -> Option<AccountId> {
    let number = key.2.as_slice().try_into().ok().map(u64::from_le_bytes);
    number.filter(|_| (key.0, key.1) == (PropertyKind::Share, MailboxId(0))).map(AccountId)
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Effect {
    /// Creation of an account with its first mailboxes, to all of which it is subscribed.
    Account {
        account: AccountId,
        mailboxes: Vec<NewMailbox>,
    },
    Message {
        account: AccountId,
        mailbox: MailboxId,
        message: Message,
    },
    /// The resulting flags (not the change), grouped by equal result.
    Flags {
        account: AccountId,
        mailbox: MailboxId,
        mod_seq: ModSeq,
        groups: Vec<(FlagSet, Vec<Uid>)>,
    },
    Expunge {
        account: AccountId,
        mailbox: MailboxId,
        mod_seq: ModSeq,
        uids: Vec<Uid>,
    },
    CreateMailbox {
        account: AccountId,
        mailbox: NewMailbox,
    },
    DeleteMailbox {
        account: AccountId,
        mailbox: MailboxId,
    },
    RenameMailbox {
        account: AccountId,
        mailbox: MailboxId,
        name: String,
    },
    /// Names appended to the mailbox's keyword table.
    Keyword {
        account: AccountId,
        mailbox: MailboxId,
        names: Vec<String>,
    },
    Subscription {
        account: AccountId,
        name: String,
        subscribed: bool,
    },
    /// A value set or (None) removed.
    Property {
        account: AccountId,
        key: PropertyKey,
        value: Option<Vec<u8>>,
    },
    /// Values beside a message set or (None) removed, by number.
    Annotations {
        account: AccountId,
        mailbox: MailboxId,
        uid: Uid,
        values: Vec<(u32, Option<Bytes>)>,
    },
    /// The transaction completed this delivery: a repetition is a no-op.
    Delivery {
        id: u128,
    },
    /// A spooled message whose body is the entry's body block.
    Spool {
        payload: Bytes,
        body: MessageBody,
    },
    Unspool {
        lsn: Lsn,
    },
    /// Work across several partitions that recovery must finish; `payload` is opaque here.
    Intent {
        id: u128,
        payload: Bytes,
    },
    IntentDone {
        id: u128,
    },
}

mod kind {
    pub(super) const ACCOUNT: u8 = 1;
    pub(super) const MESSAGE: u8 = 2;
    pub(super) const FLAGS: u8 = 3;
    pub(super) const EXPUNGE: u8 = 4;
    pub(super) const CREATE_MAILBOX: u8 = 5;
    pub(super) const DELETE_MAILBOX: u8 = 6;
    pub(super) const RENAME_MAILBOX: u8 = 7;
    pub(super) const KEYWORD: u8 = 8;
    pub(super) const SUBSCRIPTION: u8 = 9;
    pub(super) const PROPERTY: u8 = 10;
    pub(super) const DELIVERY: u8 = 11;
    pub(super) const SPOOL: u8 = 12;
    pub(super) const UNSPOOL: u8 = 13;
    pub(super) const INTENT: u8 = 14;
    pub(super) const INTENT_DONE: u8 = 15;
    pub(super) const ANNOTATIONS: u8 = 16;
}

/// Bit of the flags byte: two keyword words follow.
const HAS_KEYWORDS: u8 = 0x80;
/// Bit of a message's flags byte: a length-prefixed extension follows the record.
const HAS_EXTENSION: u8 = 0x40;

pub(crate) fn put_flags(out: &mut Vec<u8>, flags: FlagSet) {
    let keywords = if flags.keywords.is_empty() { 0 } else { HAS_KEYWORDS };
    out.put_u8(flags.system.0 & 0x1f | keywords);
    if keywords != 0 {
        flags.keywords.0.iter().for_each(|&word| out.put_varint(word));
    }
}

pub(crate) fn read_flags(reader: &mut Reader<'_>) -> Decoded<FlagSet> {
    let byte = reader.u8("flags")?;
    read_flags_after(byte, reader)
}

fn read_flags_after(byte: u8, reader: &mut Reader<'_>) -> Decoded<FlagSet> {
    let mut keywords = KeywordSet::default();
    if byte & HAS_KEYWORDS != 0 {
        keywords = KeywordSet([reader.varint("keywords")?, reader.varint("keywords")?]);
    }
    Ok(FlagSet { system: Flags(byte & 0x1f), keywords })
}

/// All of a message except its UID, which runs encode as a difference. ~30 bytes.
pub(crate) fn put_message(out: &mut Vec<u8>, message: &Message) {
    put_flags(out, message.flags);
    out.put_varint(message.mod_seq.0);
    out.put_i64(message.internal_date.0);
    out.put_signed(message.save_date.0.wrapping_sub(message.internal_date.0));
    out.put_varint(message.body.size);
    // Body tag: 0 = this entry's body block, 1 = the one of the entry named.
    if message.body.lsn == BODY_HERE {
        out.put_u8(0);
    } else {
        out.put_u8(1);
        out.put_varint(message.body.lsn.0);
        out.put_varint(u64::from(message.body.entry_len));
    }
}

/// `here` is the entry being decoded: its LSN and length in the log.
pub(crate) fn read_message(
    reader: &mut Reader<'_>,
    uid: Uid,
    here: (Lsn, u32),
) -> Decoded<Message> {
    let byte = reader.u8("message flags")?;
    let flags = read_flags_after(byte, reader)?;
    let mod_seq = ModSeq(reader.varint("mod_seq")?);
    let internal_date = Timestamp(reader.i64("internal date")?);
    let save_date = Timestamp(internal_date.0.wrapping_add(reader.signed("save date")?));
    let size = reader.varint("size")?;
    let (lsn, entry_len) = match reader.u8("body tag")? {
        0 => here,
        1 => (Lsn(reader.varint("body lsn")?), reader.varint_u32("entry length")?),
        _ => return Err(Malformed("body tag")),
    };
    if byte & HAS_EXTENSION != 0 {
        reader.bytes("message extension")?;
    }
    let body = MessageBody { lsn, size, entry_len };
    Ok(Message { uid, mod_seq, flags, internal_date, save_date, body })
}

pub(crate) fn put_mailbox(out: &mut Vec<u8>, mailbox: &NewMailbox) {
    out.put_varint(u64::from(mailbox.id.0));
    out.put_varint(u64::from(mailbox.uid_validity.0));
    out.put_u8(mailbox.special_use.map_or(0, special_use_number));
    out.put_bytes(mailbox.name.as_bytes());
}

pub(crate) fn read_mailbox(reader: &mut Reader<'_>) -> Decoded<NewMailbox> {
    Ok(NewMailbox {
        id: MailboxId(reader.varint_u32("mailbox id")?),
        uid_validity: UidValidity(reader.varint_u32("uid_validity")?),
        special_use: special_use_of(reader.u8("special use")?),
        name: reader.string("mailbox name")?,
    })
}

fn special_use_number(special_use: SpecialUse) -> u8 {
    match special_use {
        SpecialUse::All => 1,
        SpecialUse::Archive => 2,
        SpecialUse::Drafts => 3,
        SpecialUse::Flagged => 4,
        SpecialUse::Junk => 5,
        SpecialUse::Sent => 6,
        SpecialUse::Trash => 7,
    }
}

/// 0 and numbers of later versions mean none.
fn special_use_of(number: u8) -> Option<SpecialUse> {
    SpecialUse::EVERY.into_iter().find(|it| special_use_number(*it) == number)
}

/// Minimum size of a mailbox record; limits what a count may allocate.
pub(crate) const MAILBOX_MIN: usize = 4;

/// Effects with the LSNs of their entries, in order.
pub(crate) type LoggedEffects = Vec<(Lsn, Effect)>;

impl Effect {
    pub(crate) fn account(&self) -> Option<AccountId> {
        match self {
            Effect::Account { account, .. }
            | Effect::Message { account, .. }
            | Effect::Flags { account, .. }
            | Effect::Expunge { account, .. }
            | Effect::CreateMailbox { account, .. }
            | Effect::DeleteMailbox { account, .. }
            | Effect::RenameMailbox { account, .. }
            | Effect::Keyword { account, .. }
            | Effect::Subscription { account, .. }
            | Effect::Property { account, .. }
            | Effect::Annotations { account, .. } => Some(*account),
            Effect::Delivery { .. }
            | Effect::Spool { .. }
            | Effect::Unspool { .. }
            | Effect::Intent { .. }
            | Effect::IntentDone { .. } => None,
        }
    }

    /// The mailbox and UID that the entry's header names, for tools that read headers alone.
    pub(crate) fn place(&self) -> (MailboxId, Uid) {
        match self {
            Effect::Message { mailbox, message, .. } => (*mailbox, message.uid),
            Effect::Annotations { mailbox, uid, .. } => (*mailbox, *uid),
            Effect::Flags { mailbox, .. }
            | Effect::Expunge { mailbox, .. }
            | Effect::DeleteMailbox { mailbox, .. }
            | Effect::RenameMailbox { mailbox, .. }
            | Effect::Keyword { mailbox, .. } => (*mailbox, Uid(0)),
            Effect::CreateMailbox { mailbox, .. } => (mailbox.id, Uid(0)),
            _ => (MailboxId(0), Uid(0)),
        }
    }

    /// Octets of annotations in it: they stay in memory until a checkpoint.
    pub(crate) fn annotation_octets(&self) -> usize {
        let Effect::Annotations { values, .. } = self else { return 0 };
        values.iter().map(|(_, value)| 64 + value.as_ref().map_or(0, Bytes::len)).sum()
    }

    /// Appends kind, length and content.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind());
        let length_at = out.len();
        out.put_u8(0);
        self.encode_content(out);
        let length = out.len() - length_at - 1;
        if length < 0x80 {
            out[length_at] = length as u8;
        } else {
            let mut varint = Vec::with_capacity(10);
            varint.put_varint(length as u64);
            out.splice(length_at..=length_at, varint);
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Effect::Account { .. } => kind::ACCOUNT,
            Effect::Message { .. } => kind::MESSAGE,
            Effect::Flags { .. } => kind::FLAGS,
            Effect::Expunge { .. } => kind::EXPUNGE,
            Effect::CreateMailbox { .. } => kind::CREATE_MAILBOX,
            Effect::DeleteMailbox { .. } => kind::DELETE_MAILBOX,
            Effect::RenameMailbox { .. } => kind::RENAME_MAILBOX,
            Effect::Keyword { .. } => kind::KEYWORD,
            Effect::Subscription { .. } => kind::SUBSCRIPTION,
            Effect::Property { .. } => kind::PROPERTY,
            Effect::Annotations { .. } => kind::ANNOTATIONS,
            Effect::Delivery { .. } => kind::DELIVERY,
            Effect::Spool { .. } => kind::SPOOL,
            Effect::Unspool { .. } => kind::UNSPOOL,
            Effect::Intent { .. } => kind::INTENT,
            Effect::IntentDone { .. } => kind::INTENT_DONE,
        }
    }

    fn encode_content(&self, out: &mut Vec<u8>) {
        if let Some(account) = self.account() {
            out.put_varint(account.0);
        }
        match self {
            Effect::Account { mailboxes, .. } => {
                out.put_varint(mailboxes.len() as u64);
                mailboxes.iter().for_each(|mailbox| put_mailbox(out, mailbox));
            }
            Effect::Message { mailbox, message, .. } => {
                out.put_varint(u64::from(mailbox.0));
                out.put_varint(u64::from(message.uid.0));
                put_message(out, message);
            }
            Effect::Flags { mailbox, mod_seq, groups, .. } => {
                out.put_varint(u64::from(mailbox.0));
                out.put_varint(mod_seq.0);
                out.put_varint(groups.len() as u64);
                for (flags, uids) in groups {
                    put_flags(out, *flags);
                    out.put_uids(uids);
                }
            }
            Effect::Expunge { mailbox, mod_seq, uids, .. } => {
                out.put_varint(u64::from(mailbox.0));
                out.put_varint(mod_seq.0);
                out.put_uids(uids);
            }
            Effect::CreateMailbox { mailbox, .. } => put_mailbox(out, mailbox),
            Effect::DeleteMailbox { mailbox, .. } => out.put_varint(u64::from(mailbox.0)),
            Effect::RenameMailbox { mailbox, name, .. } => {
                out.put_varint(u64::from(mailbox.0));
                out.put_bytes(name.as_bytes());
            }
            Effect::Keyword { mailbox, names, .. } => {
                out.put_varint(u64::from(mailbox.0));
                out.put_varint(names.len() as u64);
                names.iter().for_each(|name| out.put_bytes(name.as_bytes()));
            }
            Effect::Subscription { name, subscribed, .. } => {
                out.put_u8(u8::from(*subscribed));
                out.put_bytes(name.as_bytes());
            }
            Effect::Property { key, value, .. } => put_property(out, key, value.as_deref()),
            Effect::Annotations { mailbox, uid, values, .. } => {
                out.put_varint(u64::from(mailbox.0));
                out.put_varint(u64::from(uid.0));
                out.put_varint(values.len() as u64);
                values.iter().for_each(|(number, value)| put_value(out, *number, value.as_deref()));
            }
            Effect::Delivery { id } | Effect::IntentDone { id } => out.put_u128(*id),
            Effect::Spool { payload, body } => {
                out.put_varint(body.size);
                out.put_bytes(payload);
            }
            Effect::Unspool { lsn } => out.put_varint(lsn.0),
            Effect::Intent { id, payload } => {
                out.put_u128(*id);
                out.put_bytes(payload);
            }
        }
    }

    fn decode(kind: u8, reader: &mut Reader<'_>, here: (Lsn, u32)) -> Decoded<Effect> {
        match kind {
            kind::ACCOUNT..=kind::PROPERTY | kind::ANNOTATIONS => {
                let account = AccountId(reader.varint("account")?);
                Effect::decode_of_account(kind, account, reader, here)
            }
            kind::DELIVERY => Ok(Effect::Delivery { id: reader.u128("delivery id")? }),
            kind::SPOOL => {
                let size = reader.varint("size")?;
                let payload = Bytes::copy_from_slice(reader.bytes("payload")?);
                let body = MessageBody { lsn: here.0, size, entry_len: here.1 };
                Ok(Effect::Spool { payload, body })
            }
            kind::UNSPOOL => Ok(Effect::Unspool { lsn: Lsn(reader.varint("lsn")?) }),
            kind::INTENT => Ok(Effect::Intent {
                id: reader.u128("intent id")?,
                payload: Bytes::copy_from_slice(reader.bytes("payload")?),
            }),
            kind::INTENT_DONE => Ok(Effect::IntentDone { id: reader.u128("intent id")? }),
            _ => Err(Malformed("effect kind")),
        }
    }

    fn decode_of_account(
        kind: u8,
        account: AccountId,
        reader: &mut Reader<'_>,
        here: (Lsn, u32),
    ) -> Decoded<Effect> {
        let mailbox = |reader: &mut Reader<'_>| reader.varint_u32("mailbox").map(MailboxId);
        Ok(match kind {
            kind::ACCOUNT => {
                let count = reader.count(MAILBOX_MIN, "mailboxes")?;
                let mailboxes = (0..count).map(|_| read_mailbox(reader)).collect::<Decoded<_>>()?;
                Effect::Account { account, mailboxes }
            }
            kind::MESSAGE => {
                let mailbox = mailbox(reader)?;
                let uid = Uid(reader.varint_u32("uid")?);
                let message = read_message(reader, uid, here)?;
                Effect::Message { account, mailbox, message }
            }
            kind::FLAGS => {
                let mailbox = mailbox(reader)?;
                let mod_seq = ModSeq(reader.varint("mod_seq")?);
                let count = reader.count(2, "flag groups")?;
                let groups = (0..count)
                    .map(|_| Ok((read_flags(reader)?, reader.uids("uids")?)))
                    .collect::<Decoded<_>>()?;
                Effect::Flags { account, mailbox, mod_seq, groups }
            }
            kind::EXPUNGE => {
                let mailbox = mailbox(reader)?;
                let mod_seq = ModSeq(reader.varint("mod_seq")?);
                Effect::Expunge { account, mailbox, mod_seq, uids: reader.uids("uids")? }
            }
            kind::CREATE_MAILBOX => {
                Effect::CreateMailbox { account, mailbox: read_mailbox(reader)? }
            }
            kind::DELETE_MAILBOX => Effect::DeleteMailbox { account, mailbox: mailbox(reader)? },
            kind::RENAME_MAILBOX => {
                let mailbox = mailbox(reader)?;
                Effect::RenameMailbox { account, mailbox, name: reader.string("name")? }
            }
            kind::KEYWORD => {
                let mailbox = mailbox(reader)?;
                let count = reader.count(1, "keywords")?;
                let names = (0..count).map(|_| reader.string("keyword")).collect::<Decoded<_>>()?;
                Effect::Keyword { account, mailbox, names }
            }
            kind::SUBSCRIPTION => {
                let subscribed = reader.u8("subscribed")? != 0;
                Effect::Subscription { account, name: reader.string("name")?, subscribed }
            }
            kind::PROPERTY => {
                let (key, value) = read_property(reader)?;
                Effect::Property { account, key, value }
            }
            kind::ANNOTATIONS => {
                let mailbox = mailbox(reader)?;
                let uid = Uid(reader.varint_u32("uid")?);
                let count = reader.count(VALUE_MIN, "annotations")?;
                let values = (0..count).map(|_| read_value(reader)).collect::<Decoded<_>>()?;
                Effect::Annotations { account, mailbox, uid, values }
            }
            _ => return Err(Malformed("effect kind")),
        })
    }
}

pub(crate) fn put_property(out: &mut Vec<u8>, key: &PropertyKey, value: Option<&[u8]>) {
    out.put_u8(key.0 as u8);
    out.put_varint(u64::from(key.1.0));
    out.put_bytes(&key.2);
    out.put_u8(u8::from(value.is_some()));
    out.put_bytes(value.unwrap_or_default());
}

pub(crate) fn read_property(reader: &mut Reader<'_>) -> Decoded<(PropertyKey, Option<Vec<u8>>)> {
    let kind = match reader.u8("property kind")? {
        1 => PropertyKind::Acl,
        2 => PropertyKind::Quota,
        3 => PropertyKind::Metadata,
        4 => PropertyKind::Seen,
        5 => PropertyKind::Share,
        6 => PropertyKind::UrlKey,
        _ => return Err(Malformed("property kind")),
    };
    let mailbox = MailboxId(reader.varint_u32("mailbox")?);
    let key = reader.bytes("property key")?.to_vec();
    let present = reader.u8("property presence")? != 0;
    let value = reader.bytes("property value")?.to_vec();
    Ok(((kind, mailbox, key), present.then_some(value)))
}

/// Calls `each` with every effect of the entry at `lsn`.
pub(crate) fn decode_effects(
    lsn: Lsn,
    payload: &[u8],
    mut each: impl FnMut(Effect),
) -> Decoded<()> {
    let here = (lsn, entry_len(payload.len()) as u32);
    let mut reader = Reader::new(payload::split(payload)?.effects);
    while !reader.is_empty() {
        let kind = reader.u8("effect kind")?;
        let content = reader.bytes("effect")?;
        each(Effect::decode(kind, &mut Reader::new(content), here)?);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// A payload of `effects`, to which a body block may be appended.
    fn encode_effects<'a>(effects: impl Iterator<Item = &'a Effect>, out: &mut Vec<u8>) {
        payload::begin(out, true);
        effects.for_each(|effect| effect.encode(out));
        payload::end_effects(out, true);
    }

    pub(crate) fn any_message() -> impl Strategy<Value = Message> {
        (any::<[u64; 5]>(), any::<[i64; 2]>(), 0u8..32, 1u32.., any::<[bool; 2]>()).prop_map(
            |(n, dates, system, uid, [keywords, here])| Message {
                uid: Uid(uid),
                mod_seq: ModSeq(n[0]),
                flags: FlagSet {
                    system: Flags(system),
                    keywords: KeywordSet(if keywords { [n[1], n[2]] } else { [0, 0] }),
                },
                internal_date: Timestamp(dates[0]),
                save_date: Timestamp(dates[1]),
                body: MessageBody {
                    lsn: if here { BODY_HERE } else { Lsn(n[3]) },
                    size: n[4],
                    entry_len: if here { 0 } else { n[2] as u32 },
                },
            },
        )
    }

    fn any_uids() -> impl Strategy<Value = Vec<Uid>> {
        proptest::collection::btree_set(1u32..900, 0..40)
            .prop_map(|set| set.into_iter().map(Uid).collect())
    }

    fn any_mailbox() -> impl Strategy<Value = NewMailbox> {
        (any::<u32>(), any::<u32>(), 0u8..9, ".{0,20}").prop_map(|(id, validity, special, name)| {
            NewMailbox {
                id: MailboxId(id),
                uid_validity: UidValidity(validity),
                special_use: special_use_of(special),
                name,
            }
        })
    }

    fn any_effect() -> impl Strategy<Value = Effect> {
        let account = any::<u64>().prop_map(AccountId);
        let place = (any::<u64>(), any::<u32>()).prop_map(|(a, m)| (AccountId(a), MailboxId(m)));
        let bytes = vec(any::<u8>(), 0..200);
        prop_oneof![
            (account, vec(any_mailbox(), 0..6))
                .prop_map(|(account, mailboxes)| Effect::Account { account, mailboxes }),
            (place.clone(), any_message()).prop_map(|((account, mailbox), message)| {
                Effect::Message { account, mailbox, message }
            }),
            (place.clone(), any::<u64>(), vec((0u8..32, any_uids()), 0..4)).prop_map(
                |((account, mailbox), mod_seq, groups)| Effect::Flags {
                    account,
                    mailbox,
                    mod_seq: ModSeq(mod_seq),
                    groups: groups
                        .into_iter()
                        .map(|(system, uids)| {
                            (FlagSet { system: Flags(system), ..FlagSet::default() }, uids)
                        })
                        .collect(),
                }
            ),
            (place.clone(), any::<u64>(), any_uids()).prop_map(
                |((account, mailbox), mod_seq, uids)| Effect::Expunge {
                    account,
                    mailbox,
                    mod_seq: ModSeq(mod_seq),
                    uids
                }
            ),
            (place.clone(), any_mailbox())
                .prop_map(|((account, _), mailbox)| Effect::CreateMailbox { account, mailbox }),
            place.clone().prop_map(|(account, mailbox)| Effect::DeleteMailbox { account, mailbox }),
            (place.clone(), ".{0,90}").prop_map(|((account, mailbox), name)| {
                Effect::RenameMailbox { account, mailbox, name }
            }),
            (place.clone(), vec(".{0,9}", 0..5)).prop_map(|((account, mailbox), names)| {
                Effect::Keyword { account, mailbox, names }
            }),
            (place.clone(), ".{0,9}", any::<bool>()).prop_map(
                |((account, _), name, subscribed)| {
                    Effect::Subscription { account, name, subscribed }
                }
            ),
            (
                place.clone(),
                any::<u32>(),
                vec((any::<u32>(), proptest::option::of(bytes.clone())), 0..4)
            )
                .prop_map(|((account, mailbox), uid, values)| {
                    let value =
                        |(number, value): (u32, Option<Vec<u8>>)| (number, value.map(Bytes::from));
                    let values = values.into_iter().map(value).collect();
                    Effect::Annotations { account, mailbox, uid: Uid(uid), values }
                }),
            (place, bytes.clone(), proptest::option::of(bytes.clone())).prop_map(
                |((account, mailbox), key, value)| Effect::Property {
                    account,
                    key: (PropertyKind::Metadata, mailbox, key),
                    value
                }
            ),
            any::<u128>().prop_map(|id| Effect::Delivery { id }),
            (bytes.clone(), any::<u64>()).prop_map(|(payload, size)| Effect::Spool {
                payload: payload.into(),
                body: MessageBody { lsn: BODY_HERE, size, entry_len: 0 },
            }),
            any::<u64>().prop_map(|lsn| Effect::Unspool { lsn: Lsn(lsn) }),
            (any::<u128>(), bytes)
                .prop_map(|(id, payload)| Effect::Intent { id, payload: payload.into() }),
            any::<u128>().prop_map(|id| Effect::IntentDone { id }),
        ]
    }

    /// How `effect` reads back from an entry at `here`.
    fn resolved(mut effect: Effect, here: (Lsn, u32)) -> Effect {
        if let Effect::Message { message: Message { body, .. }, .. } | Effect::Spool { body, .. } =
            &mut effect
            && body.lsn == BODY_HERE
        {
            (body.lsn, body.entry_len) = here;
        }
        effect
    }

    proptest! {
        #[test]
        fn effects_round_trip(
            effects in vec(any_effect(), 0..8),
            block in vec(any::<u8>(), 0..50),
        ) {
            let mut payload = Vec::new();
            encode_effects(effects.iter(), &mut payload);
            payload.extend_from_slice(&block);
            let here = (Lsn(4096), entry_len(payload.len()) as u32);
            let mut decoded = Vec::new();
            decode_effects(here.0, &payload, |effect| decoded.push(effect)).unwrap();
            let expected: Vec<Effect> =
                effects.into_iter().map(|effect| resolved(effect, here)).collect();
            prop_assert_eq!(decoded, expected);
            prop_assert_eq!(super::payload::split(&payload).unwrap().block, &block[..]);
        }

        #[test]
        fn garbage_never_panics(effects in vec(any_effect(), 1..3), cut in any::<usize>(),
                                flip in any::<(usize, u8)>()) {
            let mut payload = Vec::new();
            encode_effects(effects.iter(), &mut payload);
            let at = flip.0 % payload.len();
            payload[at] ^= flip.1;
            payload.truncate(cut % (payload.len() + 1));
            let _ = decode_effects(Lsn(1), &payload, |_| ());
        }
    }

    #[test]
    fn unknown_kinds_are_refused_and_longer_effects_accepted() {
        let mut payload = Vec::new();
        encode_effects([Effect::Unspool { lsn: Lsn(7) }].iter(), &mut payload);
        // One more byte inside the frame: a later version's field.
        payload[0] += 1;
        payload[13] += 1;
        payload.push(99);
        let mut decoded = Vec::new();
        decode_effects(Lsn(1), &payload, |effect| decoded.push(effect)).unwrap();
        assert_eq!(decoded, [Effect::Unspool { lsn: Lsn(7) }]);
        payload[12] = 200;
        assert_eq!(decode_effects(Lsn(1), &payload, |_| ()), Err(Malformed("effect kind")));
    }

    #[test]
    fn a_delivery_is_small() {
        let message = Message {
            uid: Uid(1000),
            mod_seq: ModSeq(5000),
            internal_date: Timestamp(1_700_000_000_000_000),
            save_date: Timestamp(1_700_000_000_000_100),
            body: MessageBody { lsn: BODY_HERE, size: 4096, entry_len: 0 },
            ..Message::default()
        };
        let effect = Effect::Message { account: AccountId(77), mailbox: MailboxId::INBOX, message };
        let mut out = Vec::new();
        encode_effects([effect].iter(), &mut out);
        assert!(out.len() <= 40, "{} bytes", out.len());
    }
}
