//! Commands of a client as values (RFC 3501 9 and the extensions we offer).
//!
//! Made by [`super::parse`], taken apart by `service::imap`. Everything borrows the command's bytes
//! in the connection's buffer; a string is owned only where a quoted string had escapes in it. What
//! outlives an await on the connection is copied by the service, visibly.
//!
//! Invariants: nothing here is deeper than [`super::Limits`] allows, so dropping and walking a value
//! by recursion is safe; flags and keywords are ASCII; numbers of a [`SequenceSet`] are not 0.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{name::MailboxName, sequence::SequenceSet};
use crate::model::{FlagAction, Flags, ModSeq, SpecialUse, Timestamp};

/// A string of the client: any octets but NUL (RFC 3501 4.3).
pub type Text<'a> = Cow<'a, [u8]>;

/// A complete command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command<'a> {
    pub tag: &'a str,
    pub body: CommandBody<'a>,
}

/// What a command asks for. `uid` is true for its `UID` form (RFC 3501 6.4.8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandBody<'a> {
    Capability,
    Noop,
    Logout,
    /// RFC 2971 3.1: what the client says of itself; empty for `NIL`.
    Id(Vec<(Text<'a>, Option<Text<'a>>)>),
    StartTls,
    /// RFC 3501 6.2.2. `initial_response` is still base64; empty for `=` (RFC 4959 3).
    Authenticate {
        mechanism: &'a str,
        initial_response: Option<&'a [u8]>,
    },
    Login {
        user: Text<'a>,
        password: Text<'a>,
    },
    /// RFC 5161 3.1: names of extensions, as sent.
    Enable(Vec<&'a str>),
    /// `condstore`: the select parameter of RFC 7162 3.1.8.
    Select {
        mailbox: MailboxName<'a>,
        condstore: bool,
    },
    Examine {
        mailbox: MailboxName<'a>,
        condstore: bool,
    },
    /// `special_use`: the `USE` parameter of RFC 6154 3; `unknown_use`: it had an attribute that we
    /// do not know, which is a `NO [USEATTR]`.
    Create {
        mailbox: MailboxName<'a>,
        special_use: Vec<SpecialUse>,
        unknown_use: bool,
    },
    Delete {
        mailbox: MailboxName<'a>,
    },
    Rename {
        source: MailboxName<'a>,
        target: MailboxName<'a>,
    },
    Subscribe {
        mailbox: MailboxName<'a>,
    },
    Unsubscribe {
        mailbox: MailboxName<'a>,
    },
    List(List<'a>),
    Lsub {
        reference: MailboxName<'a>,
        pattern: MailboxName<'a>,
    },
    Namespace,
    Status {
        mailbox: MailboxName<'a>,
        items: StatusItems,
    },
    /// The message literal is not part of the value: see [`super::Frame::Append`].
    Append(Append<'a>),
    /// RFC 2177. The `DONE` line is read by [`super::Framer::line`].
    Idle,
    Check,
    Close,
    Unselect,
    /// `uids` for `UID EXPUNGE` (RFC 4315 2.1).
    Expunge {
        uids: Option<SequenceSet>,
    },
    Search(Search<'a>),
    Fetch(Fetch<'a>),
    Store(Store<'a>),
    Copy {
        uid: bool,
        set: SequenceSet,
        mailbox: MailboxName<'a>,
    },
    /// RFC 6851.
    Move {
        uid: bool,
        set: SequenceSet,
        mailbox: MailboxName<'a>,
    },
}

/// Flags named by a client. `\Recent` is never among them: no client can alter it (RFC 3501 2.3.2).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct FlagList<'a> {
    pub system: Flags,
    /// As sent, each once (compared without case).
    pub keywords: Vec<&'a str>,
}

/// RFC 3501 6.3.11, all but the message itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Append<'a> {
    pub mailbox: MailboxName<'a>,
    pub flags: FlagList<'a>,
    pub internal_date: Option<Timestamp>,
}

/// LIST, plain (RFC 3501 6.3.8) or extended (RFC 5258 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<'a> {
    pub selection: ListSelection,
    pub reference: MailboxName<'a>,
    /// One or more, still with `*` and `%`; [`MailboxName::to_utf8`] keeps wildcards as they are.
    pub patterns: Vec<MailboxName<'a>>,
    pub returns: ListReturn,
    /// Any syntax of RFC 5258 was used: then an empty pattern is no question for the separator.
    pub extended: bool,
}

/// RFC 5258 3.1 and RFC 6154 5.2. `recursive_match` comes only with one that it can modify.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListSelection {
    pub subscribed: bool,
    pub remote: bool,
    pub recursive_match: bool,
    pub special_use: bool,
}

/// RFC 5258 3.2, RFC 6154 5.2 and RFC 5819 2.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListReturn {
    pub subscribed: bool,
    pub children: bool,
    pub special_use: bool,
    pub status: Option<StatusItems>,
}

/// A set of STATUS data items (RFC 3501 6.3.10, RFC 7162 3.1.7, RFC 8438 2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StatusItems(pub u8);

impl StatusItems {
    pub const MESSAGES: StatusItems = StatusItems(1);
    pub const RECENT: StatusItems = StatusItems(2);
    pub const UID_NEXT: StatusItems = StatusItems(4);
    pub const UID_VALIDITY: StatusItems = StatusItems(8);
    pub const UNSEEN: StatusItems = StatusItems(16);
    pub const HIGHEST_MOD_SEQ: StatusItems = StatusItems(32);
    pub const SIZE: StatusItems = StatusItems(64);

    pub fn contains(self, other: StatusItems) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn insert(&mut self, other: StatusItems) {
        self.0 |= other.0;
    }
}

/// RFC 3501 6.4.4 with RFC 4731 (ESEARCH) and RFC 7162 3.1.5 (MODSEQ).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Search<'a> {
    pub uid: bool,
    /// `None`: answer by SEARCH. `RETURN ()` means `ALL` (RFC 4731 3.1) and is stored so.
    pub returns: Option<SearchReturn>,
    /// As sent; strings of the keys are in this charset, US-ASCII if `None`.
    pub charset: Option<Text<'a>>,
    pub key: SearchKey<'a>,
}

/// RFC 4731 3.1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SearchReturn {
    pub min: bool,
    pub max: bool,
    pub all: bool,
    pub count: bool,
}

/// How a date is compared: earlier than, the same day, the same day or later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DateTest {
    Before,
    On,
    Since,
}

/// A search key. The RFC's short forms are folded: `SEEN` is `Set(SEEN)`, `UNSEEN` is
/// `Unset(SEEN)`, `FROM x` is `Header("From", x)`, `NEW` is `And([Recent, Unset(SEEN)])`, `OLD` is
/// `Not(Recent)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SearchKey<'a> {
    All,
    /// The message carries this system flag.
    Set(Flags),
    Unset(Flags),
    Recent,
    Keyword(&'a str),
    Unkeyword(&'a str),
    /// Field name, and a string it contains (empty: the field is there).
    Header(Text<'a>, Text<'a>),
    Body(Text<'a>),
    /// Header or body.
    Text(Text<'a>),
    /// Internal date, days since 1970-01-01, zone disregarded.
    InternalDate(DateTest, i64),
    /// Date field, days since 1970-01-01, zone disregarded.
    SentDate(DateTest, i64),
    /// Strictly more octets than this.
    Larger(u64),
    /// Strictly fewer octets than this.
    Smaller(u64),
    /// Messages by sequence number.
    Sequence(SequenceSet),
    Uid(SequenceSet),
    /// This or higher (RFC 7162 3.1.5); the entry name, if any, makes no difference to us.
    ModSeq(ModSeq),
    Not(Box<SearchKey<'a>>),
    Or(Box<(SearchKey<'a>, SearchKey<'a>)>),
    And(Vec<SearchKey<'a>>),
}

/// RFC 3501 6.4.5. Macros are expanded; an item named twice is there once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch<'a> {
    pub uid: bool,
    pub set: SequenceSet,
    pub items: Vec<FetchItem<'a>>,
    /// RFC 7162 3.1.4.1. Asks for MODSEQ too, which is then in `items`.
    pub changed_since: Option<ModSeq>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchItem<'a> {
    Envelope,
    Flags,
    InternalDate,
    /// The message; sets `\Seen`.
    Rfc822,
    Rfc822Header,
    Rfc822Size,
    /// The text; sets `\Seen`.
    Rfc822Text,
    /// `BODY`: BODYSTRUCTURE without extension data.
    Body,
    BodyStructure,
    Uid,
    ModSeq,
    /// `BODY[…]`; sets `\Seen` unless `peek`.
    Section {
        section: Section<'a>,
        partial: Option<Partial>,
        peek: bool,
    },
}

impl FetchItem<'_> {
    /// Fetching this sets `\Seen` (RFC 3501 6.4.5).
    pub fn sets_seen(&self) -> bool {
        matches!(
            self,
            FetchItem::Rfc822 | FetchItem::Rfc822Text | FetchItem::Section { peek: false, .. }
        )
    }
}

/// `<offset.count>` of a section: octets. `count` is not 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partial {
    pub offset: u64,
    pub count: u64,
}

/// What stands between the brackets of `BODY[…]`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Section<'a> {
    /// Part numbers, from 1; empty for the message itself.
    pub path: SmallVec<[u32; 4]>,
    pub part: SectionPart<'a>,
}

/// Which octets of the part (RFC 3501 6.4.5).
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum SectionPart<'a> {
    /// Nothing said: the whole message, or the part's body.
    #[default]
    Full,
    Header,
    HeaderFields(Vec<Text<'a>>),
    HeaderFieldsNot(Vec<Text<'a>>),
    Text,
    /// Only with a path.
    Mime,
}

/// RFC 3501 6.4.6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Store<'a> {
    pub uid: bool,
    pub set: SequenceSet,
    /// RFC 7162 3.1.3.
    pub unchanged_since: Option<ModSeq>,
    pub action: FlagAction,
    pub silent: bool,
    pub flags: FlagList<'a>,
}
