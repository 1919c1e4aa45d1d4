//! Who may act for whom: the setting `authentication.masters`.
//!
//! A master logs in with its own password and names another account as the one to act for (RFC 4422
//! 3.4.1); from then on the session is that account's.

use super::address::account_address;

/// One line of the setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Master {
    /// Canonical address.
    master: String,
    whom: Whom,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Whom {
    All,
    /// In lower case.
    Domain(String),
    /// Canonical address.
    Account(String),
}

impl Master {
    /// `master=whom`; whom: an address, `@domain`, or `*` for all.
    pub fn parse(text: &str) -> Option<Master> {
        let (master, whom) = text.split_once('=')?;
        let master = account_address(master).ok()?;
        let whom = match (whom, whom.strip_prefix('@')) {
            ("*", _) => Whom::All,
            (_, Some(domain)) => {
                let address = account_address(&format!("x@{domain}")).ok()?;
                Whom::Domain(address.strip_prefix("x@")?.to_owned())
            }
            (address, None) => Whom::Account(account_address(address).ok()?),
        };
        Some(Master { master, whom })
    }

    /// The account that acts: a canonical address.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// The one account that it may act for, a canonical address.
    pub fn account(&self) -> Option<&str> {
        match &self.whom {
            Whom::Account(address) => Some(address),
            Whom::All | Whom::Domain(_) => None,
        }
    }

    /// The domain whose accounts it may act for, in lower case.
    pub fn domain(&self) -> Option<&str> {
        match &self.whom {
            Whom::Domain(domain) => Some(domain),
            Whom::All | Whom::Account(_) => None,
        }
    }

    /// Both are canonical addresses.
    pub(super) fn lets(&self, master: &str, other: &str) -> bool {
        self.master == master
            && match &self.whom {
                Whom::All => true,
                Whom::Domain(domain) => other.rsplit_once('@').is_some_and(|(_, of)| of == domain),
                Whom::Account(address) => address == other,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_act_for_whom_they_may() {
        const CASES: &[(&str, &str, &str, Option<bool>)] = &[
            ("Admin@a.test=*", "admin@a.test", "x@b.test", Some(true)),
            ("admin@a.test=*", "other@a.test", "x@b.test", Some(false)),
            ("admin@a.test=@B.test", "admin@a.test", "x@b.test", Some(true)),
            ("admin@a.test=@b.test", "admin@a.test", "x@c.b.test", Some(false)),
            ("admin@a.test=@b.test", "admin@a.test", "admin@a.test", Some(false)),
            ("admin@a.test=x@b.test", "admin@a.test", "x@b.test", Some(true)),
            ("admin@a.test=x@b.test", "admin@a.test", "y@b.test", Some(false)),
            ("admin@a.test=x@b.test", "x@b.test", "admin@a.test", Some(false)),
            ("admin=*", "", "", None),
            ("admin@a.test", "", "", None),
            ("admin@a.test=", "", "", None),
            ("admin@a.test=@", "", "", None),
        ];
        for (text, master, other, expected) in CASES {
            let parsed = Master::parse(text);
            assert_eq!(parsed.map(|it| it.lets(master, other)), *expected, "{text}");
        }
    }
}
