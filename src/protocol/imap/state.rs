//! Which command is legal in which state (RFC 3501 3), and what each state is told it can do.
//!
//! One table, no logic: `service::imap` looks a command up before running it, and names its metrics
//! by it.

use super::command::CommandBody;

/// RFC 3501 3, without the logout state, in which no command is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    NotAuthenticated,
    Authenticated,
    Selected,
}

/// The commands; each is an index of [`COMMANDS`]. `UID` forms are the same command.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CommandKind {
    Capability,
    Noop,
    Logout,
    Id,
    StartTls,
    Authenticate,
    Login,
    Enable,
    Select,
    Examine,
    Create,
    Delete,
    Rename,
    Subscribe,
    Unsubscribe,
    List,
    Lsub,
    Namespace,
    Status,
    Append,
    Idle,
    Check,
    Close,
    Unselect,
    Expunge,
    Search,
    Fetch,
    Store,
    Copy,
    Move,
}

/// The row of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommandRow {
    pub kind: CommandKind,
    /// As the RFC writes it; also the label of its metrics.
    pub name: &'static str,
    states: States,
}

/// In which states a command is allowed: the sections of RFC 3501 6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum States {
    /// 6.1
    Any,
    /// 6.2
    NotAuthenticated,
    /// 6.3: authenticated or selected
    LoggedIn,
    /// 6.4
    Selected,
}

impl CommandRow {
    const fn new(kind: CommandKind, name: &'static str, states: States) -> CommandRow {
        CommandRow { kind, name, states }
    }

    pub fn allowed(&self, state: State) -> bool {
        match self.states {
            States::Any => true,
            States::NotAuthenticated => state == State::NotAuthenticated,
            States::LoggedIn => state != State::NotAuthenticated,
            States::Selected => state == State::Selected,
        }
    }

    /// Text of the `BAD` when it is not allowed.
    pub fn refusal(&self, state: State) -> &'static str {
        match (self.states, state) {
            (States::NotAuthenticated, _) => "already logged in",
            (_, State::NotAuthenticated) => "log in first",
            _ => "select a mailbox first",
        }
    }
}

/// Every command, by [`CommandKind`].
pub static COMMANDS: [CommandRow; 30] = {
    use CommandKind as Kind;
    use States::{Any, LoggedIn, NotAuthenticated, Selected};
    [
        CommandRow::new(Kind::Capability, "CAPABILITY", Any),
        CommandRow::new(Kind::Noop, "NOOP", Any),
        CommandRow::new(Kind::Logout, "LOGOUT", Any),
        CommandRow::new(Kind::Id, "ID", Any), // RFC 2971 3.1
        CommandRow::new(Kind::StartTls, "STARTTLS", NotAuthenticated),
        CommandRow::new(Kind::Authenticate, "AUTHENTICATE", NotAuthenticated),
        CommandRow::new(Kind::Login, "LOGIN", NotAuthenticated),
        CommandRow::new(Kind::Enable, "ENABLE", LoggedIn), // RFC 5161 3.1
        CommandRow::new(Kind::Select, "SELECT", LoggedIn),
        CommandRow::new(Kind::Examine, "EXAMINE", LoggedIn),
        CommandRow::new(Kind::Create, "CREATE", LoggedIn),
        CommandRow::new(Kind::Delete, "DELETE", LoggedIn),
        CommandRow::new(Kind::Rename, "RENAME", LoggedIn),
        CommandRow::new(Kind::Subscribe, "SUBSCRIBE", LoggedIn),
        CommandRow::new(Kind::Unsubscribe, "UNSUBSCRIBE", LoggedIn),
        CommandRow::new(Kind::List, "LIST", LoggedIn),
        CommandRow::new(Kind::Lsub, "LSUB", LoggedIn),
        CommandRow::new(Kind::Namespace, "NAMESPACE", LoggedIn), // RFC 2342 5
        CommandRow::new(Kind::Status, "STATUS", LoggedIn),
        CommandRow::new(Kind::Append, "APPEND", LoggedIn),
        CommandRow::new(Kind::Idle, "IDLE", LoggedIn), // RFC 2177 3
        CommandRow::new(Kind::Check, "CHECK", Selected),
        CommandRow::new(Kind::Close, "CLOSE", Selected),
        CommandRow::new(Kind::Unselect, "UNSELECT", Selected), // RFC 3691 2
        CommandRow::new(Kind::Expunge, "EXPUNGE", Selected),
        CommandRow::new(Kind::Search, "SEARCH", Selected),
        CommandRow::new(Kind::Fetch, "FETCH", Selected),
        CommandRow::new(Kind::Store, "STORE", Selected),
        CommandRow::new(Kind::Copy, "COPY", Selected),
        CommandRow::new(Kind::Move, "MOVE", Selected), // RFC 6851 3.1
    ]
};

impl CommandKind {
    pub fn row(self) -> &'static CommandRow {
        &COMMANDS[self as usize]
    }
}

impl CommandBody<'_> {
    pub fn kind(&self) -> CommandKind {
        match self {
            CommandBody::Capability => CommandKind::Capability,
            CommandBody::Noop => CommandKind::Noop,
            CommandBody::Logout => CommandKind::Logout,
            CommandBody::Id(_) => CommandKind::Id,
            CommandBody::StartTls => CommandKind::StartTls,
            CommandBody::Authenticate { .. } => CommandKind::Authenticate,
            CommandBody::Login { .. } => CommandKind::Login,
            CommandBody::Enable(_) => CommandKind::Enable,
            CommandBody::Select { .. } => CommandKind::Select,
            CommandBody::Examine { .. } => CommandKind::Examine,
            CommandBody::Create { .. } => CommandKind::Create,
            CommandBody::Delete { .. } => CommandKind::Delete,
            CommandBody::Rename { .. } => CommandKind::Rename,
            CommandBody::Subscribe { .. } => CommandKind::Subscribe,
            CommandBody::Unsubscribe { .. } => CommandKind::Unsubscribe,
            CommandBody::List(_) => CommandKind::List,
            CommandBody::Lsub { .. } => CommandKind::Lsub,
            CommandBody::Namespace => CommandKind::Namespace,
            CommandBody::Status { .. } => CommandKind::Status,
            CommandBody::Append(_) => CommandKind::Append,
            CommandBody::Idle => CommandKind::Idle,
            CommandBody::Check => CommandKind::Check,
            CommandBody::Close => CommandKind::Close,
            CommandBody::Unselect => CommandKind::Unselect,
            CommandBody::Expunge { .. } => CommandKind::Expunge,
            CommandBody::Search(_) => CommandKind::Search,
            CommandBody::Fetch(_) => CommandKind::Fetch,
            CommandBody::Store(_) => CommandKind::Store,
            CommandBody::Copy { .. } => CommandKind::Copy,
            CommandBody::Move { .. } => CommandKind::Move,
        }
    }

    /// The command's row: its name and the states that allow it.
    pub fn row(&self) -> &'static CommandRow {
        self.kind().row()
    }
}

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
    fn rows_stand_where_their_kind_points() {
        for (index, row) in COMMANDS.iter().enumerate() {
            assert_eq!(row.kind as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn states() {
        use State::{Authenticated, NotAuthenticated, Selected};
        const CASES: &[(CommandKind, [bool; 3])] = &[
            (CommandKind::Noop, [true, true, true]),
            (CommandKind::Id, [true, true, true]),
            (CommandKind::Login, [true, false, false]),
            (CommandKind::StartTls, [true, false, false]),
            (CommandKind::Select, [false, true, true]),
            (CommandKind::Append, [false, true, true]),
            (CommandKind::Idle, [false, true, true]),
            (CommandKind::Fetch, [false, false, true]),
            (CommandKind::Unselect, [false, false, true]),
        ];
        for &(kind, expected) in CASES {
            let row = kind.row();
            let allowed =
                [NotAuthenticated, Authenticated, Selected].map(|state| row.allowed(state));
            assert_eq!(allowed, expected, "{}", row.name);
        }
        assert_eq!(CommandKind::Login.row().refusal(Selected), "already logged in");
        assert_eq!(CommandKind::Fetch.row().refusal(NotAuthenticated), "log in first");
        assert_eq!(CommandKind::Fetch.row().refusal(Authenticated), "select a mailbox first");
    }

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
