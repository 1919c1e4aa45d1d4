//! What CAPABILITY tells (RFC 3501 7.2.1).

use super::state::State;

/// The extensions are told before login too: clients such as Python's imaplib ask only once.
macro_rules! extensions {
    () => {
        concat!(
            "ENABLE ID IDLE NAMESPACE CHILDREN SPECIAL-USE CREATE-SPECIAL-USE UIDPLUS MOVE ",
            "UNSELECT CONDSTORE ESEARCH LIST-EXTENDED LIST-STATUS STATUS=SIZE"
        )
    };
}

macro_rules! before_login {
    ($more:literal) => {
        concat!("IMAP4rev1 LITERAL+ SASL-IR ", extensions!(), " ", $more)
    };
}

/// What CAPABILITY tells (RFC 3501 7.2.1). `can_start_tls`: STARTTLS is possible; `can_login`:
/// passwords may be sent on this connection, else LOGINDISABLED (RFC 3501 6.2.3). Both count before
/// login only.
pub fn capability(state: State, can_start_tls: bool, can_login: bool) -> &'static str {
    match (state, can_start_tls, can_login) {
        (State::NotAuthenticated, false, false) => before_login!("LOGINDISABLED"),
        (State::NotAuthenticated, true, false) => before_login!("STARTTLS LOGINDISABLED"),
        (State::NotAuthenticated, false, true) => before_login!("AUTH=PLAIN AUTH=LOGIN"),
        (State::NotAuthenticated, true, true) => before_login!("STARTTLS AUTH=PLAIN AUTH=LOGIN"),
        (State::Authenticated | State::Selected, ..) => {
            concat!("IMAP4rev1 LITERAL+ ", extensions!())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_never_offers_passwords_where_they_are_refused() {
        for can_start_tls in [false, true] {
            let list = capability(State::NotAuthenticated, can_start_tls, false);
            assert!(list.contains(" LOGINDISABLED") && !list.contains("AUTH="), "{list}");
            let list = capability(State::NotAuthenticated, can_start_tls, true);
            assert!(!list.contains("LOGINDISABLED"), "{list}");
            assert!(list.ends_with(" AUTH=PLAIN AUTH=LOGIN"), "{list}");
            assert_eq!(list.contains(" STARTTLS"), can_start_tls);
        }
        let list = capability(State::Selected, true, true);
        assert!(!list.contains("STARTTLS") && !list.contains("AUTH="), "{list}");
    }
}
