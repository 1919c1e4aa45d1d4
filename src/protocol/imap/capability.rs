//! The server's capabilities (RFC 3501 7.2.1) as a set: announced by CAPABILITY, requested by
//! ENABLE, required by commands. The names are rows of [`super::table`].

use super::{
    state::State,
    table::{CAPABILITIES, Capability},
    write::push_number,
};
use crate::protocol::sasl::Mechanisms;

/// A set of capabilities. Rendered in the order of the table, whatever the order of insertion.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Capabilities {
    /// A bit for each row.
    rows: u128,
    /// `AUTH=` (RFC 3501 7.2.1).
    mechanisms: Mechanisms,
}

/// What a client is told of the server's capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Announced {
    pub capabilities: Capabilities,
    /// The value of APPENDLIMIT: the most octets of a message (RFC 7889 3).
    pub append_limit: u64,
    /// The value of MESSAGELIMIT (RFC 9738 3); 0 if there is none.
    pub message_limit: u32,
    /// That of SAVELIMIT.
    pub save_limit: u32,
}

/// When a capability is announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offered {
    /// Before login, too: clients such as Python's imaplib ask only once.
    Always,
    BeforeLogin,
    /// Before login, while TLS is possible and not active (RFC 3501 6.2.1).
    WhileInClear,
    /// Before login, while no passwords may be sent (RFC 3501 6.2.3).
    WithoutLogin,
}

/// The row of a capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CapabilityRow {
    pub capability: Capability,
    pub name: &'static str,
    pub offered: Offered,
    /// ENABLE accepts it (RFC 5161 1): it changes what the server sends unasked.
    pub can_be_enabled: bool,
}

const _: () = assert!(CAPABILITIES.len() < 128, "a bit for each");

impl Capabilities {
    pub const NONE: Capabilities = Capabilities { rows: 0, mechanisms: Mechanisms::NONE };
    /// Without mechanisms.
    pub const ALL: Capabilities =
        Capabilities { rows: (1 << CAPABILITIES.len()) - 1, mechanisms: Mechanisms::NONE };

    /// Those of `configured` that a client is offered in its present state. `can_start_tls`:
    /// STARTTLS is possible; `can_login`: passwords may be sent on this connection. Both matter
    /// only before log-in.
    pub fn offered(
        configured: Capabilities,
        state: State,
        can_start_tls: bool,
        can_login: bool,
    ) -> Capabilities {
        let before_login = state == State::NotAuthenticated;
        let offered = |row: &&CapabilityRow| match row.offered {
            Offered::Always => true,
            Offered::BeforeLogin => before_login,
            Offered::WhileInClear => before_login && can_start_tls,
            Offered::WithoutLogin => before_login && !can_login,
        };
        // RFC 7888 5: never both.
        let configured = match configured.contains(Capability::LiteralPlus) {
            true => configured.without(Capability::LiteralMinus),
            false => configured,
        };
        // RFC 6855 6: never both.
        let configured = match configured.contains(Capability::Utf8Accept) {
            true => configured.without(Capability::Utf8Only),
            false => configured,
        };
        let named = CAPABILITIES.iter().filter(offered).map(|row| row.capability);
        named.filter(|&it| configured.contains(it)).collect()
    }

    /// The capability that ENABLE of this name enables; `None` if there is none.
    pub(super) fn that_can_be_enabled(name: &str) -> Option<Capability> {
        let row = CAPABILITIES.iter().find(|row| row.name.eq_ignore_ascii_case(name))?;
        row.can_be_enabled.then_some(row.capability)
    }

    pub fn contains(self, capability: Capability) -> bool {
        self.rows & (1 << capability as u32) != 0
    }

    pub fn insert(&mut self, capability: Capability) {
        self.rows |= 1 << capability as u32;
    }

    pub const fn without(self, capability: Capability) -> Capabilities {
        Capabilities { rows: self.rows & !(1 << capability as u32), ..self }
    }

    pub fn and(self, other: Capabilities) -> Capabilities {
        Capabilities { rows: self.rows & other.rows, ..self }
    }

    /// With what AUTHENTICATE takes.
    pub fn with_mechanisms(self, mechanisms: Mechanisms) -> Capabilities {
        Capabilities { mechanisms, ..self }
    }

    /// Appends the names, a space before each.
    pub(super) fn push(self, out: &mut Vec<u8>) {
        for row in CAPABILITIES.iter().filter(|row| self.contains(row.capability)) {
            out.push(b' ');
            out.extend_from_slice(row.name.as_bytes());
        }
        self.push_mechanisms(out);
    }

    fn push_mechanisms(self, out: &mut Vec<u8>) {
        for mechanism in self.mechanisms.iter() {
            out.extend_from_slice(b" AUTH=");
            out.extend_from_slice(mechanism.name().as_bytes());
        }
    }
}

impl Announced {
    /// Appends the names, a space before each, with the values of those that have one.
    pub(super) fn push(self, out: &mut Vec<u8>) {
        for row in CAPABILITIES.iter().filter(|row| self.capabilities.contains(row.capability)) {
            let value = match row.capability {
                Capability::AppendLimit => Some(append_limit(self.append_limit)),
                Capability::MessageLimit => Some(self.message_limit),
                Capability::SaveLimit => Some(self.save_limit),
                _ => None,
            };
            if value == Some(0) && row.capability != Capability::AppendLimit {
                continue;
            }
            out.push(b' ');
            out.extend_from_slice(row.name.as_bytes());
            if let Some(value) = value {
                out.push(b'=');
                push_number(out, value.into());
            }
        }
        self.capabilities.push_mechanisms(out);
    }
}

/// A limit as APPENDLIMIT tells it: a number of IMAP4rev1 has 32 bits.
pub(super) fn append_limit(octets: u64) -> u32 {
    u32::try_from(octets).unwrap_or(u32::MAX)
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(capabilities: T) -> Capabilities {
        let mut set = Capabilities::NONE;
        capabilities.into_iter().for_each(|capability| set.insert(capability));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::sasl::Mechanism;

    fn told(state: State, can_start_tls: bool, can_login: bool) -> String {
        let mut out = Vec::new();
        let all = Capabilities::ALL;
        let capabilities = Capabilities::offered(all, state, can_start_tls, can_login);
        Announced { capabilities, append_limit: 1_000_000, ..Announced::default() }.push(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn mechanisms_follow_the_other_capabilities() {
        let mut out = Vec::new();
        let idle: Capabilities = [Capability::Idle].into_iter().collect();
        idle.with_mechanisms([Mechanism::Login, Mechanism::Plain].into_iter().collect())
            .push(&mut out);
        assert_eq!(out, b" IDLE AUTH=PLAIN AUTH=LOGIN");
    }

    #[test]
    fn rows_stand_where_their_capability_points() {
        for (index, row) in CAPABILITIES.iter().enumerate() {
            assert_eq!(row.capability as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn passwords_are_never_offered_where_they_are_refused() {
        for can_start_tls in [false, true] {
            let list = told(State::NotAuthenticated, can_start_tls, false);
            assert!(list.contains(" LOGINDISABLED"), "{list}");
            let list = told(State::NotAuthenticated, can_start_tls, true);
            assert!(!list.contains("LOGINDISABLED"), "{list}");
            assert_eq!(list.contains(" STARTTLS"), can_start_tls);
        }
        let list = told(State::Selected, true, true);
        assert!(!list.contains("STARTTLS") && !list.contains("LOGIN"), "{list}");
    }

    /// Clients compare the list with a cached one: its order must not change.
    #[test]
    fn the_list_before_and_after_login() {
        let extensions = [
            "ENABLE",
            "ID",
            "IDLE",
            "NAMESPACE",
            "NOTIFY",
            "INPROGRESS",
            "CHILDREN",
            "SPECIAL-USE",
            "CREATE-SPECIAL-USE",
            "UIDPLUS",
            "MOVE",
            "UNSELECT",
            "CONDSTORE",
            "QRESYNC",
            "ESEARCH",
            "LIST-EXTENDED",
            "LIST-STATUS",
            "STATUS=SIZE",
            "UIDBATCHES",
            "UIDONLY",
            "WITHIN",
            "SAVEDATE",
            "SEARCHRES",
            "PREVIEW",
            "OBJECTID",
            "APPENDLIMIT=1000000",
            "BINARY",
            "MULTIAPPEND",
            "REPLACE",
            "CATENATE",
            "SORT",
            "SORT=DISPLAY",
            "ESORT",
            "PARTIAL",
            "THREAD=ORDEREDSUBJECT",
            "THREAD=REFERENCES",
            "THREAD=REFS",
            "CONTEXT=SEARCH",
            "CONTEXT=SORT",
            "ACL",
            "RIGHTS=kxte",
            "LIST-MYRIGHTS",
            "COMPRESS=DEFLATE",
            "UNAUTHENTICATE",
            "I18NLEVEL=2",
            "LANGUAGE",
            "QUOTA",
            "QUOTASET",
            "QUOTA=RES-STORAGE",
            "QUOTA=RES-MESSAGE",
            "METADATA",
            "METADATA-SERVER",
            "LIST-METADATA",
            "URLAUTH",
            "URL-PARTIAL",
            "URLAUTH=BINARY",
            "UTF8=ACCEPT",
        ]
        .join(" ");
        assert_eq!(
            told(State::NotAuthenticated, true, false),
            format!(" IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR {extensions} STARTTLS LOGINDISABLED")
        );
        let after = format!(" IMAP4rev1 IMAP4rev2 LITERAL+ {extensions}");
        assert_eq!(told(State::Authenticated, true, false), after);
        assert_eq!(told(State::Selected, false, true), after);
    }

    /// RFC 7889 3: a number of 32 bits, whatever is configured.
    #[test]
    fn the_limit_of_append() {
        let capabilities = [Capability::AppendLimit].into_iter().collect();
        for (limit, expected) in [(1_024, "1024"), (1 << 33, "4294967295")] {
            let mut out = Vec::new();
            Announced { capabilities, append_limit: limit, ..Announced::default() }.push(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), format!(" APPENDLIMIT={expected}"));
        }
    }

    /// RFC 9738 3: one of them, if there is a limit.
    #[test]
    fn limits_of_messages() {
        let capabilities = [Capability::MessageLimit, Capability::SaveLimit].into_iter().collect();
        for (message_limit, save_limit, expected) in
            [(0, 0, ""), (1_000, 0, " MESSAGELIMIT=1000"), (0, 2_000, " SAVELIMIT=2000")]
        {
            let mut out = Vec::new();
            Announced { capabilities, append_limit: 0, message_limit, save_limit }.push(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }

    #[test]
    fn what_is_not_configured_is_not_told() {
        let configured = Capabilities::ALL.without(Capability::Idle).without(Capability::StartTls);
        let told = Capabilities::offered(configured, State::NotAuthenticated, true, true);
        assert!(!told.contains(Capability::Idle) && !told.contains(Capability::StartTls));
        assert!(told.contains(Capability::Id));
    }

    /// RFC 7888 5.
    #[test]
    fn one_kind_of_literals_is_told() {
        let told = |configured| Capabilities::offered(configured, State::Selected, true, true);
        let (plus, minus) = (Capability::LiteralPlus, Capability::LiteralMinus);
        let both = told(Capabilities::ALL);
        assert!(both.contains(plus) && !both.contains(minus));
        let one = told(Capabilities::ALL.without(plus));
        assert!(!one.contains(plus) && one.contains(minus));
    }

    /// RFC 6855 6.
    #[test]
    fn utf8_is_accepted_or_the_only_one() {
        let told = |configured| Capabilities::offered(configured, State::Selected, true, true);
        let (accept, only) = (Capability::Utf8Accept, Capability::Utf8Only);
        let both = told(Capabilities::ALL);
        assert!(both.contains(accept) && !both.contains(only));
        let one = told(Capabilities::ALL.without(accept));
        assert!(!one.contains(accept) && one.contains(only));
    }
}
