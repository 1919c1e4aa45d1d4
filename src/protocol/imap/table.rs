//! The tables of commands and of capabilities: one row each; there is no other complete list.
//!
//! The row of a command is read twice. Here it becomes a [`CommandKind`], a variant of
//! [`CommandBody`], a [`CommandRow`] and an arm of the parser; in `service::imap` it becomes an arm
//! that calls the handler of the row's value. So a command without a parser or a handler does not
//! compile. A new command is a row and a file on each side.

use super::{
    access,
    arguments::{Arguments, Streams},
    authentication,
    capability::{CapabilityRow, Offered},
    cursor::{Cursor, Parsed},
    mailbox, message, metadata, quota, session,
    state::{State, States},
    urls,
};

macro_rules! capabilities {
    ($($capability:ident $name:literal $offered:ident $($can_be_enabled:ident)?;)*) => {
        /// A capability of the server (RFC 3501 7.2.1), in the order of announcement.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Capability {
            $($capability,)*
        }

        /// Every capability, by [`Capability`].
        pub(super) static CAPABILITIES: &[CapabilityRow] = &[
            $(CapabilityRow {
                capability: Capability::$capability,
                name: $name,
                offered: Offered::$offered,
                can_be_enabled: !stringify!($($can_be_enabled)?).is_empty(),
            },)*
        ];
    };
}

// The name, when it is announced (an `Offered`), and whether ENABLE accepts it.
capabilities! {
    Imap4Rev1        "IMAP4rev1"          Always;
    Imap4Rev2        "IMAP4rev2"          Always can_be_enabled; // RFC 9051
    LiteralPlus      "LITERAL+"           Always; // RFC 7888
    LiteralMinus     "LITERAL-"           Always; // RFC 7888 5, in place of LITERAL+
    SaslIr           "SASL-IR"            BeforeLogin; // RFC 4959
    Enable           "ENABLE"             Always; // RFC 5161
    Id               "ID"                 Always; // RFC 2971
    Idle             "IDLE"               Always; // RFC 2177
    Namespace        "NAMESPACE"          Always; // RFC 2342
    Notify           "NOTIFY"             Always; // RFC 5465
    InProgress       "INPROGRESS"         Always; // RFC 9585
    Children         "CHILDREN"           Always; // RFC 3348
    SpecialUse       "SPECIAL-USE"        Always; // RFC 6154
    CreateSpecialUse "CREATE-SPECIAL-USE" Always; // RFC 6154
    UidPlus          "UIDPLUS"            Always; // RFC 4315
    Move             "MOVE"               Always; // RFC 6851
    Unselect         "UNSELECT"           Always; // RFC 3691
    CondStore        "CONDSTORE"          Always can_be_enabled; // RFC 7162
    QResync          "QRESYNC"            Always can_be_enabled; // RFC 7162
    ESearch          "ESEARCH"            Always; // RFC 4731
    ListExtended     "LIST-EXTENDED"      Always; // RFC 5258
    ListStatus       "LIST-STATUS"        Always; // RFC 5819
    StatusSize       "STATUS=SIZE"        Always; // RFC 8438
    UidBatches       "UIDBATCHES"         Always; // RFC 10022
    UidOnly          "UIDONLY"            Always can_be_enabled; // RFC 9586
    Within           "WITHIN"             Always; // RFC 5032
    SaveDate         "SAVEDATE"           Always; // RFC 8514
    SearchRes        "SEARCHRES"          Always; // RFC 5182
    Preview          "PREVIEW"            Always; // RFC 8970
    ObjectId         "OBJECTID"           Always; // RFC 8474
    AppendLimit      "APPENDLIMIT"        Always; // RFC 7889
    Binary           "BINARY"             Always; // RFC 3516
    MultiAppend      "MULTIAPPEND"        Always; // RFC 3502
    Replace          "REPLACE"            Always; // RFC 8508
    Catenate         "CATENATE"           Always; // RFC 4469
    Sort             "SORT"               Always; // RFC 5256
    SortDisplay      "SORT=DISPLAY"       Always; // RFC 5957
    ESort            "ESORT"              Always; // RFC 5267
    Partial          "PARTIAL"            Always; // RFC 9394
    Thread           "THREAD=ORDEREDSUBJECT" Always; // RFC 5256
    ThreadReferences "THREAD=REFERENCES"  Always; // RFC 5256
    ThreadRefs       "THREAD=REFS"        Always; // draft-ietf-morg-inthread-01
    ContextSearch    "CONTEXT=SEARCH"     Always; // RFC 5267
    ContextSort      "CONTEXT=SORT"       Always; // RFC 5267
    Acl              "ACL"                Always; // RFC 4314
    RightsKxte       "RIGHTS=kxte"        Always; // RFC 4314
    ListMyRights     "LIST-MYRIGHTS"      Always; // RFC 8440
    CompressDeflate  "COMPRESS=DEFLATE"   Always; // RFC 4978
    Unauthenticate   "UNAUTHENTICATE"     Always; // RFC 8437
    I18nLevel        "I18NLEVEL=2"        Always; // RFC 5255
    Language         "LANGUAGE"           Always; // RFC 5255
    Quota            "QUOTA"              Always; // RFC 9208
    QuotaSet         "QUOTASET"           Always; // RFC 9208
    QuotaStorage     "QUOTA=RES-STORAGE"  Always; // RFC 9208
    QuotaMessage     "QUOTA=RES-MESSAGE"  Always; // RFC 9208
    Metadata         "METADATA"           Always can_be_enabled; // RFC 5464
    MetadataServer   "METADATA-SERVER"    Always can_be_enabled; // RFC 5464
    ListMetadata     "LIST-METADATA"      Always; // RFC 9590
    MessageLimit     "MESSAGELIMIT"       Always; // RFC 9738, if there is one
    SaveLimit        "SAVELIMIT"          Always; // RFC 9738, in place of MESSAGELIMIT
    UrlAuth          "URLAUTH"            Always; // RFC 4467
    UrlPartial       "URL-PARTIAL"        Always; // RFC 5550 5.7.1
    UrlAuthBinary    "URLAUTH=BINARY"     Always; // RFC 5524
    Utf8Accept       "UTF8=ACCEPT"        Always can_be_enabled; // RFC 6855
    Utf8Only         "UTF8=ONLY"          Always; // RFC 6855 6, in place of UTF8=ACCEPT
    StartTls         "STARTTLS"           WhileInClear;
    LoginDisabled    "LOGINDISABLED"      WithoutLogin;
}

/// Which changes by other sessions may be reported before the tagged response of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Updates {
    /// The command leaves or changes the selected state itself.
    None,
    /// All but EXPUNGE: the client may be using sequence numbers (RFC 3501 7.4.1).
    Flags { uid: bool },
    /// Everything. `uid`: FETCH responses include the UID, as answers to a UID command must (RFC
    /// 3501 6.4.8).
    All { uid: bool },
}

/// The updates of a row, whatever the form of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tells {
    Nothing,
    All,
    /// Everything after a `UID` form without message numbers; otherwise all but EXPUNGE. RFC 7162
    /// 3.2.10.2: `UID SEARCH 1:3` is not interrupted by it either.
    ByNumbers,
}

/// Passes the rows, by family, to the macro `$read`. A row:
///
/// * the file and the type of its value, which is also the name of its [`CommandKind`] and of its
///   variant of [`CommandBody`];
/// * its name in capitals, also the label of its metrics;
/// * `Plain`, or `Uid` if it has a `UID` form as well;
/// * the [`States`] in which it is allowed;
/// * the updates that may be sent after it: a [`Tells`];
/// * the [`Capability`] that it belongs to.
macro_rules! command_table {
    ($read:ident) => {
        $read! {
    session {
        capability::Capability         [b"CAPABILITY"   Plain Any              All      Imap4Rev1];
        noop::Noop                     [b"NOOP"         Plain Any              All      Imap4Rev1];
        logout::Logout                 [b"LOGOUT"       Plain Any              Nothing  Imap4Rev1];
        id::Id<'a>                     [b"ID"           Plain Any              All      Id];
        enable::Enable                 [b"ENABLE"       Plain LoggedIn         All      Enable];
        namespace::Namespace           [b"NAMESPACE"    Plain LoggedIn         All      Namespace];
        idle::Idle                     [b"IDLE"         Plain LoggedIn         All      Idle];
        notify::Notify<'a>             [b"NOTIFY"       Plain LoggedIn         All      Notify];
        compress::Compress             [b"COMPRESS"     Plain Any             All CompressDeflate];
        language::Language             [b"LANGUAGE"     Plain Any              All      Language];
        comparator::Comparator         [b"COMPARATOR"   Plain LoggedIn        All      I18nLevel];
        unauthenticate::Unauthenticate [b"UNAUTHENTICATE" Plain LoggedIn Nothing Unauthenticate];
    }
    authentication {
        start_tls::StartTls            [b"STARTTLS"     Plain NotAuthenticated Nothing  StartTls];
        authenticate::Authenticate<'a> [b"AUTHENTICATE" Plain NotAuthenticated Nothing  Imap4Rev1];
        login::Login<'a>               [b"LOGIN"        Plain NotAuthenticated Nothing  Imap4Rev1];
    }
    mailbox {
        select::Select<'a>             [b"SELECT"       Plain LoggedIn         Nothing  Imap4Rev1];
        select::Examine<'a>            [b"EXAMINE"      Plain LoggedIn         Nothing  Imap4Rev1];
        create::Create<'a>             [b"CREATE"       Plain LoggedIn         All      Imap4Rev1];
        delete::Delete<'a>             [b"DELETE"       Plain LoggedIn         All      Imap4Rev1];
        rename::Rename<'a>             [b"RENAME"       Plain LoggedIn         All      Imap4Rev1];
        subscribe::Subscribe<'a>       [b"SUBSCRIBE"    Plain LoggedIn         All      Imap4Rev1];
        subscribe::Unsubscribe<'a>     [b"UNSUBSCRIBE"  Plain LoggedIn         All      Imap4Rev1];
        list::List<'a>                 [b"LIST"         Plain LoggedIn         All      Imap4Rev1];
        lsub::Lsub<'a>                 [b"LSUB"         Plain LoggedIn         All      Imap4Rev1];
        status::Status<'a>             [b"STATUS"       Plain LoggedIn         All      Imap4Rev1];
        append::Append<'a>             [b"APPEND"       Plain LoggedIn         All      Imap4Rev1];
        check::Check                   [b"CHECK"        Plain Selected         All      Imap4Rev1];
        close::Close                   [b"CLOSE"        Plain Selected         Nothing  Imap4Rev1];
        close::Unselect                [b"UNSELECT"     Plain Selected         Nothing  Unselect];
    }
    access {
        set_acl::SetAcl<'a>            [b"SETACL"       Plain LoggedIn         All      Acl];
        delete_acl::DeleteAcl<'a>      [b"DELETEACL"    Plain LoggedIn         All      Acl];
        get_acl::GetAcl<'a>            [b"GETACL"       Plain LoggedIn         All      Acl];
        list_rights::ListRights<'a>    [b"LISTRIGHTS"   Plain LoggedIn         All      Acl];
        my_rights::MyRights<'a>        [b"MYRIGHTS"     Plain LoggedIn         All      Acl];
    }
    quota {
        get_quota::GetQuota<'a>        [b"GETQUOTA"     Plain LoggedIn         All      Quota];
        get_quota_root::GetQuotaRoot<'a> [b"GETQUOTAROOT" Plain LoggedIn       All      Quota];
        set_quota::SetQuota<'a>        [b"SETQUOTA"     Plain LoggedIn         All      QuotaSet];
    }
    metadata {
        get_metadata::GetMetadata<'a>  [b"GETMETADATA"  Plain LoggedIn         All      Metadata];
        set_metadata::SetMetadata<'a>  [b"SETMETADATA"  Plain LoggedIn         All      Metadata];
    }
    urls {
        gen_url_auth::GenUrlAuth<'a>   [b"GENURLAUTH"   Plain LoggedIn         All      UrlAuth];
        reset_key::ResetKey<'a>        [b"RESETKEY"     Plain LoggedIn         All      UrlAuth];
        url_fetch::UrlFetch<'a>        [b"URLFETCH"     Plain LoggedIn         All      UrlAuth];
    }
    message {
        expunge::Expunge               [b"EXPUNGE"      Uid   Selected         All      Imap4Rev1];
        search::Search<'a>             [b"SEARCH"       Uid   Selected         ByNumbers Imap4Rev1];
        sort::Sort<'a>                 [b"SORT"         Uid   Selected         ByNumbers Sort];
        cancel_update::CancelUpdate<'a> [b"CANCELUPDATE" Plain Selected        All ContextSearch];
        thread::Thread<'a>             [b"THREAD"       Uid   Selected         ByNumbers Thread];
        fetch::Fetch<'a>               [b"FETCH"        Uid   Selected         ByNumbers Imap4Rev1];
        store::Store<'a>               [b"STORE"        Uid   Selected         ByNumbers Imap4Rev1];
        uid_batches::UidBatches        [b"UIDBATCHES"   Plain Selected         All      UidBatches];
        copy::Copy<'a>                 [b"COPY"         Uid   Selected         All      Imap4Rev1];
        copy::Move<'a>                 [b"MOVE"         Uid   Selected         All      Move];
        replace::Replace<'a>           [b"REPLACE"      Uid   Selected         All      Replace];
    }
        }
    };
}
pub(crate) use command_table;

macro_rules! commands {
    ($($family:ident { $(
        $file:ident::$kind:ident $(<$life:lifetime>)?
        [$name:literal $form:ident $states:ident $tells:ident $needs:ident];
    )* })*) => {
        /// The commands; each is an index of [`COMMANDS`]. `UID` forms are the same command.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum CommandKind {
            $($($kind,)*)*
        }

        /// What a command asks for.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum CommandBody<'a> {
            $($($kind($family::$file::$kind $(<$life>)?),)*)*
        }

        /// Every command, by [`CommandKind`].
        pub static COMMANDS: &[CommandRow] = &[
            $($(CommandRow {
                kind: CommandKind::$kind,
                name: as_text($name),
                states: States::$states,
                tells: Tells::$tells,
                needs: Capability::$needs,
                streams: $family::$file::$kind::streams,
            },)*)*
        ];

        impl CommandKind {
            /// The command with this name and form.
            pub(super) fn named(name: &[u8], uid: bool) -> Option<CommandKind> {
                Some(match name {
                    $($($name if !uid || Form::$form.has_uid() => CommandKind::$kind,)*)*
                    _ => return None,
                })
            }
        }

        impl<'a> CommandBody<'a> {
            /// Parses the arguments after the name of a command; `None` if there is no command with
            /// this name and form.
            pub(super) fn parse(
                name: &[u8],
                uid: bool,
                cursor: &mut Cursor<'a>,
            ) -> Option<Parsed<CommandBody<'a>>> {
                Some(match name {
                    $($($name if !uid || Form::$form.has_uid() => {
                        $family::$file::$kind::parse(cursor, uid).map(CommandBody::$kind)
                    })*)*
                    _ => return None,
                })
            }

            pub fn kind(&self) -> CommandKind {
                match self {
                    $($(CommandBody::$kind(_) => CommandKind::$kind,)*)*
                }
            }

            /// Whether it was the `UID` form.
            fn uid(&self) -> bool {
                match self {
                    $($(CommandBody::$kind(value) => value.uid(),)*)*
                }
            }

            /// Whether it is, or the answer to it would be, about message numbers.
            pub fn uses_numbers(&self) -> bool {
                match self {
                    $($(CommandBody::$kind(value) => value.uses_numbers(),)*)*
                }
            }
        }
    };
}
command_table!(commands);

/// The forms a command has.
enum Form {
    Plain,
    /// Also with `UID` before its name (RFC 3501 6.4.8).
    Uid,
}

impl Form {
    const fn has_uid(self) -> bool {
        matches!(self, Form::Uid)
    }
}

/// The row of a command.
#[derive(Clone, Copy, Debug)]
pub struct CommandRow {
    pub kind: CommandKind,
    /// As the RFC writes it; also the label of its metrics.
    pub name: &'static str,
    states: States,
    tells: Tells,
    /// The command exists only if this is offered.
    pub needs: Capability,
    pub(super) streams: Streams,
}

impl CommandRow {
    pub fn allowed(&self, state: State) -> bool {
        self.states.contain(state)
    }

    /// Text of the `BAD` when it is not allowed.
    pub fn refusal(&self, state: State) -> &'static str {
        self.states.refusal(state)
    }
}

impl CommandKind {
    pub fn row(self) -> &'static CommandRow {
        &COMMANDS[self as usize]
    }
}

impl CommandBody<'_> {
    pub fn row(&self) -> &'static CommandRow {
        self.kind().row()
    }

    pub fn updates(&self) -> Updates {
        let uid = self.uid();
        match self.row().tells {
            Tells::Nothing => Updates::None,
            Tells::ByNumbers if self.uses_numbers() => Updates::Flags { uid },
            Tells::All | Tells::ByNumbers => Updates::All { uid },
        }
    }
}

/// The rows have names as octets, since the parser compares octets.
#[allow(clippy::panic)] // when compiled, if at all
const fn as_text(name: &'static [u8]) -> &'static str {
    match std::str::from_utf8(name) {
        Ok(name) => name,
        Err(_) => panic!("a command's name is ASCII"),
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

    /// RFC 9586 3.2, 3.6.
    #[test]
    fn message_numbers() {
        const CASES: &[(&str, bool)] = &[
            ("FETCH 1 FLAGS", true),
            ("UID FETCH 1 FLAGS", false),
            ("STORE 1 FLAGS ()", true),
            ("COPY 1 x", true),
            ("UID MOVE 1 x", false),
            ("MOVE 1 x", true),
            ("EXPUNGE", false),
            ("SEARCH ALL", true),
            ("UID SEARCH UID 1", false),
            ("UID SEARCH OR SEEN NOT (UID 1 2)", true),
            ("UID SEARCH $ SMALLER 4096", false),
            ("SELECT x (QRESYNC (1 1 1:9))", false),
            ("EXAMINE x (QRESYNC (1 1 1:9 (1 2)))", true),
        ];
        for &(line, expected) in CASES {
            let frame = format!("a {line}\r\n");
            let command = super::super::parse(frame.as_bytes()).expect(line);
            assert_eq!(command.body.uses_numbers(), expected, "{line}");
        }
    }

    #[test]
    fn updates() {
        const CASES: &[(&str, Updates)] = &[
            ("a NOOP\r\n", Updates::All { uid: false }),
            ("a SELECT x\r\n", Updates::None),
            ("a FETCH 1 FLAGS\r\n", Updates::Flags { uid: false }),
            ("a UID FETCH 1 FLAGS\r\n", Updates::All { uid: true }),
            ("a STORE 1 FLAGS x\r\n", Updates::Flags { uid: false }),
            ("a UID SEARCH ALL\r\n", Updates::All { uid: true }),
            ("a UID SEARCH NOT 1:3\r\n", Updates::Flags { uid: true }),
            ("a UID SORT (DATE) UTF-8 2\r\n", Updates::Flags { uid: true }),
            ("a UID THREAD REFS UTF-8 UID 2\r\n", Updates::All { uid: true }),
            ("a EXPUNGE\r\n", Updates::All { uid: false }),
            ("a UID EXPUNGE 1\r\n", Updates::All { uid: true }),
            ("a UID MOVE 1 x\r\n", Updates::All { uid: true }),
        ];
        for &(frame, expected) in CASES {
            let command = super::super::parse(frame.as_bytes()).expect(frame);
            assert_eq!(command.body.updates(), expected, "{frame}");
        }
    }
}
