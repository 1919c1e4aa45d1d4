//! The payload of intents: the two ends of a move between partitions. docs/disk_format.md,
//! "Intents", has the layout.
//!
//! Invariant: a kind that this version does not know is left alone.

use bytes::Bytes;

use super::codec::{Decoded, Malformed, Put, Reader};
use crate::model::{AccountId, MailboxId, Uid, UidValidity};

const DEPARTURE: u8 = 1;
const ARRIVAL: u8 = 2;

/// At the source: these messages are to be expunged as soon as they have arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Departure {
    pub source: (AccountId, MailboxId),
    pub target: (AccountId, MailboxId),
    /// Ascending.
    pub uids: Vec<Uid>,
}

/// At the target: they are here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Arrival {
    /// The account that they came from.
    pub source: AccountId,
    pub target: (AccountId, MailboxId),
    pub uid_validity: UidValidity,
    /// UIDs in the source, ascending.
    pub uids: Vec<Uid>,
    /// UID of the first one in the target; the others follow it.
    pub first: Uid,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Departure(Departure),
    Arrival(Arrival),
}

fn put_place(out: &mut Vec<u8>, (account, mailbox): (AccountId, MailboxId)) {
    out.put_varint(account.0);
    out.put_varint(u64::from(mailbox.0));
}

fn place(reader: &mut Reader<'_>) -> Decoded<(AccountId, MailboxId)> {
    Ok((AccountId(reader.varint("account")?), MailboxId(reader.varint_u32("mailbox")?)))
}

impl Departure {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![DEPARTURE];
        put_place(&mut out, self.source);
        put_place(&mut out, self.target);
        out.put_uids(&self.uids);
        out.into()
    }
}

impl Arrival {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![ARRIVAL];
        out.put_varint(self.source.0);
        put_place(&mut out, self.target);
        out.put_varint(u64::from(self.uid_validity.0));
        out.put_varint(u64::from(self.first.0));
        out.put_uids(&self.uids);
        out.into()
    }
}

impl End {
    pub(crate) fn decode(payload: &[u8]) -> Decoded<End> {
        let mut reader = Reader::new(payload);
        let reader = &mut reader;
        Ok(match reader.u8("kind of intent")? {
            DEPARTURE => {
                let (source, target) = (place(reader)?, place(reader)?);
                End::Departure(Departure { source, target, uids: reader.uids("uids")? })
            }
            ARRIVAL => {
                let source = AccountId(reader.varint("account")?);
                let target = place(reader)?;
                let uid_validity = UidValidity(reader.varint_u32("uid_validity")?);
                let first = Uid(reader.varint_u32("uid")?);
                let uids = reader.uids("uids")?;
                End::Arrival(Arrival { source, target, uid_validity, uids, first })
            }
            _ => return Err(Malformed("kind of intent")),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ends_round_trip(
            n in any::<(u64, u64, u32, u32, u32, u32)>(),
            uids in proptest::collection::btree_set(any::<u32>(), 0..50),
            cut in any::<usize>(),
        ) {
            let uids: Vec<Uid> = uids.into_iter().map(Uid).collect();
            let source = (AccountId(n.0), MailboxId(n.2));
            let target = (AccountId(n.1), MailboxId(n.3));
            let departure = Departure { source, target, uids: uids.clone() };
            let (uid_validity, first) = (UidValidity(n.4), Uid(n.5));
            let arrival = Arrival { source: source.0, target, uid_validity, uids, first };
            let octets = [departure.encode(), arrival.encode()];
            let ends = [End::Departure(departure), End::Arrival(arrival)];
            for (octets, end) in octets.iter().zip(ends) {
                prop_assert_eq!(End::decode(octets), Ok(end));
                prop_assert!(End::decode(&octets[..cut % octets.len()]).is_err());
            }
        }

        #[test]
        fn garbage_never_panics(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = End::decode(&octets);
        }
    }

    #[test]
    fn later_kinds_are_told_apart() {
        assert_eq!(End::decode(&[3, 1, 2]), Err(Malformed("kind of intent")));
    }
}
