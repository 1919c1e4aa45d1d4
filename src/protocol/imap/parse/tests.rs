//! Commands as clients send them, and as they should not.

use std::borrow::Cow;

use proptest::prelude::*;

use super::super::{
    Append, Command, CommandBody, DateTest, Fetch, FetchItem, FlagList, Frame, Framer, Limits,
    List, ListReturn, ListSelection, MailboxName, Partial, Search, SearchKey, SearchReturn,
    Section, SectionPart, SequenceSet, StatusItems, Store, parse, tag_of,
};
use crate::model::{FlagAction, Flags, ModSeq, SpecialUse};

fn text(text: &'static str) -> Cow<'static, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

fn mailbox(name: &'static str) -> MailboxName<'static> {
    MailboxName(text(name))
}

fn set(text: &str) -> SequenceSet {
    SequenceSet::parse(text.as_bytes()).expect("a set")
}

/// `line` without its CRLF is understood as `expected`.
#[track_caller]
fn check(line: &str, expected: CommandBody<'static>) {
    let frame = format!("a1 {line}\r\n");
    let command = parse(frame.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    assert_eq!(command, Command { tag: "a1", body: expected }, "{line}");
}

#[test]
fn without_arguments() {
    check("CAPABILITY", CommandBody::Capability);
    check("noop", CommandBody::Noop);
    check("LogOut", CommandBody::Logout);
    check("STARTTLS", CommandBody::StartTls);
    check("NAMESPACE", CommandBody::Namespace);
    check("IDLE", CommandBody::Idle);
    check("CHECK", CommandBody::Check);
    check("CLOSE", CommandBody::Close);
    check("UNSELECT", CommandBody::Unselect);
    check("EXPUNGE", CommandBody::Expunge { uids: None });
    check("UID EXPUNGE 3,5:*", CommandBody::Expunge { uids: Some(set("3,5:*")) });
}

/// RFC 3501 6.2.2, 6.2.3, RFC 4959, RFC 5161, RFC 2971.
#[test]
fn sessions() {
    let login = |user, password| CommandBody::Login { user, password };
    check("LOGIN smith sesame", login(text("smith"), text("sesame")));
    check("LOGIN \"a b\" \"\"", login(text("a b"), text("")));
    check(r#"LOGIN "a\"b" "\\""#, login(text("a\"b"), text("\\")));
    check("LOGIN {3}\r\na b {2+}\r\n\r\n", login(text("a b"), text("\r\n")));
    check("LOGIN a]b 1", login(text("a]b"), text("1")));

    let authenticate = |mechanism, initial_response: Option<&'static str>| {
        let initial_response = initial_response.map(str::as_bytes);
        CommandBody::Authenticate { mechanism, initial_response }
    };
    check("AUTHENTICATE PLAIN", authenticate("PLAIN", None));
    check("AUTHENTICATE PLAIN =", authenticate("PLAIN", Some("")));
    check("authenticate plain AGEAYg==", authenticate("plain", Some("AGEAYg==")));

    check("ENABLE CONDSTORE X-Y", CommandBody::Enable(vec!["CONDSTORE", "X-Y"]));
    check("ID NIL", CommandBody::Id(vec![]));
    check("ID ()", CommandBody::Id(vec![]));
    check(
        "ID (\"name\" \"x\" \"os\" NIL)",
        CommandBody::Id(vec![(text("name"), Some(text("x"))), (text("os"), None)]),
    );
}

/// RFC 3501 6.3, RFC 6154, RFC 7162 3.1.8, RFC 8438.
#[test]
fn mailboxes() {
    let select = |name, condstore| CommandBody::Select { mailbox: mailbox(name), condstore };
    check("SELECT INBOX", select("INBOX", false));
    check("SELECT \"a b\" (CONDSTORE)", select("a b", true));
    check("SELECT {5}\r\nINBOX", select("INBOX", false));
    check("EXAMINE x", CommandBody::Examine { mailbox: mailbox("x"), condstore: false });
    let create = |special_use, unknown_use| CommandBody::Create {
        mailbox: mailbox("x"),
        special_use,
        unknown_use,
    };
    check("CREATE x", create(vec![], false));
    check(
        "CREATE x (USE (\\Drafts \\sent \\Sent))",
        create(vec![SpecialUse::Drafts, SpecialUse::Sent], false),
    );
    check("CREATE x (USE (\\Weird))", create(vec![], true));
    check("DELETE x", CommandBody::Delete { mailbox: mailbox("x") });
    check("RENAME x y/z", CommandBody::Rename { source: mailbox("x"), target: mailbox("y/z") });
    check("SUBSCRIBE x", CommandBody::Subscribe { mailbox: mailbox("x") });
    check("UNSUBSCRIBE x", CommandBody::Unsubscribe { mailbox: mailbox("x") });
    check("LSUB \"\" *", CommandBody::Lsub { reference: mailbox(""), pattern: mailbox("*") });
    check(
        "STATUS x (messages UIDNEXT)",
        CommandBody::Status {
            mailbox: mailbox("x"),
            items: StatusItems(StatusItems::MESSAGES.0 | StatusItems::UID_NEXT.0),
        },
    );
    check(
        "STATUS x (RECENT UIDVALIDITY UNSEEN HIGHESTMODSEQ SIZE)",
        CommandBody::Status { mailbox: mailbox("x"), items: StatusItems(0x7f & !1 & !4) },
    );
}

/// RFC 3501 6.3.8, RFC 5258, RFC 5819, RFC 6154 5.
#[test]
fn lists() {
    let plain = List {
        selection: ListSelection::default(),
        reference: mailbox(""),
        patterns: vec![mailbox("*")],
        returns: ListReturn::default(),
        extended: false,
    };
    check("LIST \"\" *", CommandBody::List(plain.clone()));
    check("LIST \"\" \"*\"", CommandBody::List(plain.clone()));
    check(
        "LIST a/ b%",
        CommandBody::List(List {
            reference: mailbox("a/"),
            patterns: vec![mailbox("b%")],
            ..plain.clone()
        }),
    );
    let extended = List { extended: true, ..plain };
    check("LIST () \"\" *", CommandBody::List(extended.clone()));
    check("LIST \"\" * RETURN ()", CommandBody::List(extended.clone()));
    check(
        "LIST \"\" (INBOX \"a b\" %)",
        CommandBody::List(List {
            patterns: vec![mailbox("INBOX"), mailbox("a b"), mailbox("%")],
            ..extended.clone()
        }),
    );
    check(
        "LIST (SUBSCRIBED RECURSIVEMATCH REMOTE) \"\" * RETURN (CHILDREN STATUS (SIZE UNSEEN))",
        CommandBody::List(List {
            selection: ListSelection {
                subscribed: true,
                remote: true,
                recursive_match: true,
                special_use: false,
            },
            returns: ListReturn {
                subscribed: true,
                children: true,
                special_use: false,
                status: Some(StatusItems(StatusItems::SIZE.0 | StatusItems::UNSEEN.0)),
            },
            ..extended.clone()
        }),
    );
    check(
        "LIST (SPECIAL-USE) \"\" * RETURN (SPECIAL-USE SUBSCRIBED)",
        CommandBody::List(List {
            selection: ListSelection { special_use: true, ..Default::default() },
            returns: ListReturn { special_use: true, subscribed: true, ..Default::default() },
            ..extended
        }),
    );
}

/// RFC 3501 6.3.11; the frame ends at the message's literal.
#[test]
fn appends() {
    let plain = Append { mailbox: mailbox("x"), flags: FlagList::default(), internal_date: None };
    check("APPEND x {310}", CommandBody::Append(plain.clone()));
    check("APPEND {1}\r\nx {310+}", CommandBody::Append(plain.clone()));
    check("APPEND x () {310}", CommandBody::Append(plain.clone()));
    check(
        "APPEND x (\\Seen $Junk \\DRAFT $junk) {310}",
        CommandBody::Append(Append {
            flags: FlagList { system: Flags::SEEN | Flags::DRAFT, keywords: vec!["$Junk"] },
            ..plain
        }),
    );
}

fn fetch(items: &[FetchItem<'static>]) -> CommandBody<'static> {
    CommandBody::Fetch(Fetch {
        uid: false,
        set: set("1"),
        items: items.to_vec(),
        changed_since: None,
    })
}

/// RFC 3501 6.4.5.
#[test]
fn fetch_items() {
    use FetchItem::*;
    check("FETCH 1 FLAGS", fetch(&[Flags]));
    check("FETCH 1 (FLAGS)", fetch(&[Flags]));
    check("FETCH 1 (UID flags UID)", fetch(&[Uid, Flags]));
    check("FETCH 1 FAST", fetch(&[Flags, InternalDate, Rfc822Size]));
    check("FETCH 1 ALL", fetch(&[Flags, InternalDate, Rfc822Size, Envelope]));
    check("FETCH 1 FULL", fetch(&[Flags, InternalDate, Rfc822Size, Envelope, Body]));
    check(
        "FETCH 1 (RFC822 RFC822.HEADER RFC822.TEXT BODY BODYSTRUCTURE MODSEQ)",
        fetch(&[Rfc822, Rfc822Header, Rfc822Text, Body, BodyStructure, ModSeq]),
    );
}

#[test]
fn fetch_sections() {
    let section = |path: &[u32], part| Section { path: path.into(), part };
    let peek = |section| FetchItem::Section { section, partial: None, peek: true };
    check("FETCH 1 BODY.PEEK[]", fetch(&[peek(section(&[], SectionPart::Full))]));
    check("FETCH 1 BODY.PEEK[1.2.3]", fetch(&[peek(section(&[1, 2, 3], SectionPart::Full))]));
    check("FETCH 1 BODY.PEEK[1.MIME]", fetch(&[peek(section(&[1], SectionPart::Mime))]));
    check("FETCH 1 BODY.PEEK[4.text]", fetch(&[peek(section(&[4], SectionPart::Text))]));
    check("FETCH 1 BODY.PEEK[HEADER]", fetch(&[peek(section(&[], SectionPart::Header))]));
    check(
        "FETCH 1 BODY.PEEK[HEADER.FIELDS (From \"To\")]",
        fetch(&[peek(section(&[], SectionPart::HeaderFields(vec![text("From"), text("To")])))]),
    );
    check(
        "FETCH 1 BODY.PEEK[2.HEADER.FIELDS.NOT ({2}\r\nTo)]",
        fetch(&[peek(section(&[2], SectionPart::HeaderFieldsNot(vec![text("To")])))]),
    );
    check(
        "FETCH 1 (BODY[]<0.2048> BODY[TEXT])",
        fetch(&[
            FetchItem::Section {
                section: section(&[], SectionPart::Full),
                partial: Some(Partial { offset: 0, count: 2048 }),
                peek: false,
            },
            FetchItem::Section {
                section: section(&[], SectionPart::Text),
                partial: None,
                peek: false,
            },
        ]),
    );
}

/// RFC 3501 6.4.8, RFC 7162 3.1.4.
#[test]
fn fetch_forms() {
    check(
        "UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345)",
        CommandBody::Fetch(Fetch {
            uid: true,
            set: set("1:*"),
            items: vec![FetchItem::Flags, FetchItem::ModSeq, FetchItem::Uid],
            changed_since: Some(ModSeq(12345)),
        }),
    );
}

/// RFC 3501 6.4.6, 6.4.7, RFC 7162 3.1.3, RFC 6851.
#[test]
fn stores_and_copies() {
    let store = Store {
        uid: false,
        set: set("2:4"),
        unchanged_since: None,
        action: FlagAction::Add,
        silent: false,
        flags: FlagList { system: Flags::DELETED, ..FlagList::default() },
    };
    check("STORE 2:4 +FLAGS (\\Deleted)", CommandBody::Store(store.clone()));
    check("STORE 2:4 +FLAGS \\Deleted", CommandBody::Store(store.clone()));
    check(
        "UID STORE 2:4 (UNCHANGEDSINCE 0) -flags.silent \\Deleted x Y",
        CommandBody::Store(Store {
            uid: true,
            unchanged_since: Some(ModSeq(0)),
            action: FlagAction::Remove,
            silent: true,
            flags: FlagList { system: Flags::DELETED, keywords: vec!["x", "Y"] },
            ..store.clone()
        }),
    );
    check(
        "STORE 2:4 FLAGS ()",
        CommandBody::Store(Store {
            action: FlagAction::Replace,
            flags: FlagList::default(),
            ..store
        }),
    );
    let (set, mailbox) = (set("2:4"), mailbox("x"));
    let copy = CommandBody::Copy { uid: false, set: set.clone(), mailbox: mailbox.clone() };
    check("COPY 2:4 x", copy);
    check("UID MOVE 2:4 x", CommandBody::Move { uid: true, set, mailbox });
}

fn search(key: SearchKey<'static>) -> CommandBody<'static> {
    CommandBody::Search(Search { uid: false, returns: None, charset: None, key })
}

/// RFC 3501 6.4.4.
#[test]
fn search_keys() {
    use SearchKey as Key;
    let header = |name, value| Key::Header(text(name), text(value));
    let cases: Vec<(&str, SearchKey<'static>)> = vec![
        ("ALL", Key::All),
        ("ANSWERED", Key::Set(Flags::ANSWERED)),
        ("unseen", Key::Unset(Flags::SEEN)),
        ("UNDRAFT", Key::Unset(Flags::DRAFT)),
        ("NEW", Key::And(vec![Key::Recent, Key::Unset(Flags::SEEN)])),
        ("OLD", Key::Not(Box::new(Key::Recent))),
        ("RECENT", Key::Recent),
        ("KEYWORD $Junk", Key::Keyword("$Junk")),
        ("UNKEYWORD x", Key::Unkeyword("x")),
        ("BCC x", header("Bcc", "x")),
        ("CC x", header("Cc", "x")),
        ("FROM \"a b\"", header("From", "a b")),
        ("SUBJECT {4}\r\n\u{e4}\u{e4}", header("Subject", "\u{e4}\u{e4}")),
        ("TO \"\"", header("To", "")),
        ("HEADER X-Y z", header("X-Y", "z")),
        ("BODY x", Key::Body(text("x"))),
        ("TEXT x", Key::Text(text("x"))),
        ("LARGER 0", Key::Larger(0)),
        ("SMALLER 5000000000", Key::Smaller(5_000_000_000)),
        ("1:3,*", Key::Sequence(set("1:3,*"))),
        ("*:4", Key::Sequence(set("*:4"))),
        ("UID 7", Key::Uid(set("7"))),
        ("MODSEQ 620162338", Key::ModSeq(ModSeq(620_162_338))),
        ("MODSEQ \"/flags/\\\\draft\" all 1", Key::ModSeq(ModSeq(1))),
        ("NOT SEEN", Key::Not(Box::new(Key::Set(Flags::SEEN)))),
        ("OR SEEN ALL", Key::Or(Box::new((Key::Set(Flags::SEEN), Key::All)))),
        ("(ALL)", Key::All),
        (
            "ALL (SEEN DRAFT)",
            Key::And(vec![Key::All, Key::And(vec![Key::Set(Flags::SEEN), Key::Set(Flags::DRAFT)])]),
        ),
    ];
    for (line, key) in cases {
        check(&format!("SEARCH {line}"), search(key));
    }
}

/// Needs `mime::date` for the days.
#[test]
fn search_dates() {
    use DateTest::{Before, On, Since};
    check("SEARCH BEFORE 1-Feb-1994", search(SearchKey::InternalDate(Before, 8_797)));
    check("SEARCH ON \"01-Feb-1994\"", search(SearchKey::InternalDate(On, 8_797)));
    check("SEARCH SINCE 1-feb-1994", search(SearchKey::InternalDate(Since, 8_797)));
    check("SEARCH SENTBEFORE 1-Feb-1994", search(SearchKey::SentDate(Before, 8_797)));
    check("SEARCH SENTON 1-Feb-1994", search(SearchKey::SentDate(On, 8_797)));
    check("SEARCH SENTSINCE 1-Feb-1994", search(SearchKey::SentDate(Since, 8_797)));
    // RFC 3501 9 `date-day-fixed` is of date-time only; phones send it here, too.
    for date in ["\" 1-Feb-1994\"", "\"1-Feb-1994 \"", "\"  01-feb-1994\"", " 1-Feb-1994"] {
        check(&format!("SEARCH SINCE {date}"), search(SearchKey::InternalDate(Since, 8_797)));
        check(&format!("SEARCH SENTON {date}"), search(SearchKey::SentDate(On, 8_797)));
    }
    let append = parse(b"a APPEND x \"01-Feb-1994 01:00:00 +0100\" {1}\r\n").expect("a command");
    let CommandBody::Append(append) = append.body else { panic!("an APPEND") };
    let expected = crate::model::Timestamp::from_unix_seconds(8_797 * 86_400);
    assert_eq!(append.internal_date, Some(expected));
}

/// RFC 4731 3.1, RFC 3501 6.4.4.
#[test]
fn search_forms() {
    let all = SearchReturn { all: true, ..SearchReturn::default() };
    let form = |uid, returns, charset: Option<&'static str>| {
        CommandBody::Search(Search {
            uid,
            returns,
            charset: charset.map(text),
            key: SearchKey::All,
        })
    };
    check("SEARCH RETURN () ALL", form(false, Some(all), None));
    check("UID SEARCH RETURN (ALL) CHARSET UTF-8 ALL", form(true, Some(all), Some("UTF-8")));
    check(
        "SEARCH RETURN (MIN MAX COUNT) ALL",
        form(false, Some(SearchReturn { min: true, max: true, all: false, count: true }), None),
    );
    check("SEARCH CHARSET \"x\" ALL", form(false, None, Some("x")));
}

/// Every one is a BAD that names its tag and says something.
#[test]
fn refused() {
    const CASES: &[(&str, &str)] = &[
        ("", "unknown command"),
        ("XYZZY", "unknown command"),
        ("XYZZY 1", "unknown command"),
        ("A-VERY-LONG-COMMAND-NAME-THAT-IS-NONE", "unknown command"),
        ("NOOP x", "unexpected"),
        ("LOGIN", "arguments"),
        ("LOGIN x", "arguments"),
        ("LOGIN x ", "string is missing"),
        ("LOGIN  x", "arguments"),
        ("LOGIN \"x y", "quote"),
        ("LOGIN \"x\\n\" y", "escaped"),
        ("LOGIN \"x\0\" y", "NUL"),
        ("LOGIN {1}\r\n\0 y", "NUL"),
        ("LOGIN \"x\ry\" z", "CR"),
        ("LOGIN x {5}\r\nabc", "cut short"),
        ("LOGIN x {5} y", "end its line"),
        ("LOGIN x {99999999999999999999}\r\n", "too large"),
        ("LOGIN x\u{e9} y", "space"),
        ("AUTHENTICATE PLAIN !", "base64"),
        ("SELECT INBOX (QRESYNC (1 2))", "unknown select parameter"),
        ("SELECT (x)", "string is missing"),
        ("CREATE x (QUOTA 1)", "CREATE parameter"),
        ("STATUS x ()", "unknown word"),
        ("STATUS x (WEIGHT)", "status item"),
        ("STATUS x MESSAGES", "status items"),
        ("LIST (RECURSIVEMATCH) \"\" *", "RECURSIVEMATCH"),
        ("LIST (RECURSIVEMATCH REMOTE) \"\" *", "RECURSIVEMATCH"),
        ("LIST (SIDEWAYS) \"\" *", "selection option"),
        ("LIST \"\" * RETURN (SIDEWAYS)", "return option"),
        ("LIST \"\" * x", "RETURN"),
        ("LIST \"\" ()", "pattern"),
        ("APPEND x", "arguments"),
        ("APPEND x (\\Seen) hello", "literal"),
        ("APPEND x (\\Strange) {3}", "system flag"),
        ("APPEND x (\\Seen \\Recent) {3}", "Recent"),
        ("STORE 1 FLAGS (\\Recent)", "Recent"),
        ("STORE 1 +FLAGS \\Seen \\recent", "Recent"),
        ("UID STORE 1 -FLAGS.SILENT (\\RECENT x)", "Recent"),
        ("APPEND x \"yesterday\" {3}", "date-time"),
        ("APPEND x ~{3}", "literal"),
        ("FETCH 0 FLAGS", "sequence set"),
        ("FETCH 1: FLAGS", "sequence set"),
        ("FETCH 1,,2 FLAGS", "sequence set"),
        ("FETCH 4294967296 FLAGS", "sequence set"),
        ("FETCH 01 FLAGS", "sequence set"),
        ("FETCH , FLAGS", "sequence set"),
        ("FETCH 1 ()", "fetch item"),
        ("FETCH 1 (ALL)", "fetch item"),
        ("FETCH 1 (FLAGS", "parenthesis"),
        ("FETCH 1 ( )", "fetch item"),
        ("FETCH 1 BODY [TEXT]", "modifier"),
        ("FETCH 1 BODY[]< 0.1>", "number"),
        ("LOGIN x { 3}", "number"),
        ("STORE 1 FLAGS \\Seen )", "unexpected"),
        ("FETCH 1 BODY[MIME]", "part number"),
        ("FETCH 1 BODY[0]", "from 1"),
        ("FETCH 1 BODY[1.]", "section"),
        ("FETCH 1 BODY[1", "]"),
        ("FETCH 1 BODY[HEADER.FIELDS ()]", "string is missing"),
        ("FETCH 1 BODY[]<0.0>", "not be 0"),
        ("FETCH 1 BODY[]<0>", "partial"),
        ("FETCH 1 RFC822[]", "unexpected"),
        ("FETCH 1 FLAGS (SOMETIMES)", "modifier"),
        ("FETCH 1 FLAGS (CHANGEDSINCE 9223372036854775808)", "number too large"),
        ("STORE 1 FLAGS", "space"),
        ("STORE 1 FLAGS \\Seen)", "unexpected"),
        ("STORE 1 UID 3", "only FLAGS"),
        ("STORE 1 (IFEVER 1) FLAGS x", "STORE modifier"),
        ("UID NOOP", "space"),
        ("UID NOOP 1", "unknown UID command"),
        ("UID", "arguments"),
        ("SEARCH", "arguments"),
        ("SEARCH x", "search key"),
        ("SEARCH NOT", "search key"),
        ("SEARCH OR SEEN", "space"),
        ("SEARCH ()", "search key"),
        ("SEARCH (SEEN", "parenthesis"),
        ("SEARCH ON 31-Feb-2020", "date"),
        ("SEARCH ON \"1 -Feb-2020\"", "date"),
        ("SEARCH ON \" \"", "date"),
        ("SEARCH ON \" 1-Feb-2020", "quote"),
        ("SEARCH RETURN (SAVE) ALL", "return option"),
        ("SEARCH MODSEQ \"/x\" all 1", "MODSEQ entry"),
        ("SEARCH LARGER 99999999999999999999", "too large"),
        ("ENABLE ", "atom"),
        ("ID (\"x\")", "space"),
        ("ID x", "list or NIL"),
    ];
    for &(line, expected) in CASES {
        let frame = format!("a1 {line}\r\n");
        let error = parse(frame.as_bytes()).expect_err(line);
        assert_eq!(error.tag, Some("a1"), "{line}");
        assert!(error.what.contains(expected), "{line}: {}", error.what);
    }
}

/// More spaces than the grammar has mean the same as one.
#[test]
fn spaces() {
    const CASES: &[(&str, &str)] = &[
        (" NOOP  ", "NOOP"),
        ("  LOGIN  x  {1}\r\n   ", "LOGIN x {1}\r\n "),
        ("LOGIN {3}\r\na b  {2}\r\n   ", "LOGIN {3}\r\na b {2}\r\n  "),
        ("AUTHENTICATE  PLAIN ", "AUTHENTICATE PLAIN"),
        ("AUTHENTICATE PLAIN  = ", "AUTHENTICATE PLAIN ="),
        ("ENABLE  CONDSTORE  X-Y ", "ENABLE CONDSTORE X-Y"),
        ("ID  ( \"a\"  NIL  \"b\" \"c\" ) ", "ID (\"a\" NIL \"b\" \"c\")"),
        ("ID ( )", "ID ()"),
        ("SELECT  x ", "SELECT x"),
        ("SELECT x  ( CONDSTORE ) ", "SELECT x (CONDSTORE)"),
        ("CREATE  x  ( USE  ( \\Sent  ) ) ", "CREATE x (USE (\\Sent))"),
        ("CREATE x ", "CREATE x"),
        ("RENAME  x  y ", "RENAME x y"),
        ("LSUB  \"\"  * ", "LSUB \"\" *"),
        ("LIST  \"\"  % ", "LIST \"\" %"),
        (
            "LIST  ( SUBSCRIBED )  \"\"  ( a  b )  RETURN  ( CHILDREN  STATUS  ( SIZE ) ) ",
            "LIST (SUBSCRIBED) \"\" (a b) RETURN (CHILDREN STATUS (SIZE))",
        ),
        ("STATUS  x  (  MESSAGES  UNSEEN ) ", "STATUS x (MESSAGES UNSEEN)"),
        ("APPEND  x  ( \\Seen  y )  {3}", "APPEND x (\\Seen y) {3}"),
        (
            "APPEND x  ( )  \"01-Jan-1970 00:00:00 +0000\"  {3+}",
            "APPEND x () \"01-Jan-1970 00:00:00 +0000\" {3+}",
        ),
        ("FETCH  1  FLAGS ", "FETCH 1 FLAGS"),
        (
            "UID  FETCH  1  ( FLAGS  UID )  ( CHANGEDSINCE  7 ) ",
            "UID FETCH 1 (FLAGS UID) (CHANGEDSINCE 7)",
        ),
        ("FETCH 1 BODY[ HEADER.FIELDS  ( To  From ) ]", "FETCH 1 BODY[HEADER.FIELDS (To From)]"),
        ("STORE  1  +FLAGS  (\\Deleted )", "STORE 1 +FLAGS (\\Deleted)"),
        ("STORE 1 FLAGS  \\Seen  x ", "STORE 1 FLAGS \\Seen x"),
        ("STORE 1  ( UNCHANGEDSINCE  7 )  FLAGS x", "STORE 1 (UNCHANGEDSINCE 7) FLAGS x"),
        ("UID  EXPUNGE  1 ", "UID EXPUNGE 1"),
        ("UID COPY  1  x ", "UID COPY 1 x"),
        (
            "SEARCH  RETURN  ( MIN )  CHARSET  UTF-8  SEEN  OR  ( ALL )  ( 1  2 )  NOT  ALL ",
            "SEARCH RETURN (MIN) CHARSET UTF-8 SEEN OR (ALL) (1 2) NOT ALL",
        ),
        ("SEARCH ( SEEN ) ", "SEARCH (SEEN)"),
        ("SEARCH  HEADER  x  y ", "SEARCH HEADER x y"),
        ("SEARCH MODSEQ  \"/flags/x\"  all  1 ", "SEARCH MODSEQ \"/flags/x\" all 1"),
    ];
    for &(spaced, plain) in CASES {
        let (spaced, plain) = (format!("a1 {spaced}\r\n"), format!("a1 {plain}\r\n"));
        let expected = parse(plain.as_bytes()).expect(&plain);
        assert_eq!(parse(spaced.as_bytes()), Ok(expected), "{spaced}");
    }
}

#[test]
fn tags() {
    const CASES: &[(&str, Option<&str>)] = &[
        ("a1\r\n", Some("a1")),
        ("A]0.x\r\n", Some("A]0.x")),
        ("\r\n", None),
        (" NOOP\r\n", None),
        ("+ NOOP\r\n", None),
        ("* NOOP\r\n", None),
        ("{3}\r\n", None),
        ("\u{e9} NOOP\r\n", None),
        ("\0\r\n", None),
    ];
    for &(frame, expected) in CASES {
        assert_eq!(parse(frame.as_bytes()).expect_err(frame).tag, expected, "{frame:?}");
        assert_eq!(tag_of(frame.as_bytes()), expected, "{frame:?}");
    }
    // A bare LF is no line end, but the tag is known.
    let error = parse(b"a NOOP\n").expect_err("bare LF");
    assert_eq!((error.tag, error.what), (Some("a"), "a line must end in CRLF"));
    let error = parse(b"a LOGIN x\ny z\r\n").expect_err("LF inside");
    assert_eq!(error.tag, Some("a"));
}

/// Bad input that is long: the answer comes from a limit, not from the size.
#[test]
fn bombs() {
    let cases = [
        (format!("a SEARCH {}ALL\r\n", "NOT ".repeat(15_000)), "nest too deeply"),
        (format!("a SEARCH {}ALL\r\n", "(".repeat(60_000)), "nest too deeply"),
        (format!("a SEARCH {}ALL\r\n", "OR ".repeat(15_000)), "nest too deeply"),
        (format!("a SEARCH{}\r\n", " ALL".repeat(15_000)), "too many search keys"),
        (format!("a FETCH 1 {}\r\n", "(".repeat(60_000)), "unknown fetch item"),
        (format!("a FETCH 1 BODY[{}]\r\n", "1.".repeat(30_000)), "too deep"),
        (format!("a STORE 1 FLAGS {}\r\n", "(".repeat(60_000)), "atom"),
        (format!("a LIST \"\" ({})\r\n", "* ".repeat(30_000)), "too many patterns"),
        (format!("a FETCH {}1 FLAGS\r\n", "1,3,".repeat(16_000)), "too many parts"),
    ];
    for (frame, expected) in &cases {
        let error = parse(frame.as_bytes()).expect_err(expected);
        assert!(error.what.contains(expected), "{}: {expected}", error.what);
    }
    let keywords: String = (0..10_000).map(|number| format!(" k{number}")).collect();
    let frame = format!("a STORE 1 FLAGS{keywords}\r\n");
    assert_eq!(parse(frame.as_bytes()).expect_err("keywords").what, "too many keywords");
    let items: String = (1..2_000).map(|number| format!("BODY[{number}] ")).collect();
    let frame = format!("a FETCH 1 ({items}UID)\r\n");
    assert_eq!(parse(frame.as_bytes()).expect_err("items").what, "too many fetch items");
}

#[test]
fn the_deepest_search_allowed_is_understood() {
    let frame = format!("a SEARCH {}ALL\r\n", "NOT ".repeat(99));
    assert!(parse(frame.as_bytes()).is_ok());
}

/// The framer and the parser agree on where literals are, however the input arrives.
#[test]
fn commands_split_at_every_byte() {
    const COMMANDS: &[&str] = &[
        "a LOGIN {5}\r\nalice {4+}\r\ndemo\r\n",
        "b SELECT \"{5}\"\r\n",
        "c SEARCH CHARSET UTF-8 OR SUBJECT {2+}\r\n\r\n (FROM {0}\r\n TEXT \"x\")\r\n",
        "d FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS ({4+}\r\nDate To)])\r\n",
        "e LIST (SUBSCRIBED) {0+}\r\n {1}\r\n* RETURN (STATUS (MESSAGES))\r\n",
        "f NOOP\n",
    ];
    let input = COMMANDS.concat();
    for split in 0..=input.len() {
        let mut framer = Framer::new(Limits::default());
        let (mut start, mut end, mut commands) = (0, split, COMMANDS.iter());
        loop {
            match framer.next(&input.as_bytes()[start..end]) {
                Frame::More if end == input.len() => break,
                Frame::More => end = input.len(),
                Frame::Continue => {}
                Frame::Command { size } => {
                    let frame = &input[start..start + size];
                    assert_eq!(Some(&frame), commands.next(), "split at {split}");
                    let parsed = parse(frame.as_bytes());
                    assert_eq!(parsed.is_ok(), frame.ends_with("\r\n"), "{frame}: {parsed:?}");
                    start += size;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(commands.next(), None, "split at {split}");
    }
}

proptest! {
    #[test]
    fn any_octets_are_survived(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&frame);
    }

    /// Words of the grammar in any order reach deeper than octets do.
    #[test]
    fn any_words_are_survived(words in proptest::collection::vec(prop_oneof![
        Just("FETCH"), Just("SEARCH"), Just("UID"), Just("STORE"), Just("LIST"), Just("APPEND"),
        Just(" "), Just(" "), Just(" "), Just("("), Just(")"), Just("1:*"), Just("BODY["),
        Just("]"), Just("<1.2>"), Just("HEADER.FIELDS"), Just("FLAGS"), Just("\\Seen"),
        Just("{1}\r\n"), Just("{3+}\r\n"), Just("\""), Just("\\"), Just("NOT"), Just("OR"),
        Just("RETURN"), Just("STATUS"), Just("1"), Just("1-Jan-2020"), Just("*"), Just("x"),
    ], 0..30)) {
        let frame = format!("a {}\r\n", words.concat());
        if let Err(error) = parse(frame.as_bytes()) {
            prop_assert_eq!(error.tag, Some("a"));
        }
    }
}
