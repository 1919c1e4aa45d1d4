//! Malformed commands, and properties that all commands share. Also helpers of the tests in the
//! commands' files.

use std::borrow::Cow;

use proptest::prelude::*;

use super::{Command, CommandBody, Frame, Framer, Limits, MailboxName, SequenceSet, parse, tag_of};

pub(super) fn text(text: &'static str) -> Cow<'static, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

pub(super) fn mailbox(name: &'static str) -> MailboxName<'static> {
    MailboxName(text(name))
}

pub(super) fn set(text: &str) -> SequenceSet {
    SequenceSet::parse(text.as_bytes()).expect("a set")
}

/// `line` without its CRLF is parsed as `expected`.
#[track_caller]
pub(super) fn check(line: &str, expected: CommandBody<'static>) {
    let frame = format!("a1 {line}\r\n");
    let command = parse(frame.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    assert_eq!(command, Command { tag: "a1", body: expected }, "{line}");
}

/// Each is a BAD with its tag and a text.
#[test]
fn refused() {
    const CASES: &[(&str, &str)] = &[
        ("", "unknown command"),
        ("XYZZY", "unknown command"),
        ("XYZZY 1", "unknown command"),
        ("A-VERY-LONG-COMMAND-NAME-THAT-IS-NONE", "unknown command"),
        ("NOOP x", "unexpected"),
        ("COMPRESS", "missing"),
        ("COMPRESS LZW", "unknown compression"),
        ("COMPRESS DEFLATE DEFLATE", "unexpected"),
        ("UNAUTHENTICATE x", "unexpected"),
        ("LANGUAGE (en)", "missing"),
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
        ("SELECT INBOX (QRESYNC)", "space"),
        ("SELECT INBOX (X-Y)", "unknown select parameter"),
        ("SELECT (x)", "string is missing"),
        ("CREATE x (QUOTA 1)", "CREATE parameter"),
        ("SETACL x fred", "space"),
        ("SETACL x fred lrz", "unknown right"),
        ("SETACL x fred LR", "unknown right"),
        ("SETACL x fred +-l", "unknown right"),
        ("SETACL x fred lr0", "digits"),
        ("DELETEACL x", "space"),
        ("GETACL", "arguments"),
        ("GETACL x y", "unexpected"),
        ("LISTRIGHTS x", "space"),
        ("MYRIGHTS", "arguments"),
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
        ("LOGIN ~{1}\r\nx y", "literal8"),
        ("ID (\"x\" ~{1}\r\ny)", "in quotes or NIL"),
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
        ("UID NOOP", "unknown UID command"),
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
        ("SEARCH RETURN (KEEP) ALL", "return option"),
        ("SEARCH MODSEQ \"/x\" all 1", "MODSEQ entry"),
        ("SEARCH OLDER 0", "not be 0"),
        ("SEARCH YOUNGER", "search key"),
        ("SEARCH YOUNGER -1", "number"),
        ("SEARCH OLDER 99999999999999999999", "too large"),
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

#[test]
fn unknown_words_are_shown() {
    let long = "x".repeat(1_000);
    for (line, expected) in [
        ("SEARCH ZORK", "unknown search key, or its argument is missing: ZORK"),
        ("SEARCH NOT zork 1", "unknown search key: zork"),
        ("SEARCH ALL (", "unknown search key"),
        ("SEARCH \u{1}", "unknown search key"),
        ("UID FETCH 1 (FLAGS X-GM-LABELS)", "unknown fetch item: X-GM-LABELS"),
        ("FETCH 1 BODY.PEEK", "unknown fetch item: BODY.PEEK"),
        (&format!("FETCH 1 {long}"), &format!("unknown fetch item: {}", &long[..40])),
        ("ZORK", "unknown command"),
    ] {
        let frame = format!("a1 {line}\r\n");
        assert_eq!(parse(frame.as_bytes()).expect_err(line).text(), expected, "{line}");
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
    // A bare LF is not a line end, but the tag is known.
    let error = parse(b"a NOOP\n").expect_err("bare LF");
    assert_eq!((error.tag, error.what), (Some("a"), "a line must end in CRLF"));
    let error = parse(b"a LOGIN x\ny z\r\n").expect_err("LF inside");
    assert_eq!(error.tag, Some("a"));
}

/// Long bad input: a limit determines the cost, not the size.
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

    /// Random sequences of grammar words reach deeper than random octets.
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
