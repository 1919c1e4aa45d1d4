//! Responses (RFC 3501 7), all but FETCH, which is in [`super::fetch_response`].
//!
//! [`Writer`] appends to the connection's output and holds no state; create one wherever output is
//! available. Text from elsewhere cannot break a line: its control characters are written as
//! spaces.

use super::{
    capability::{Announced, Capabilities, append_limit},
    mailbox::status::StatusItems,
    message::returns::PartialRange,
    name::{self, NameForm, SEPARATOR},
    object_id::ObjectId,
    sequence::write_set,
    session::notify::Events,
    structure::{DecodedPart, write_body_part},
    write::{push_astring, push_literal_header, push_nstring, push_number, push_string},
};
use crate::{
    model::{Flags, ModSeq, Right, Rights, SpecialUse, Uid, UidValidity},
    protocol::mime::{ActiveComparator, Collation, Part},
};

/// Condition of a status response (RFC 3501 7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok,
    No,
    Bad,
    Bye,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::No => "NO",
            Status::Bad => "BAD",
            Status::Bye => "BYE",
        }
    }
}

/// Response codes: RFC 3501 7.1, RFC 4315 3, RFC 5530 3, RFC 7162 3.1.2, RFC 6154 3, RFC 9586 3.2.
/// A code owns its lists, so that a handler can return it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Code {
    /// RFC 5255 4.9.
    BadComparator,
    /// Charsets that would do.
    BadCharset(&'static [&'static str]),
    Capability(Announced),
    ReadOnly,
    ReadWrite,
    TryCreate,
    UidNext(Uid),
    UidValidity(UidValidity),
    /// Sequence number of the first unseen message.
    Unseen(u32),
    HighestModSeq(ModSeq),
    NoModSeq,
    /// Sequence numbers, or UIDs for UID STORE; ascending.
    Modified(Vec<u32>),
    /// Of each message appended, in their order: ascending (RFC 3502 6.3.11).
    AppendUid(UidValidity, Vec<Uid>),
    /// (source, target) of each message copied, ascending. Write nothing at all if there are none.
    CopyUid(UidValidity, Vec<(Uid, Uid)>),
    AlreadyExists,
    /// RFC 5465 3.1, with the names of the events that there are.
    BadEvent,
    /// The URL (RFC 4469 4.3).
    BadUrl(String),
    NonExistent,
    AuthenticationFailed,
    Cannot,
    ClientBug,
    Closed,
    /// RFC 4978 3.
    CompressionActive,
    Corruption,
    ExpungeIssued,
    HasChildren,
    /// RFC 9585 4: the tag of the command that goes on, and how much of it is done.
    InProgress {
        tag: String,
        done: Option<u64>,
        goal: Option<u64>,
    },
    Limit,
    /// RFC 9738 3.1: the limit, and the lowest UID that the command was carried out on.
    MessageLimit(u32, Option<Uid>),
    /// RFC 5464 4.2.1: octets of the longest value left out.
    MetadataLongEntries(u64),
    /// RFC 5464 4.3: octets that a value may have.
    MetadataMaxSize(u64),
    MetadataTooMany,
    NoPerm,
    /// RFC 5465 5.8.
    NotificationOverflow,
    /// RFC 5182 2.5.
    NotSaved,
    /// The tag of the search whose changes are not told (RFC 5267 4.3.1).
    NoUpdate(String),
    OverQuota,
    PrivacyRequired,
    /// RFC 8474 4
    MailboxId(ObjectId),
    ServerBug,
    TooBig,
    /// RFC 10022 3.1.3.2.
    TooFew,
    UidRequired,
    Unavailable,
    /// RFC 3516 4.3.
    UnknownCte,
    /// RFC 4467 8: the mechanisms that URLs can be signed with.
    UrlMech,
    UseAttr,
}

impl Code {
    /// Appends the code without its brackets.
    fn push(&self, out: &mut Vec<u8>) {
        let plain = match *self {
            Code::BadCharset(charsets) => return push_charsets(out, charsets),
            Code::Capability(list) => {
                out.extend_from_slice(b"CAPABILITY");
                return list.push(out);
            }
            Code::ReadOnly => "READ-ONLY",
            Code::ReadWrite => "READ-WRITE",
            Code::TryCreate => "TRYCREATE",
            Code::UidNext(uid) => return push_pair(out, "UIDNEXT ", uid.0.into()),
            Code::UidValidity(value) => return push_pair(out, "UIDVALIDITY ", value.0.into()),
            Code::Unseen(number) => return push_pair(out, "UNSEEN ", number.into()),
            Code::HighestModSeq(value) => return push_pair(out, "HIGHESTMODSEQ ", value.0),
            Code::Modified(ref numbers) => {
                out.extend_from_slice(b"MODIFIED ");
                return write_set(out, numbers.iter().copied());
            }
            Code::AppendUid(validity, ref uids) => {
                push_pair(out, "APPENDUID ", validity.0.into());
                out.push(b' ');
                return write_set(out, uids.iter().map(|uid| uid.0));
            }
            Code::CopyUid(validity, ref uids) => return push_copy_uid(out, validity, uids),
            Code::MailboxId(id) => {
                out.extend_from_slice(b"MAILBOXID ");
                return id.push(out);
            }
            Code::BadUrl(ref url) => {
                out.extend_from_slice(b"BADURL \"");
                let safe = |octet: u8| !matches!(octet, b'"' | b'\\' | b']');
                out.extend(url.bytes().filter(|octet| safe(*octet) && !octet.is_ascii_control()));
                return out.push(b'"');
            }
            Code::NoUpdate(ref tag) => {
                out.extend_from_slice(b"NOUPDATE ");
                return push_string(out, tag.as_bytes());
            }
            Code::BadComparator => "BADCOMPARATOR",
            Code::InProgress { ref tag, done, goal } => {
                out.extend_from_slice(b"INPROGRESS (");
                // A tag may have a bracket, which would end the code for some readers.
                push_nstring(out, Some(tag.as_bytes()).filter(|tag| !tag.contains(&b']')));
                for number in [done, goal] {
                    match number {
                        Some(number) => push_pair(out, " ", number),
                        None => out.extend_from_slice(b" NIL"),
                    }
                }
                return out.push(b')');
            }
            Code::BadEvent => {
                out.extend_from_slice(b"BADEVENT ");
                return push_list(out, Events::names());
            }
            Code::AlreadyExists => "ALREADYEXISTS",
            Code::NonExistent => "NONEXISTENT",
            Code::AuthenticationFailed => "AUTHENTICATIONFAILED",
            Code::Cannot => "CANNOT",
            Code::ClientBug => "CLIENTBUG",
            Code::Closed => "CLOSED",
            Code::CompressionActive => "COMPRESSIONACTIVE",
            Code::Corruption => "CORRUPTION",
            Code::ExpungeIssued => "EXPUNGEISSUED",
            Code::HasChildren => "HASCHILDREN",
            Code::Limit => "LIMIT",
            Code::MessageLimit(limit, lowest) => {
                push_pair(out, "MESSAGELIMIT ", limit.into());
                return lowest.into_iter().for_each(|uid| push_pair(out, " ", uid.0.into()));
            }
            Code::MetadataLongEntries(octets) => {
                return push_pair(out, "METADATA LONGENTRIES ", octets);
            }
            Code::MetadataMaxSize(octets) => {
                return push_pair(out, "METADATA MAXSIZE ", octets);
            }
            Code::MetadataTooMany => "METADATA TOOMANY",
            Code::NoModSeq => "NOMODSEQ",
            Code::NoPerm => "NOPERM",
            Code::NotificationOverflow => "NOTIFICATIONOVERFLOW",
            Code::NotSaved => "NOTSAVED",
            Code::OverQuota => "OVERQUOTA",
            Code::PrivacyRequired => "PRIVACYREQUIRED",
            Code::ServerBug => "SERVERBUG",
            Code::TooBig => "TOOBIG",
            Code::TooFew => "TOOFEW",
            Code::UidRequired => "UIDREQUIRED",
            Code::Unavailable => "UNAVAILABLE",
            Code::UnknownCte => "UNKNOWN-CTE",
            Code::UrlMech => "URLMECH INTERNAL",
            Code::UseAttr => "USEATTR",
        };
        out.extend_from_slice(plain.as_bytes());
    }
}

/// Mailbox attributes of LIST (RFC 3501 7.2.2, RFC 5258 3, RFC 6154 2).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Attributes(pub u16);

impl Attributes {
    pub const NO_INFERIORS: Attributes = Attributes(1);
    pub const NO_SELECT: Attributes = Attributes(1 << 1);
    pub const MARKED: Attributes = Attributes(1 << 2);
    pub const UNMARKED: Attributes = Attributes(1 << 3);
    pub const HAS_CHILDREN: Attributes = Attributes(1 << 4);
    pub const HAS_NO_CHILDREN: Attributes = Attributes(1 << 5);
    pub const NON_EXISTENT: Attributes = Attributes(1 << 6);
    pub const SUBSCRIBED: Attributes = Attributes(1 << 7);
    pub const REMOTE: Attributes = Attributes(1 << 8);
    /// RFC 5465 3.1: it may be looked up, and its events may not be known.
    pub const NO_ACCESS: Attributes = Attributes(1 << 9);

    const NAMES: [(Attributes, &'static str); 10] = [
        (Attributes::NO_INFERIORS, "\\Noinferiors"),
        (Attributes::NO_SELECT, "\\Noselect"),
        (Attributes::MARKED, "\\Marked"),
        (Attributes::UNMARKED, "\\Unmarked"),
        (Attributes::HAS_CHILDREN, "\\HasChildren"),
        (Attributes::HAS_NO_CHILDREN, "\\HasNoChildren"),
        (Attributes::NON_EXISTENT, "\\NonExistent"),
        (Attributes::SUBSCRIBED, "\\Subscribed"),
        (Attributes::REMOTE, "\\Remote"),
        (Attributes::NO_ACCESS, "\\NoAccess"),
    ];

    pub fn contains(self, other: Attributes) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn insert(&mut self, other: Attributes) {
        self.0 |= other.0;
    }
}

/// One LIST or LSUB response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListItem<'a> {
    /// In UTF-8.
    pub name: &'a str,
    pub attributes: Attributes,
    pub special_use: Option<SpecialUse>,
    /// `CHILDINFO ("SUBSCRIBED")` (RFC 5258 3.5): a child matched RECURSIVEMATCH.
    pub child_subscribed: bool,
    /// OLDNAME (RFC 9051 7.3.1): what the client calls it.
    pub old_name: Option<&'a str>,
    /// `CHILDINFO ("SPECIAL-USE")`: a child that has a special use did.
    pub child_special_use: bool,
}

/// Values for STATUS; those not requested are ignored.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct StatusValues {
    pub messages: u32,
    pub recent: u32,
    pub uid_next: Uid,
    pub uid_validity: UidValidity,
    pub unseen: u32,
    pub highest_mod_seq: ModSeq,
    /// Octets.
    pub size: u64,
    /// Messages with `\Deleted`.
    pub deleted: u32,
    /// RFC 8474 4.3
    pub mailbox_id: Option<ObjectId>,
    /// Most octets of a message that APPEND takes.
    pub append_limit: u64,
    /// Octets of deleted messages.
    pub deleted_octets: u64,
}

/// The result of ESEARCH (RFC 4731 3.1); absent parts are left out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SearchResult<'a> {
    pub min: Option<u32>,
    pub max: Option<u32>,
    /// In the order that the command asks for. Left out when empty, as the RFC asks.
    pub all: Option<&'a [u32]>,
    pub count: Option<u32>,
    /// The range asked for, and what is in it.
    pub partial: Option<(PartialRange, &'a [u32])>,
    /// RFC 7162 3.1.10.
    pub mod_seq: Option<ModSeq>,
}

/// What became of messages of a search result (RFC 5267 4.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResultChange {
    Added,
    Removed,
}

/// Appends responses to an output buffer.
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    names: NameForm,
}

impl<'o> Writer<'o> {
    pub fn new(out: &'o mut Vec<u8>) -> Writer<'o> {
        Writer { out, names: NameForm::ModifiedUtf7 }
    }

    /// The same with mailbox names in this form.
    pub fn with_names(self, names: NameForm) -> Writer<'o> {
        Writer { names, ..self }
    }

    /// `tag OK [code] text`.
    pub fn tagged(&mut self, tag: &str, status: Status, code: Option<Code>, text: &str) {
        push_text(self.out, tag);
        self.status_rest(status, code, text);
    }

    /// `* OK [code] text`; also the greeting and BYE.
    pub fn untagged(&mut self, status: Status, code: Option<Code>, text: &str) {
        self.out.push(b'*');
        self.status_rest(status, code, text);
    }

    /// `* BYE text`; the caller then closes.
    pub fn bye(&mut self, text: &str) {
        self.untagged(Status::Bye, None, text);
    }

    /// `+ text`. For a SASL challenge `text` is base64, empty for none.
    pub fn continuation(&mut self, text: &str) {
        self.out.extend_from_slice(b"+ ");
        push_text(self.out, text);
        self.line_end();
    }

    pub fn capability(&mut self, list: Announced) {
        self.out.extend_from_slice(b"* CAPABILITY");
        list.push(self.out);
        self.line_end();
    }

    /// RFC 5161 3.2.
    pub fn enabled(&mut self, extensions: Capabilities) {
        self.out.extend_from_slice(b"* ENABLED");
        extensions.push(self.out);
        self.line_end();
    }

    /// RFC 2971 3.2.
    pub fn id(&mut self, fields: &[(&str, Option<&str>)]) {
        self.out.extend_from_slice(b"* ID ");
        if fields.is_empty() {
            self.out.extend_from_slice(b"NIL");
        } else {
            for (index, (name, value)) in fields.iter().enumerate() {
                self.out.push(if index == 0 { b'(' } else { b' ' });
                push_string(self.out, name.as_bytes());
                self.out.push(b' ');
                push_nstring(self.out, value.map(str::as_bytes));
            }
            self.out.push(b')');
        }
        self.line_end();
    }

    /// The personal namespace without a prefix, and the prefixes of other users' mailboxes and of
    /// public ones (RFC 2342 5).
    pub fn namespace(&mut self, other_users: &str, public: &str) {
        self.out.extend_from_slice(b"* NAMESPACE ((\"\" \"/\"))");
        for level in [other_users, public] {
            let prefix = format!(" ((\"{level}{SEPARATOR}\" \"{SEPARATOR}\"))");
            self.out.extend_from_slice(prefix.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }

    /// The languages that a client can choose, or the one that it has chosen (RFC 5255 3.3).
    pub fn language(&mut self, tags: &[&str]) {
        self.out.extend_from_slice(format!("* LANGUAGE ({})\r\n", tags.join(" ")).as_bytes());
    }

    /// RFC 5255 4.8: the active comparator and, if there are several, those that a command asked
    /// for.
    pub fn comparator(&mut self, active: ActiveComparator, matching: &[Collation]) {
        self.out.extend_from_slice(b"* COMPARATOR ");
        if active.descending {
            self.out.push(b'-');
        }
        self.out.extend_from_slice(active.collation.name().as_bytes());
        if matching.len() > 1 {
            let names: Vec<&str> = matching.iter().map(|it| it.name()).collect();
            self.out.extend_from_slice(format!(" ({})", names.join(" ")).as_bytes());
        }
        self.line_end();
    }

    pub fn exists(&mut self, count: u32) {
        self.numbered(count, " EXISTS\r\n");
    }

    pub fn recent(&mut self, count: u32) {
        self.numbered(count, " RECENT\r\n");
    }

    /// `number` is the sequence number as it is before this expunge (RFC 3501 7.4.1).
    pub fn expunge(&mut self, number: u32) {
        self.numbered(number, " EXPUNGE\r\n");
    }

    /// All flags that messages of the mailbox can have.
    pub fn flags(&mut self, keywords: &[String]) {
        self.out.extend_from_slice(b"* FLAGS ");
        let system = !Flags::default();
        push_flags(self.out, system, keywords.iter().map(String::as_str), false, false);
        self.line_end();
    }

    /// PERMANENTFLAGS (RFC 3501 7.1): the flags that STORE can change permanently. `more`: new
    /// keywords may be created (`\*`). It is not a [`Code`], since that would copy the mailbox's
    /// keywords.
    pub fn permanent_flags(&mut self, system: Flags, keywords: &[String], more: bool) {
        self.out.extend_from_slice(b"* OK [PERMANENTFLAGS ");
        push_flags(self.out, system, keywords.iter().map(String::as_str), false, more);
        self.out.extend_from_slice(b"] Flags permitted\r\n");
    }

    pub fn list(&mut self, item: &ListItem<'_>) {
        self.list_as("* LIST ", item);
    }

    pub fn lsub(&mut self, item: &ListItem<'_>) {
        self.list_as("* LSUB ", item);
    }

    /// The answer to `LIST "" ""` (RFC 3501 6.3.8): the separator.
    pub fn list_separator(&mut self) {
        self.out.extend_from_slice(b"* LIST (\\Noselect) \"/\" \"\"\r\n");
    }

    /// `name` in UTF-8.
    pub fn status(&mut self, name: &str, items: StatusItems, values: &StatusValues) {
        let rows = [
            (StatusItems::MESSAGES, "MESSAGES ", u64::from(values.messages)),
            (StatusItems::RECENT, "RECENT ", u64::from(values.recent)),
            (StatusItems::UID_NEXT, "UIDNEXT ", u64::from(values.uid_next.0)),
            (StatusItems::UID_VALIDITY, "UIDVALIDITY ", u64::from(values.uid_validity.0)),
            (StatusItems::UNSEEN, "UNSEEN ", u64::from(values.unseen)),
            (StatusItems::HIGHEST_MOD_SEQ, "HIGHESTMODSEQ ", values.highest_mod_seq.0),
            (StatusItems::SIZE, "SIZE ", values.size),
            (StatusItems::DELETED, "DELETED ", u64::from(values.deleted)),
            (StatusItems::APPEND_LIMIT, "APPENDLIMIT ", append_limit(values.append_limit).into()),
            (StatusItems::DELETED_STORAGE, "DELETED-STORAGE ", values.deleted_octets),
        ];
        self.out.extend_from_slice(b"* STATUS ");
        self.mailbox(name);
        let mut before: &[u8] = b" (";
        for (item, label, value) in rows {
            if items.contains(item) {
                self.out.extend_from_slice(before);
                push_pair(self.out, label, value);
                before = b" ";
            }
        }
        if items.contains(StatusItems::MAILBOX_ID)
            && let Some(id) = values.mailbox_id
        {
            self.out.extend_from_slice(before);
            self.out.extend_from_slice(b"MAILBOXID ");
            id.push(self.out);
            before = b" ";
        }
        self.out.extend_from_slice(if before == b" (" { b" ()\r\n" } else { b")\r\n" });
    }

    /// RFC 4314 3.6; `name` in UTF-8, entries as identifiers and their rights.
    pub fn acl(&mut self, name: &str, entries: &[(String, Rights)]) {
        self.out.extend_from_slice(b"* ACL ");
        self.mailbox(name);
        for (identifier, rights) in entries {
            self.out.push(b' ');
            push_astring(self.out, identifier.as_bytes());
            self.out.push(b' ');
            push_astring(self.out, rights.told().as_bytes());
        }
        self.line_end();
    }

    /// RFC 4314 3.7: the identifier always has the `required` rights; each of the others can be
    /// granted by itself, and the virtual ones too (RFC 4314 2.1.1).
    pub fn list_rights(&mut self, name: &str, identifier: &[u8], required: Rights) {
        self.out.extend_from_slice(b"* LISTRIGHTS ");
        self.mailbox(name);
        self.out.push(b' ');
        push_astring(self.out, identifier);
        self.out.push(b' ');
        push_astring(self.out, required.told().as_bytes());
        let others = Right::EVERY.iter().copied().filter(|right| !required.contain(*right));
        for letter in others.collect::<Rights>().told().bytes() {
            self.out.extend_from_slice(&[b' ', letter]);
        }
        self.line_end();
    }

    /// RFC 4314 3.8.
    pub fn my_rights(&mut self, name: &str, rights: Rights) {
        self.out.extend_from_slice(b"* MYRIGHTS ");
        self.mailbox(name);
        self.out.push(b' ');
        push_astring(self.out, rights.told().as_bytes());
        self.line_end();
    }

    /// RFC 5464 4.4.2: annotations that have other values now; `mailbox` in UTF-8, empty for the
    /// server.
    pub fn metadata_changed(&mut self, mailbox: &str, entries: &[String]) {
        self.out.extend_from_slice(b"* METADATA ");
        self.mailbox(mailbox);
        for name in entries {
            self.out.push(b' ');
            push_astring(self.out, name.as_bytes());
        }
        self.line_end();
    }

    /// RFC 5464 4.4.1; `mailbox` in UTF-8, empty for the server. Entries are names and values.
    pub fn metadata(&mut self, mailbox: &str, entries: &[(String, Option<Vec<u8>>)]) {
        self.out.extend_from_slice(b"* METADATA ");
        self.mailbox(mailbox);
        for (index, (name, value)) in entries.iter().enumerate() {
            self.out.extend_from_slice(if index == 0 { b" (" } else { b" " });
            push_astring(self.out, name.as_bytes());
            self.out.push(b' ');
            match value.as_deref() {
                // RFC 3516 4.4: only a literal8 has NUL.
                Some(value) if value.contains(&0) => {
                    self.out.push(b'~');
                    push_literal_header(self.out, value.len() as u64);
                    self.out.extend_from_slice(value);
                }
                value => push_nstring(self.out, value),
            }
        }
        self.out.push(b')');
        self.line_end();
    }

    /// RFC 9208 4.2.2; `mailbox` in UTF-8.
    pub fn quota_root(&mut self, mailbox: &str, root: Option<&str>) {
        self.out.extend_from_slice(b"* QUOTAROOT ");
        self.mailbox(mailbox);
        if let Some(root) = root {
            self.out.push(b' ');
            push_astring(self.out, root.as_bytes());
        }
        self.line_end();
    }

    /// RFC 9208 4.2.1: of each resource, what is used and the limit. Octets are told in units of
    /// 1,024 (RFC 9208 5.1), so that what is used is never told as less, nor a limit as more.
    pub fn quota(&mut self, root: &str, octets: (u64, u64), messages: (u64, u64)) {
        self.out.extend_from_slice(b"* QUOTA ");
        push_astring(self.out, root.as_bytes());
        push_pair(self.out, " (STORAGE ", octets.0.div_ceil(1024));
        push_pair(self.out, " ", octets.1 / 1024);
        push_pair(self.out, " MESSAGE ", messages.0);
        push_pair(self.out, " ", messages.1);
        self.out.push(b')');
        self.line_end();
    }

    /// RFC 4467 8.
    pub fn gen_url_auth(&mut self, urls: &[Vec<u8>]) {
        self.out.extend_from_slice(b"* GENURLAUTH");
        for url in urls {
            self.out.push(b' ');
            push_string(self.out, url);
        }
        self.line_end();
    }

    /// Begins `* URLFETCH url`, which is followed by the data.
    pub fn begin_url_fetch(&mut self, url: &[u8]) {
        self.out.extend_from_slice(b"* URLFETCH ");
        push_string(self.out, url);
    }

    /// The URL is not valid.
    pub fn no_url_data(&mut self) {
        self.out.extend_from_slice(b" NIL");
    }

    /// RFC 5524 3.2: what the part is, or is without its transfer encoding.
    pub fn url_structure(&mut self, part: Part<'_>, decoded: Option<DecodedPart>) {
        self.out.extend_from_slice(b" (BODYPARTSTRUCTURE ");
        write_body_part(self.out, part, decoded);
        self.out.push(b')');
    }

    /// Begins an item with the data, of which `size` octets follow; a `literal8` if there may be
    /// NUL among them. [`Writer::end_url_item`] ends it.
    pub fn begin_url_item(&mut self, name: &str, size: u64, has_nul: bool) {
        self.out.extend_from_slice(b" (");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(if has_nul { b" ~" } else { b" " });
        push_literal_header(self.out, size);
    }

    pub fn end_url_item(&mut self) {
        self.out.push(b')');
    }

    /// The transfer encoding is unknown.
    pub fn no_url_binary(&mut self) {
        self.out.extend_from_slice(b" (BINARY NIL)");
    }

    /// Data of `size` octets, which the caller appends next.
    pub fn url_data(&mut self, size: u64) {
        self.out.push(b' ');
        push_literal_header(self.out, size);
    }

    pub fn end_url_fetch(&mut self) {
        self.line_end();
    }

    /// RFC 3501 7.2.5; `mod_seq` if the search used MODSEQ and found something (RFC 7162 3.1.5).
    pub fn search(&mut self, numbers: impl IntoIterator<Item = u32>, mod_seq: Option<ModSeq>) {
        self.numbers(b"* SEARCH", numbers, mod_seq);
    }

    fn numbers(
        &mut self,
        name: &[u8],
        numbers: impl IntoIterator<Item = u32>,
        mod_seq: Option<ModSeq>,
    ) {
        self.out.extend_from_slice(name);
        for number in numbers {
            push_pair(self.out, " ", number.into());
        }
        if let Some(mod_seq) = mod_seq {
            push_pair(self.out, " (MODSEQ ", mod_seq.0);
            self.out.push(b')');
        }
        self.line_end();
    }

    /// RFC 5256 4; `mod_seq` as for SEARCH (RFC 7162 3.1.6).
    pub fn sort(&mut self, numbers: impl IntoIterator<Item = u32>, mod_seq: Option<ModSeq>) {
        self.numbers(b"* SORT", numbers, mod_seq);
    }

    /// Begins `* THREAD`, to which the caller appends the threads and the end of the line.
    pub fn begin_thread(&mut self) {
        self.out.extend_from_slice(b"* THREAD");
    }

    /// ADDTO or REMOVEFROM (RFC 5267 4.3.3, 4.3.4): positions in the result, 0 if it is in the
    /// order of the mailbox, and what is added or removed there. Neither may be empty.
    pub fn result_change(
        &mut self,
        tag: &str,
        uid: bool,
        change: ResultChange,
        places: &[(u32, &[u32])],
    ) {
        self.begin_esearch(tag, uid);
        let mut before: &[u8] = match change {
            ResultChange::Added => b" ADDTO (",
            ResultChange::Removed => b" REMOVEFROM (",
        };
        for (position, numbers) in places {
            self.out.extend_from_slice(before);
            push_number(self.out, (*position).into());
            self.out.push(b' ');
            write_set(self.out, numbers.iter().copied());
            before = b" ";
        }
        self.out.push(b')');
        self.line_end();
    }

    fn begin_esearch(&mut self, tag: &str, uid: bool) {
        self.out.extend_from_slice(b"* ESEARCH (TAG ");
        push_string(self.out, tag.as_bytes());
        self.out.push(b')');
        if uid {
            self.out.extend_from_slice(b" UID");
        }
    }

    /// RFC 4731 3.1.
    pub fn esearch(&mut self, tag: &str, uid: bool, result: &SearchResult<'_>) {
        self.begin_esearch(tag, uid);
        if let Some(min) = result.min {
            push_pair(self.out, " MIN ", min.into());
        }
        if let Some(max) = result.max {
            push_pair(self.out, " MAX ", max.into());
        }
        if let Some(all) = result.all
            && !all.is_empty()
        {
            self.out.extend_from_slice(b" ALL ");
            write_set(self.out, all.iter().copied());
        }
        if let Some((range, found)) = result.partial {
            let sign = if range.from_last { "-" } else { "" };
            let (first, last) = range.ends;
            self.out.extend_from_slice(format!(" PARTIAL ({sign}{first}:{sign}{last} ").as_bytes());
            match found {
                [] => self.out.extend_from_slice(b"NIL"),
                _ => write_set(self.out, found.iter().copied()),
            }
            self.out.push(b')');
        }
        if let Some(count) = result.count {
            push_pair(self.out, " COUNT ", count.into());
        }
        if let Some(mod_seq) = result.mod_seq {
            push_pair(self.out, " MODSEQ ", mod_seq.0);
        }
        self.line_end();
    }

    fn list_as(&mut self, label: &str, item: &ListItem<'_>) {
        self.out.extend_from_slice(label.as_bytes());
        let named = Attributes::NAMES.iter().filter(|(bit, _)| item.attributes.contains(*bit));
        let names = named.map(|&(_, name)| name).chain(item.special_use.map(SpecialUse::attribute));
        push_list(self.out, names);
        self.out.extend_from_slice(b" \"/\" ");
        self.mailbox(item.name);
        let mut before: &[u8] = b" (";
        let child_info: &[u8] = match (item.child_subscribed, item.child_special_use) {
            (false, false) => b"",
            (true, false) => b"\"CHILDINFO\" (\"SUBSCRIBED\")",
            (false, true) => b"\"CHILDINFO\" (\"SPECIAL-USE\")",
            (true, true) => b"\"CHILDINFO\" (\"SUBSCRIBED\" \"SPECIAL-USE\")",
        };
        if !child_info.is_empty() {
            self.out.extend_from_slice(before);
            self.out.extend_from_slice(child_info);
            before = b" ";
        }
        if let Some(name) = item.old_name {
            self.out.extend_from_slice(before);
            self.out.extend_from_slice(b"\"OLDNAME\" (");
            self.mailbox(name);
            self.out.push(b')');
            before = b" ";
        }
        if before == b" " {
            self.out.push(b')');
        }
        self.line_end();
    }

    /// A mailbox name given in UTF-8. Quoted if it has a bracket: an atom may contain `[` and an
    /// astring `]`, but some readers take either for part of a response code or a section.
    fn mailbox(&mut self, name: &str) {
        if self.names == NameForm::Utf8 && !name.is_ascii() {
            return push_quoted_utf8(self.out, name);
        }
        let mut encoded = Vec::new();
        match self.names {
            NameForm::ModifiedUtf7 => name::encode(name, &mut encoded),
            NameForm::Utf8 => encoded.extend_from_slice(name.as_bytes()),
        }
        if name.contains(['[', ']']) {
            push_string(self.out, &encoded);
        } else {
            push_astring(self.out, &encoded);
        }
    }

    fn status_rest(&mut self, status: Status, code: Option<Code>, text: &str) {
        self.out.push(b' ');
        self.out.extend_from_slice(status.name().as_bytes());
        self.out.push(b' ');
        if let Some(code) = code {
            self.out.push(b'[');
            code.push(self.out);
            self.out.extend_from_slice(b"] ");
        }
        push_text(self.out, text);
        self.line_end();
    }

    fn numbered(&mut self, number: u32, rest: &str) {
        push_pair(self.out, "* ", number.into());
        self.out.extend_from_slice(rest.as_bytes());
    }

    fn line_end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends a flag list in parentheses. `more` adds `\*`.
pub(super) fn push_flags<'k>(
    out: &mut Vec<u8>,
    system: Flags,
    keywords: impl Iterator<Item = &'k str>,
    recent: bool,
    more: bool,
) {
    const NAMES: [(Flags, &str); 5] = [
        (Flags::ANSWERED, "\\Answered"),
        (Flags::FLAGGED, "\\Flagged"),
        (Flags::DELETED, "\\Deleted"),
        (Flags::SEEN, "\\Seen"),
        (Flags::DRAFT, "\\Draft"),
    ];
    let system = NAMES.iter().filter(|(flag, _)| system.contains(*flag)).map(|&(_, name)| name);
    let recent = recent.then_some("\\Recent");
    push_list(out, system.chain(recent).chain(keywords).chain(more.then_some("\\*")));
}

/// Appends `label` and a number.
pub(super) fn push_pair(out: &mut Vec<u8>, label: &str, number: u64) {
    out.extend_from_slice(label.as_bytes());
    push_number(out, number);
}

fn push_list<'n>(out: &mut Vec<u8>, names: impl Iterator<Item = &'n str>) {
    out.push(b'(');
    for (index, name) in names.enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(name.as_bytes());
    }
    out.push(b')');
}

/// Appends a name with characters beyond ASCII (RFC 9051 9 `quoted`); it has no control characters.
fn push_quoted_utf8(out: &mut Vec<u8>, name: &str) {
    out.push(b'"');
    for octet in name.bytes() {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(octet);
    }
    out.push(b'"');
}

/// Appends text that must stay on its line.
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|octet| if octet.is_ascii_control() { b' ' } else { octet }));
}

fn push_charsets(out: &mut Vec<u8>, charsets: &[&str]) {
    out.extend_from_slice(b"BADCHARSET");
    for (index, charset) in charsets.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b" (" } else { b" " });
        push_astring(out, charset.as_bytes());
    }
    if !charsets.is_empty() {
        out.push(b')');
    }
}

fn push_copy_uid(out: &mut Vec<u8>, validity: UidValidity, uids: &[(Uid, Uid)]) {
    push_pair(out, "COPYUID ", validity.0.into());
    out.push(b' ');
    write_set(out, uids.iter().map(|(source, _)| source.0));
    out.push(b' ');
    write_set(out, uids.iter().map(|(_, target)| target.0));
}

#[cfg(test)]
mod tests {
    use super::{super::table::Capability, *};

    fn set(capabilities: &[Capability]) -> Capabilities {
        capabilities.iter().copied().collect()
    }

    fn announced(capabilities: &[Capability]) -> Announced {
        Announced { capabilities: set(capabilities), ..Announced::default() }
    }

    #[track_caller]
    fn check(expected: &str, write: impl FnOnce(&mut Writer<'_>)) {
        let mut out = Vec::new();
        write(&mut Writer::new(&mut out));
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn status_responses() {
        check("a1 OK NOOP completed\r\n", |writer| {
            writer.tagged("a1", Status::Ok, None, "NOOP completed");
        });
        check("* BYE shutting down\r\n", |writer| writer.bye("shutting down"));
        check("+ \r\n", |writer| writer.continuation(""));
        // Text from elsewhere cannot end the line.
        check("a NO no  such  thing\r\n", |writer| {
            writer.tagged("a", Status::No, None, "no\r\nsuch\0\tthing");
        });
    }

    fn in_progress(tag: &str, done: Option<u64>, goal: Option<u64>) -> Code {
        Code::InProgress { tag: tag.to_owned(), done, goal }
    }

    #[test]
    fn codes() {
        let cases = vec![
            (Code::BadCharset(&[]), "BADCHARSET"),
            (Code::BadCharset(&["US-ASCII", "UTF-8"]), "BADCHARSET (US-ASCII UTF-8)"),
            (Code::Capability(announced(&[Capability::Idle])), "CAPABILITY IDLE"),
            (Code::ReadOnly, "READ-ONLY"),
            (Code::UidNext(Uid(4392)), "UIDNEXT 4392"),
            (Code::UidValidity(UidValidity(3_857_529_045)), "UIDVALIDITY 3857529045"),
            (Code::Unseen(12), "UNSEEN 12"),
            (Code::HighestModSeq(ModSeq(715_194_045_007)), "HIGHESTMODSEQ 715194045007"),
            (Code::NoModSeq, "NOMODSEQ"),
            (Code::MessageLimit(1_000, Some(Uid(23_221))), "MESSAGELIMIT 1000 23221"),
            (Code::MessageLimit(1_000, None), "MESSAGELIMIT 1000"),
            (Code::Modified(vec![7, 9, 10]), "MODIFIED 7,9:10"),
            (Code::AppendUid(UidValidity(38_505), vec![Uid(3_955)]), "APPENDUID 38505 3955"),
            (
                Code::AppendUid(UidValidity(38_505), (3_955..=3_957).map(Uid).collect()),
                "APPENDUID 38505 3955:3957",
            ),
            (
                Code::CopyUid(
                    UidValidity(38_505),
                    vec![(Uid(304), Uid(3_956)), (Uid(319), Uid(3_957)), (Uid(320), Uid(3_958))],
                ),
                "COPYUID 38505 304,319:320 3956:3958",
            ),
            (Code::AuthenticationFailed, "AUTHENTICATIONFAILED"),
            (
                Code::BadEvent,
                "BADEVENT (MessageNew MessageExpunge FlagChange MailboxName SubscriptionChange \
                 MailboxMetadataChange ServerMetadataChange)",
            ),
            (Code::BadUrl("/INBOX/;UID=1\r\n]\"".to_owned()), "BADURL \"/INBOX/;UID=1\""),
            (Code::BadComparator, "BADCOMPARATOR"),
            (Code::NoUpdate("B02".to_owned()), "NOUPDATE \"B02\""),
            (Code::UseAttr, "USEATTR"),
            // RFC 9585 4.
            (in_progress("tag", None, None), "INPROGRESS (\"tag\" NIL NIL)"),
            (in_progress("tag", Some(175), None), "INPROGRESS (\"tag\" 175 NIL)"),
            (in_progress("tag", Some(175), Some(1_000)), "INPROGRESS (\"tag\" 175 1000)"),
            (in_progress("a]b", Some(0), Some(1)), "INPROGRESS (NIL 0 1)"),
        ];
        for (code, expected) in cases {
            check(&format!("a OK [{expected}] done\r\n"), |writer| {
                writer.tagged("a", Status::Ok, Some(code.clone()), "done");
            });
        }
    }

    #[test]
    fn mailbox_data() {
        check("* 23 EXISTS\r\n* 5 RECENT\r\n* 44 EXPUNGE\r\n", |writer| {
            writer.exists(23);
            writer.recent(5);
            writer.expunge(44);
        });
        check("* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft x)\r\n", |writer| {
            writer.flags(&["x".to_owned()]);
        });
        check("* OK [PERMANENTFLAGS (\\Seen $Junk \\*)] Flags permitted\r\n", |writer| {
            writer.permanent_flags(Flags::SEEN, &["$Junk".to_owned()], true);
        });
        check("* OK [PERMANENTFLAGS ()] Flags permitted\r\n", |writer| {
            writer.permanent_flags(Flags::default(), &[], false);
        });
        check("* LIST (\\Noselect) \"/\" \"\"\r\n", |writer| writer.list_separator());
        let expected = "* NAMESPACE ((\"\" \"/\")) ((\"Other/\" \"/\")) ((\"All/\" \"/\"))\r\n";
        check(expected, |writer| writer.namespace("Other", "All"));
        check("* ENABLED CONDSTORE\r\n* ENABLED\r\n", |writer| {
            writer.enabled(set(&[Capability::CondStore]));
            writer.enabled(set(&[]));
        });
        check("* ID (\"name\" \"Ringmail\" \"os\" NIL)\r\n* ID NIL\r\n", |writer| {
            writer.id(&[("name", Some("Ringmail")), ("os", None)]);
            writer.id(&[]);
        });
        check("* CAPABILITY IMAP4rev1 ID\r\n", |writer| {
            writer.capability(announced(&[Capability::Id, Capability::Imap4Rev1]))
        });
    }

    #[test]
    fn lists() {
        let item = ListItem {
            name: "INBOX",
            attributes: Attributes::HAS_NO_CHILDREN,
            special_use: None,
            child_subscribed: false,
            child_special_use: false,
            old_name: None,
        };
        check("* LIST (\\HasNoChildren) \"/\" INBOX\r\n", |writer| writer.list(&item));
        let mut attributes = Attributes::NO_SELECT;
        attributes.insert(Attributes::SUBSCRIBED);
        let special = ListItem {
            name: "Gel\u{f6}scht & weg",
            attributes,
            special_use: Some(SpecialUse::Trash),
            child_subscribed: true,
            child_special_use: false,
            old_name: None,
        };
        check(
            "* LSUB (\\Noselect \\Subscribed \\Trash) \"/\" \"Gel&APY-scht &- weg\" \
             (\"CHILDINFO\" (\"SUBSCRIBED\"))\r\n",
            |writer| writer.lsub(&special),
        );
        // RFC 9051 5.1, 7.3.1.
        check(
            "* LIST (\\Noselect \\Subscribed \\Trash) \"/\" \"Gel\u{f6}scht & weg\" \
             (\"CHILDINFO\" (\"SUBSCRIBED\") \"OLDNAME\" (\"a \\\"\u{fc}\"))\r\n",
            |writer| {
                let item = ListItem { old_name: Some("a \"\u{fc}"), ..special };
                Writer::new(writer.out).with_names(NameForm::Utf8).list(&item);
            },
        );
        // A mailbox may have this name; a bare NIL would mean no name.
        check("* LIST () \"/\" \"nil\"\r\n", |writer| {
            writer.list(&ListItem { name: "nil", attributes: Attributes::default(), ..item });
        });
        // Brackets and wildcards never appear in an atom.
        for name in ["[a", "a]", "[a]", "a%", "*a"] {
            check(&format!("* LIST () \"/\" \"{name}\"\r\n"), |writer| {
                writer.list(&ListItem { name, attributes: Attributes::default(), ..item });
            });
            check(&format!("* STATUS \"{name}\" ()\r\n"), |writer| {
                writer.status(name, StatusItems::default(), &StatusValues::default());
            });
        }
    }

    #[test]
    fn status_items() {
        let values =
            StatusValues { messages: 231, uid_next: Uid(44_292), size: 7, ..Default::default() };
        let mut items = StatusItems::MESSAGES;
        items.insert(StatusItems::UID_NEXT);
        check("* STATUS a/b (MESSAGES 231 UIDNEXT 44292)\r\n", |writer| {
            writer.status("a/b", items, &values);
        });
        check(
            "* STATUS x (MESSAGES 231 RECENT 0 UIDNEXT 44292 UIDVALIDITY 0 UNSEEN 0 \
             HIGHESTMODSEQ 0 SIZE 7 DELETED 0)\r\n",
            |writer| writer.status("x", StatusItems(0xff), &values),
        );
    }

    #[test]
    fn access() {
        let rights = |text: &str| Rights::parse(text.as_bytes()).expect(text);
        let entries = [
            ("fred".to_owned(), Rights::ALL),
            ("-j\u{fc}rgen".to_owned(), rights("r")),
            ("two words".to_owned(), Rights::NONE),
        ];
        check(
            "* ACL Entw&APw-rfe fred lrswipkxteacd {8}\r\n-j\u{fc}rgen r \"two words\" \"\"\r\n",
            |writer| writer.acl("Entw\u{fc}rfe", &entries),
        );
        check("* ACL \"[x]\"\r\n", |writer| writer.acl("[x]", &[]));
        check("* MYRIGHTS \"a b\" lrkc\r\n", |writer| writer.my_rights("a b", rights("krl")));
        check("* MYRIGHTS x \"\"\r\n", |writer| writer.my_rights("x", Rights::NONE));
        check(
            "* LISTRIGHTS x smith la r s w i p k x t e c d\r\n\
             * LISTRIGHTS x anyone \"\" l r s w i p k x t e a c d\r\n",
            |writer| {
                writer.list_rights("x", b"smith", rights("la"));
                writer.list_rights("x", b"anyone", Rights::NONE);
            },
        );
    }

    #[test]
    fn searches() {
        check("* SEARCH 2 84 882\r\n* SEARCH\r\n", |writer| {
            writer.search([2, 84, 882], None);
            writer.search([], None);
        });
        check("* SEARCH 2 5 (MODSEQ 917162500)\r\n", |writer| {
            writer.search([2, 5], Some(ModSeq(917_162_500)));
        });
        let result = SearchResult {
            min: Some(2),
            max: Some(47),
            all: Some(&[2, 10, 11]),
            partial: None,
            count: Some(3),
            mod_seq: Some(ModSeq(9)),
        };
        check(
            "* ESEARCH (TAG \"A285\") UID MIN 2 MAX 47 ALL 2,10:11 COUNT 3 MODSEQ 9\r\n",
            |writer| writer.esearch("A285", true, &result),
        );
        // RFC 4731 3.1: nothing found, no ALL.
        let nothing = SearchResult { all: Some(&[]), count: Some(0), ..Default::default() };
        check("* ESEARCH (TAG \"A\") COUNT 0\r\n", |writer| writer.esearch("A", false, &nothing));
    }

    /// RFC 5267 4.3.3, 4.3.4.
    #[test]
    fn changes_of_results() {
        check("* ESEARCH (TAG \"B01\") UID ADDTO (0 32768:32769)\r\n", |writer| {
            writer.result_change("B01", true, ResultChange::Added, &[(0, &[32_768, 32_769])]);
        });
        check("* ESEARCH (TAG \"C01\") UID ADDTO (1 2733 1 2732 1 2731)\r\n", |writer| {
            let places: [(u32, &[u32]); 3] = [(1, &[2_733]), (1, &[2_732]), (1, &[2_731])];
            writer.result_change("C01", true, ResultChange::Added, &places);
        });
        check("* ESEARCH (TAG \"B01\") REMOVEFROM (3 12,11)\r\n", |writer| {
            writer.result_change("B01", false, ResultChange::Removed, &[(3, &[12, 11])]);
        });
    }
}
