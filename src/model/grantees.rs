//! Whom the access lists of an account grant something: its place in the index of shares.
//!
//! The store keeps the encoded [`Grantees`] of each account whose lists name others, and from them
//! finds what is shared with somebody (`store::Shares`). Only positive entries count, whatever
//! their rights: the list itself decides. The owner is not a grantee of his own.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use super::{
    AccountId, Asker,
    rights::{ACCOUNT, ANYONE, AUTH_USER, GROUP, Named, Rows, USER},
};

/// Octets of encoded grantees: those of any list fit, and of many that name the same ones.
pub const GRANTEES_OCTETS_MAX: usize = 16 * 1024;

/// Whom a positive entry names, as looked up: a user with a number only by number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Grantee {
    Anyone,
    AuthUser,
    /// Lower case, without the `$`.
    Group(Arc<str>),
    /// A user without a number. Lower case.
    Name(Arc<str>),
    Account(AccountId),
}

impl Grantee {
    /// Everything that names `asker`, each once.
    pub fn naming(asker: &Asker<'_>) -> impl Iterator<Item = Grantee> {
        let users = asker.is_logged_in.then(|| {
            let account = asker.account.map(Grantee::Account);
            account.into_iter().chain([Grantee::AuthUser, Grantee::Name(asker.name.into())])
        });
        let groups = asker.groups.iter().map(|group| Grantee::Group(group.as_str().into()));
        std::iter::once(Grantee::Anyone).chain(users.into_iter().flatten()).chain(groups)
    }

    fn of(named: Named<'_>) -> Option<Grantee> {
        Some(match named {
            Named::Anyone => Grantee::Anyone,
            Named::AuthUser => Grantee::AuthUser,
            Named::Owner => return None,
            Named::Group(name) => Grantee::Group(name.into()),
            Named::User { account: Some(account), .. } => Grantee::Account(account),
            Named::User { name, account: None } => Grantee::Name(name.into()),
        })
    }
}

/// A set of grantees.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Grantees(BTreeSet<Grantee>);

/// The octets are no grantees of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed grantees")]
pub struct MalformedGrantees;

/// First octet of encoded grantees.
const VERSION: u8 = 1;

impl Grantees {
    /// Those of all encoded access lists of `owner`, and whether every list could be read. Equal
    /// lists, as CREATE makes them, are read once.
    pub fn of_lists<'a>(
        lists: impl Iterator<Item = &'a [u8]>,
        owner: AccountId,
    ) -> (Grantees, bool) {
        let mut readable = true;
        let mut named: HashSet<Named<'_>> = HashSet::new();
        let lists: HashSet<&[u8]> = lists.collect();
        // From sets to sets, in any order.
        for list in lists {
            let Ok(rows) = Rows::new(list) else {
                readable = false;
                continue;
            };
            for row in rows {
                match row {
                    Ok((false, name, _)) => drop(named.insert(name)),
                    Ok((true, ..)) => {}
                    Err(_) => readable = false,
                }
            }
        }
        let mut grantees: BTreeSet<Grantee> = named.into_iter().filter_map(Grantee::of).collect();
        grantees.remove(&Grantee::Account(owner));
        (Grantees(grantees), readable)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Grantee> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, grantee: &Grantee) -> bool {
        self.0.contains(grantee)
    }

    /// Those that `other` lacks.
    pub fn without<'a>(&'a self, other: &'a Grantees) -> impl Iterator<Item = &'a Grantee> {
        self.0.difference(&other.0)
    }

    pub fn add(&mut self, other: Grantees) {
        self.0.extend(other.0);
    }

    /// For the store; `docs/disk_format.md`, "The index of shares", has the layout.
    pub fn encode(&self) -> Vec<u8> {
        fn put_name(out: &mut Vec<u8>, kind: u8, name: &str) {
            out.push(kind);
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        let mut out = vec![VERSION];
        for grantee in &self.0 {
            match grantee {
                Grantee::Anyone => out.push(ANYONE),
                Grantee::AuthUser => out.push(AUTH_USER),
                Grantee::Group(name) => put_name(&mut out, GROUP, name),
                Grantee::Name(name) => put_name(&mut out, USER, name),
                Grantee::Account(account) => {
                    out.push(ACCOUNT);
                    out.extend_from_slice(&account.0.to_le_bytes());
                }
            }
        }
        out
    }

    pub fn decode(octets: &[u8]) -> Result<Grantees, MalformedGrantees> {
        let [VERSION, rest @ ..] = octets else { return Err(MalformedGrantees) };
        let mut rest = Rest(rest);
        let mut grantees = BTreeSet::new();
        while !rest.0.is_empty() {
            let [kind] = rest.take()?;
            grantees.insert(match kind {
                ANYONE => Grantee::Anyone,
                AUTH_USER => Grantee::AuthUser,
                GROUP => Grantee::Group(rest.name()?.into()),
                USER => Grantee::Name(rest.name()?.into()),
                ACCOUNT => Grantee::Account(AccountId(u64::from_le_bytes(rest.take()?))),
                _ => return Err(MalformedGrantees),
            });
        }
        Ok(Grantees(grantees))
    }
}

impl FromIterator<Grantee> for Grantees {
    fn from_iter<T: IntoIterator<Item = Grantee>>(grantees: T) -> Grantees {
        Grantees(grantees.into_iter().collect())
    }
}

/// What is left to decode.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MalformedGrantees> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(MalformedGrantees)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn name(&mut self) -> Result<&'a str, MalformedGrantees> {
        let size = u16::from_le_bytes(self.take()?);
        let (name, rest) = self.0.split_at_checked(size.into()).ok_or(MalformedGrantees)?;
        self.0 = rest;
        std::str::from_utf8(name).map_err(|_| MalformedGrantees)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;
    use crate::model::{AccessList, Rights, Subject, rights_stored};

    const OWNER: AccountId = AccountId(9);

    fn list(entries: &[(&str, u64)]) -> Vec<u8> {
        let mut list = AccessList::default();
        for (subject, account) in entries {
            let Subject { negative, identifier } = Subject::parse(subject).unwrap();
            let account = Some(AccountId(*account)).filter(|account| account.0 != 0);
            let subject = Subject { negative, identifier: identifier.numbered(account) };
            list.set(subject, Rights::ALL).unwrap();
        }
        list.encode()
    }

    fn of(lists: &[Vec<u8>]) -> (Grantees, bool) {
        Grantees::of_lists(lists.iter().map(Vec::as_slice), OWNER)
    }

    #[test]
    fn lists_name_grantees() {
        let lists = [
            list(&[("bob", 1), ("carol", 0), ("owner", 0), ("-dave", 4), ("me", 9)]),
            list(&[("robert", 1), ("anyone", 0), ("$staff", 0), ("-authuser", 0)]),
            list(&[("robert", 1), ("anyone", 0), ("$staff", 0), ("-authuser", 0)]),
        ];
        let expected = [
            Grantee::Anyone,
            Grantee::Group("staff".into()),
            Grantee::Name("carol".into()),
            Grantee::Account(AccountId(1)),
        ];
        assert_eq!(of(&lists), (expected.into_iter().collect(), true));
        assert_eq!(of(&[list(&[("owner", 0), ("-anyone", 0)])]), (Grantees::default(), true));
        // What can be read of a list counts.
        let mut cut = list(&[("bob", 1), ("carol", 2)]);
        cut.truncate(cut.len() - 1);
        let bob = [Grantee::Account(AccountId(1))].into_iter().collect();
        assert_eq!(of(&[cut]), (bob, false));
        assert_eq!(of(&[vec![7]]), (Grantees::default(), false));
    }

    #[test]
    fn octets_on_disk() {
        let grantees: Grantees = [
            Grantee::Anyone,
            Grantee::AuthUser,
            Grantee::Group("ab".into()),
            Grantee::Name("b@c".into()),
            Grantee::Account(AccountId(0x0807_0605_0403_0201)),
        ]
        .into_iter()
        .collect();
        let expected: &[u8] = &[
            1, // version
            0, 1, // anyone, authuser
            3, 2, 0, b'a', b'b', // $ab
            4, 3, 0, b'b', b'@', b'c', // b@c
            5, 1, 2, 3, 4, 5, 6, 7, 8,
        ];
        assert_eq!(grantees.encode(), expected);
        assert_eq!(Grantees::decode(expected), Ok(grantees));
        const MALFORMED: &[&[u8]] =
            &[b"", &[2], &[1, 2], &[1, 6], &[1, 5, 0], &[1, 3, 1, 0], &[1, 4, 1, 0, 0xff]];
        for octets in MALFORMED {
            assert_eq!(Grantees::decode(octets), Err(MalformedGrantees), "{octets:?}");
        }
    }

    /// An identifier, and a number that a user may have.
    fn entry() -> impl Strategy<Value = (String, u64)> {
        let name = prop_oneof![
            Just("anyone".to_owned()),
            Just("authuser".to_owned()),
            Just("owner".to_owned()),
            "[$][ab]",
            "[ab]",
        ];
        let sign = prop_oneof![3 => Just(""), 1 => Just("-")];
        (sign, name, 0..4u64).prop_map(|(sign, name, account)| (format!("{sign}{name}"), account))
    }

    proptest! {
        /// Whoever is granted a right is named by a grantee.
        #[test]
        fn nobody_is_forgotten(
            lists in vec(vec(entry(), 0..6), 0..4),
            account in option::of(1..4u64),
            name in "[ab]",
            groups in vec("[ab]", 0..3),
            is_logged_in in any::<bool>(),
        ) {
            let lists: Vec<Vec<u8>> = lists.iter().map(|entries| {
                let entries = entries.iter().map(|(name, account)| (name.as_str(), *account));
                list(&entries.collect::<Vec<_>>())
            }).collect();
            let (account, is_owner) = (account.map(AccountId), false);
            let asker = Asker { is_owner, account, name: &name, groups: &groups, is_logged_in };
            let (grantees, readable) = of(&lists);
            prop_assert!(readable);
            let granted = lists.iter().any(|list| !rights_stored(Some(list), &asker).is_empty());
            let named = Grantee::naming(&asker).any(|grantee| grantees.contains(&grantee));
            prop_assert!(named || !granted);
            prop_assert_eq!(Grantees::decode(&grantees.encode()), Ok(grantees));
        }

        #[test]
        fn any_octets_are_survived(octets in vec(any::<u8>(), 0..40)) {
            if let Ok(grantees) = Grantees::decode(&octets) {
                prop_assert_eq!(Grantees::decode(&grantees.encode()), Ok(grantees));
            }
        }
    }
}
