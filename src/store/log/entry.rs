//! The encoding of one log entry: a 40-byte header that names the entry's object, then its payload.
//! docs/disk_format.md has the layout.
//!
//! Called by the log (append, read) and by recovery; pure, so that recovery can be fuzzed.
//! Header and payload have separate CRC-32C: with a broken payload the owner is still known. The
//! header repeats the entry's LSN, so a misdirected read is never taken for the requested entry,
//! and a compacted segment (in which offsets cannot be computed from LSNs) needs no other entry
//! format.

use crate::{
    model::{AccountId, Lsn, MailboxId, Uid},
    plant::{Plant, planted},
};

/// Bytes before an entry's payload.
pub(super) const ENTRY_HEADER: usize = 40;

/// Entries start at multiples of this, so that headers straddle as few boundaries as possible.
pub(super) const ENTRY_ALIGN: usize = 8;

/// Longest payload. A body chunk is 256 KiB, a page of account state a few MiB.
pub const ENTRY_PAYLOAD_MAX: usize = 8 * 1024 * 1024;

/// The kind of an entry. Numbers are on disk for ever: never reuse one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum EntryKind {
    /// Part of a body; garbage until a later entry refers to it.
    BodyChunk = 1,
    /// Commits a message.
    Message = 2,
    Flags = 3,
    Expunge = 4,
    Mailbox = 5,
    Account = 6,
    Keyword = 7,
    Subscription = 8,
    Acl = 9,
    Quota = 10,
    Metadata = 11,
    Spool = 12,
    Unspool = 13,
    /// First half of an effect across two partitions; recovery finishes it.
    Intent = 14,
    /// Several effects, all or none.
    Transaction = 15,
    /// Checkpoint: state of one account.
    AccountPage = 16,
    /// Checkpoint: a run of messages of one mailbox.
    MailboxRun = 17,
    /// Checkpoint: the locations of account pages.
    DirectoryPage = 18,
    /// Checkpoint: the page that refers to all others.
    CheckpointRoot = 19,
    /// Checkpoint: cards of messages of one mailbox.
    CardRun = 20,
    /// Annotations of a message.
    Annotations = 21,
    /// Checkpoint: annotations of messages of one mailbox.
    AnnotationRun = 22,
}

impl EntryKind {
    const ALL: [EntryKind; 22] = [
        EntryKind::BodyChunk,
        EntryKind::Message,
        EntryKind::Flags,
        EntryKind::Expunge,
        EntryKind::Mailbox,
        EntryKind::Account,
        EntryKind::Keyword,
        EntryKind::Subscription,
        EntryKind::Acl,
        EntryKind::Quota,
        EntryKind::Metadata,
        EntryKind::Spool,
        EntryKind::Unspool,
        EntryKind::Intent,
        EntryKind::Transaction,
        EntryKind::AccountPage,
        EntryKind::MailboxRun,
        EntryKind::DirectoryPage,
        EntryKind::CheckpointRoot,
        EntryKind::CardRun,
        EntryKind::Annotations,
        EntryKind::AnnotationRun,
    ];

    /// Version in which the payload is written. Older ones are read; a kind whose payload changes
    /// gets the next number.
    pub fn version(self) -> u8 {
        match self {
            EntryKind::AccountPage | EntryKind::MailboxRun => 2,
            _ if self.has_head() => 2,
            _ => 1,
        }
    }

    /// Whether the payload begins with a head that has a checksum of its own (`format::payload`):
    /// if a body may follow.
    pub fn has_head(self) -> bool {
        matches!(self, EntryKind::Message | EntryKind::Spool | EntryKind::Transaction)
    }

    /// Whether an entry of this kind can be needed once a checkpoint has its effects: it holds a
    /// body, or is a page.
    pub fn may_stay(self) -> bool {
        match self {
            EntryKind::BodyChunk
            | EntryKind::Message
            | EntryKind::Spool
            | EntryKind::Transaction
            | EntryKind::AccountPage
            | EntryKind::MailboxRun
            | EntryKind::DirectoryPage
            | EntryKind::CheckpointRoot
            | EntryKind::CardRun
            | EntryKind::AnnotationRun => true,
            EntryKind::Flags
            | EntryKind::Expunge
            | EntryKind::Mailbox
            | EntryKind::Account
            | EntryKind::Keyword
            | EntryKind::Subscription
            | EntryKind::Acl
            | EntryKind::Quota
            | EntryKind::Metadata
            | EntryKind::Unspool
            | EntryKind::Annotations
            | EntryKind::Intent => false,
        }
    }

    /// Whether an entry of this kind holds effects.
    pub fn is_effect(self) -> bool {
        !matches!(
            self,
            EntryKind::BodyChunk
                | EntryKind::AccountPage
                | EntryKind::MailboxRun
                | EntryKind::DirectoryPage
                | EntryKind::CheckpointRoot
                | EntryKind::CardRun
                | EntryKind::AnnotationRun
        )
    }

    fn from_byte(byte: u8) -> Option<EntryKind> {
        EntryKind::ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

/// The object of an entry; zero where a field does not apply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    pub kind: EntryKind,
    /// Version of this kind's payload, for its decoder.
    pub version: u8,
    pub account: AccountId,
    pub mailbox: MailboxId,
    pub uid: Uid,
}

impl EntryHeader {
    /// For an entry whose payload is in the current layout.
    pub fn new(kind: EntryKind, account: AccountId, mailbox: MailboxId, uid: Uid) -> EntryHeader {
        EntryHeader { kind, version: kind.version(), account, mailbox, uid }
    }
}

/// Why bytes are not the expected entry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    #[error("entry header cut short")]
    Short,
    #[error("entry header checksum does not match")]
    HeaderChecksum,
    #[error("entry belongs at {found}, not at {expected}")]
    Misplaced { expected: Lsn, found: Lsn },
    #[error("entry of {0} bytes is longer than the maximum")]
    TooLong(usize),
    #[error("entry payload checksum does not match")]
    PayloadChecksum,
    /// Intact, but from another version of Ringmail: refused, never skipped.
    #[error("entry kind {kind} version {version} is unknown: written by a newer Ringmail")]
    Unknown { kind: u8, version: u8 },
}

/// A checked header with the fields that only the log needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredHeader {
    pub header: EntryHeader,
    pub payload_len: usize,
    payload_checksum: u32,
}

/// Bytes an entry takes in the log, padding included.
pub const fn entry_len(payload_len: usize) -> usize {
    (ENTRY_HEADER + payload_len).next_multiple_of(ENTRY_ALIGN)
}

/// Appends the entry to `buffer`. The payload may come in parts; each byte is copied once and
/// checksummed while it is in the cache.
pub(super) fn encode(buffer: &mut Vec<u8>, lsn: Lsn, header: &EntryHeader, payload: &[&[u8]]) {
    // A version that readers refuse must not be written.
    assert!((1..=header.kind.version()).contains(&header.version), "{header:?}");
    let start = buffer.len();
    buffer.resize(start + ENTRY_HEADER, 0);
    let mut payload_checksum = 0;
    for part in payload {
        payload_checksum = crc32c::crc32c_append(payload_checksum, part);
        buffer.extend_from_slice(part);
    }
    let payload_len = buffer.len() - start - ENTRY_HEADER;
    buffer.resize(start + entry_len(payload_len), 0);

    let mut bytes = [0; ENTRY_HEADER];
    bytes[4..8].copy_from_slice(&payload_checksum.to_le_bytes());
    bytes[8..12].copy_from_slice(&(payload_len as u32).to_le_bytes());
    bytes[12] = header.kind as u8;
    bytes[13] = header.version;
    bytes[16..24].copy_from_slice(&lsn.0.to_le_bytes());
    bytes[24..32].copy_from_slice(&header.account.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&header.mailbox.0.to_le_bytes());
    bytes[36..40].copy_from_slice(&header.uid.0.to_le_bytes());
    let header_checksum = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&header_checksum.to_le_bytes());
    buffer[start..start + ENTRY_HEADER].copy_from_slice(&bytes);
}

/// The LSN that an entry claims, unchecked.
pub(super) fn lsn_of(bytes: &[u8]) -> Option<Lsn> {
    let header: &[u8; ENTRY_HEADER] = bytes.first_chunk()?;
    Some(Lsn(u64_at(header, 16)))
}

/// The bytes in the log that an entry claims, unchecked.
pub(super) fn len_of(bytes: &[u8]) -> Option<usize> {
    let header: &[u8; ENTRY_HEADER] = bytes.first_chunk()?;
    Some(entry_len(u32_at(header, 8) as usize))
}

/// Decodes the header of the entry expected at `lsn`, whatever follows it.
pub(super) fn decode_header(bytes: &[u8], lsn: Lsn) -> Result<StoredHeader, EntryError> {
    let bytes: &[u8; ENTRY_HEADER] = bytes.first_chunk().ok_or(EntryError::Short)?;
    if crc32c::crc32c(&bytes[4..]) != u32_at(bytes, 0) {
        return Err(EntryError::HeaderChecksum);
    }
    let found = Lsn(u64_at(bytes, 16));
    if found != lsn && !planted(Plant::MisplacedEntry) {
        return Err(EntryError::Misplaced { expected: lsn, found });
    }
    let payload_len = u32_at(bytes, 8) as usize;
    if payload_len > ENTRY_PAYLOAD_MAX {
        return Err(EntryError::TooLong(payload_len));
    }
    let (kind, version) = (bytes[12], bytes[13]);
    let kind = EntryKind::from_byte(kind)
        .filter(|kind| (1..=kind.version()).contains(&version))
        .ok_or(EntryError::Unknown { kind, version })?;
    Ok(StoredHeader {
        header: EntryHeader {
            kind,
            version,
            account: AccountId(u64_at(bytes, 24)),
            mailbox: MailboxId(u32_at(bytes, 32)),
            uid: Uid(u32_at(bytes, 36)),
        },
        payload_len,
        payload_checksum: u32_at(bytes, 4),
    })
}

/// The first `wanted` bytes of the payload, or all of a shorter one, unchecked; `bytes` starts at
/// the entry.
pub(super) fn payload_start<'a>(
    bytes: &'a [u8],
    header: &StoredHeader,
    wanted: usize,
) -> Result<&'a [u8], EntryError> {
    let end = ENTRY_HEADER + header.payload_len.min(wanted);
    bytes.get(ENTRY_HEADER..end).ok_or(EntryError::Short)
}

/// The payload that follows `header`; `bytes` starts at the entry.
pub(super) fn decode_payload<'a>(
    bytes: &'a [u8],
    header: &StoredHeader,
) -> Result<&'a [u8], EntryError> {
    let payload =
        bytes.get(ENTRY_HEADER..ENTRY_HEADER + header.payload_len).ok_or(EntryError::Short)?;
    match crc32c::crc32c(payload) == header.payload_checksum || planted(Plant::ReadUnchecked) {
        true => Ok(payload),
        false => Err(EntryError::PayloadChecksum),
    }
}

/// Little-endian field of a fixed-size header; `at` is a constant of the format.
pub(super) fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes([
        bytes[at],
        bytes[at + 1],
        bytes[at + 2],
        bytes[at + 3],
        bytes[at + 4],
        bytes[at + 5],
        bytes[at + 6],
        bytes[at + 7],
    ])
}

/// As [`u64_at`].
pub(super) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// As [`u64_at`].
pub(super) fn u16_at<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(kind: u8, account: u64, mailbox: u32, uid: u32) -> EntryHeader {
        let kind = EntryKind::from_byte(kind).unwrap();
        EntryHeader::new(kind, AccountId(account), MailboxId(mailbox), Uid(uid))
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for (index, kind) in EntryKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            assert_eq!(EntryKind::from_byte(kind as u8), Some(kind));
        }
        assert_eq!(EntryKind::from_byte(0), None);
        assert_eq!(EntryKind::from_byte(23), None);
    }

    #[test]
    fn unknown_kind_is_named() {
        let mut bytes = Vec::new();
        encode(&mut bytes, Lsn(8), &header(2, 1, 1, 1), &[b"x"]);
        bytes[12] = 77;
        let checksum = crc32c::crc32c(&bytes[4..ENTRY_HEADER]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        let error = decode_header(&bytes, Lsn(8)).unwrap_err();
        assert_eq!(error, EntryError::Unknown { kind: 77, version: 2 });
    }

    proptest! {
        #[test]
        fn round_trip(
            kind in 1u8..=22,
            (account, mailbox, uid, lsn) in any::<(u64, u32, u32, u64)>(),
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..4),
        ) {
            let header = header(kind, account, mailbox, uid);
            let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let mut bytes = vec![1, 2, 3, 4, 5, 6, 7, 8];
            encode(&mut bytes, Lsn(lsn), &header, &parts);
            let bytes = &bytes[8..];
            let stored = decode_header(bytes, Lsn(lsn)).unwrap();
            prop_assert_eq!(stored.header, header);
            prop_assert_eq!(decode_payload(bytes, &stored).unwrap(), parts.concat());
            prop_assert_eq!(bytes.len(), entry_len(stored.payload_len));
            prop_assert!(decode_header(bytes, Lsn(lsn ^ 1)).is_err());
        }

        #[test]
        fn any_flipped_bit_is_noticed(len in 0usize..40, bit in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&mut bytes, Lsn(64), &header(2, 3, 4, 5), &[&vec![0xA5; len]]);
            let bit = bit.index((ENTRY_HEADER + len) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outcome = decode_header(&bytes, Lsn(64))
                .and_then(|stored| decode_payload(&bytes, &stored).map(<[u8]>::to_vec));
            prop_assert!(outcome.is_err());
        }
    }
}
