//! The states of a session (RFC 3501 3), and which of them a command is legal in.

/// RFC 3501 3, without the logout state, in which no command is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    NotAuthenticated,
    Authenticated,
    Selected,
}

/// In which states a command is allowed: the sections of RFC 3501 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum States {
    /// 6.1
    Any,
    /// 6.2
    NotAuthenticated,
    /// 6.3: authenticated or selected
    LoggedIn,
    /// 6.4
    Selected,
}

impl States {
    pub(super) fn contain(self, state: State) -> bool {
        match self {
            States::Any => true,
            States::NotAuthenticated => state == State::NotAuthenticated,
            States::LoggedIn => state != State::NotAuthenticated,
            States::Selected => state == State::Selected,
        }
    }

    /// Text of the `BAD` when it is not allowed.
    pub(super) fn refusal(self, state: State) -> &'static str {
        match (self, state) {
            (States::NotAuthenticated, _) => "already logged in",
            (_, State::NotAuthenticated) => "log in first",
            _ => "select a mailbox first",
        }
    }
}
