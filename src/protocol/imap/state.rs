//! Which command is legal in which state (RFC 3501 3), and what each state can do.

use super::command::CommandBody;

/// RFC 3501 3, without the logout state, in which no command is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    NotAuthenticated,
    Authenticated,
    Selected,
}

/// The row of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandRow {
    /// As the RFC writes it; also the label of its metrics.
    pub name: &'static str,
    pub not_authenticated: bool,
    pub authenticated: bool,
    pub selected: bool,
}

impl CommandRow {
    pub fn allowed(&self, state: State) -> bool {
        match state {
            State::NotAuthenticated => self.not_authenticated,
            State::Authenticated => self.authenticated,
            State::Selected => self.selected,
        }
    }
}

impl CommandBody<'_> {
    /// The command's row: its name and the states that allow it.
    pub fn row(&self) -> &'static CommandRow {
        todo!()
    }
}

/// What CAPABILITY tells before login. `can_start_tls`: STARTTLS is possible; `can_login`: passwords
/// may be sent on this connection (else LOGINDISABLED, RFC 3501 6.2.3).
pub fn capability(_state: State, _can_start_tls: bool, _can_login: bool) -> &'static str {
    todo!()
}
