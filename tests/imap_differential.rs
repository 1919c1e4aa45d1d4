//! Compares our IMAP parser and writers with `imap-codec`, an independent implementation.
//!
//! Commands: both sides must accept the same input with the same meaning. The meaning is compared
//! through the wire: `imap-codec` encodes its value, which we must parse to the same value as the
//! original. Responses: `imap-codec` must parse our output with the intended meaning.

use imap_codec::{
    CommandCodec, GreetingCodec, ResponseCodec,
    decode::{CommandDecodeError, Decoder},
    encode::Encoder,
    imap_types::{
        fetch::MessageDataItem,
        response::{Code as TheirCode, Data, Response, Status as TheirStatus},
    },
};
use proptest::prelude::*;
use ringmail::{
    model::{FlagSet, Flags, KeywordSet, ModSeq, SpecialUse, Timestamp, Uid, UidValidity},
    protocol::{
        imap::{
            Announced, Attributes, Capabilities, Capability, Code, Command, FetchResponse, Frame,
            Framer, Limits, ListItem, Status, StatusValues, Writer, WrittenParts,
            mailbox::status::StatusItems,
            message::fetch::{Section, SectionPart},
            parse,
        },
        mime::Summarizer,
    },
};

/// Frames `input` and parses its one command. Literals follow without waiting.
fn ours(input: &[u8]) -> Result<Command<'_>, String> {
    let mut framer = Framer::new(Limits::default());
    loop {
        let size = match framer.next(input) {
            Frame::Continue => continue,
            Frame::Command { size } if size == input.len() => size,
            Frame::Part { size, literal }
                if size as u64 + literal.size + 2 == input.len() as u64 =>
            {
                size
            }
            other => return Err(format!("{other:?}")),
        };
        return parse(&input[..size]).map_err(|error| error.what.to_owned());
    }
}

/// `input` as parsed and re-encoded by `imap-codec`.
fn theirs(input: &[u8]) -> Result<Vec<u8>, CommandDecodeError<'_>> {
    let (rest, command) = CommandCodec::default().decode(input)?;
    if !rest.is_empty() {
        return Err(CommandDecodeError::Failed);
    }
    Ok(CommandCodec::default().encode(&command).dump())
}

/// Deliberate reasons to refuse input that `imap-codec` accepts.
const STRICTER: &[&str] = &[
    // RFC 3501 2.3.2 names five; others could be stored but not returned.
    "unknown system flag",
];

/// `input` without the spaces that we ignore. `imap-codec` accepts a single space only, as in the
/// grammar; we accept more, as other servers do.
fn without_excess_spaces(input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    let Ok(meaning) = ours(&input).map(|command| format!("{command:?}")) else { return input };
    let mut at = 0;
    while at < input.len() {
        if input[at] == b' ' {
            let mut shorter = input.clone();
            shorter.remove(at);
            if ours(&shorter).is_ok_and(|command| format!("{command:?}") == meaning) {
                input = shorter;
                continue;
            }
        }
        at += 1;
    }
    input
}

/// Both accept it with the same meaning, or both refuse it.
fn agree(input: &[u8]) -> Result<(), String> {
    let shown = input.escape_ascii();
    match (ours(input), theirs(input)) {
        (Err(_), Err(_)) => Ok(()),
        (Ok(_), Err(_)) if without_excess_spaces(input) != input => {
            agree(&without_excess_spaces(input))
        }
        (Ok(_), Err(error)) => Err(format!("only we take {shown}: {error:?}")),
        (Err(error), Ok(_)) if STRICTER.contains(&error.as_str()) => Ok(()),
        (Err(error), Ok(_)) => Err(format!("only they take {shown}: {error}")),
        (Ok(command), Ok(words)) => match ours(&words) {
            Ok(again) if again == command => Ok(()),
            again => Err(format!("{shown}\n{command:?}\n{}\n{again:?}", words.escape_ascii())),
        },
    }
}

#[test]
fn commands_of_the_rfcs() {
    const CASES: &[&str] = &[
        "abcd CAPABILITY\r\n",
        "a002 NOOP\r\n",
        "A023 LOGOUT\r\n",
        "a STARTTLS\r\n",
        "a AUTHENTICATE PLAIN\r\n",
        "a AUTHENTICATE PLAIN AGFsaWNlAGRlbW8=\r\n",
        "a AUTHENTICATE PLAIN =\r\n",
        "a001 LOGIN SMITH SESAME\r\n",
        "A001 LOGIN {11+}\r\nFRED FOOBAR {7+}\r\nfat man\r\n",
        "a LOGIN \"a\\\\b\" \"c\\\"d\"\r\n",
        "a ENABLE CONDSTORE\r\n",
        "a023 ID (\"name\" \"sodr\" \"version\" \"19.34\")\r\n",
        "a ID NIL\r\n",
        "A142 SELECT INBOX\r\n",
        "A142 SELECT INBOX (CONDSTORE)\r\n",
        "A932 EXAMINE blurdybloop\r\n",
        "A003 CREATE owatagusiam/\r\n",
        "A684 DELETE foo/bar\r\n",
        "A684 RENAME INBOX old-mail\r\n",
        "A002 SUBSCRIBE #news.comp.mail.mime\r\n",
        "A002 UNSUBSCRIBE #news.comp.mail.mime\r\n",
        "A101 LIST \"\" \"\"\r\n",
        "A202 LIST ~/Mail/ %\r\n",
        "A002 LSUB \"#news.\" \"comp.mail.*\"\r\n",
        "A042 STATUS blurdybloop (UIDNEXT MESSAGES)\r\n",
        "A042 STATUS blurdybloop (UNSEEN HIGHESTMODSEQ SIZE)\r\n",
        "A003 APPEND saved-messages (\\Seen) {3+}\r\nabc\r\n",
        "A003 APPEND saved {3}\r\nabc\r\n",
        "A003 APPEND saved ($MDNSent \\Flagged) \" 7-Feb-1994 21:52:25 -0800\" {3}\r\nabc\r\n",
        "a NAMESPACE\r\n",
        "a IDLE\r\n",
        "FXXZ CHECK\r\n",
        "A341 CLOSE\r\n",
        "A341 UNSELECT\r\n",
        "A202 EXPUNGE\r\n",
        "A003 UID EXPUNGE 3000:3002\r\n",
        "A282 SEARCH FLAGGED SINCE 1-Feb-1994 NOT FROM \"Smith\"\r\n",
        "A284 SEARCH CHARSET UTF-8 TEXT {6+}\r\nXXXXXX\r\n",
        "A286 SEARCH OR (ALL SEEN) NOT (UID 5,7:* LARGER 100)\r\n",
        "A287 UID SEARCH HEADER Message-ID <x@y> SENTON 1-Jan-2020 KEYWORD $Junk\r\n",
        "A654 FETCH 2:4 (FLAGS BODY[HEADER.FIELDS (DATE FROM)])\r\n",
        "A654 FETCH * (UID BODY.PEEK[1.2.MIME] BODY[3.TEXT]<5.10> BODY[])\r\n",
        "A654 UID FETCH 1:* ALL\r\n",
        "A654 FETCH 1 (FLAGS) (CHANGEDSINCE 5)\r\n",
        "A003 STORE 2:4 +FLAGS (\\Deleted)\r\n",
        "A003 STORE 2:4 -FLAGS.SILENT (x \\Seen)\r\n",
        "A003 UID STORE 2 (UNCHANGEDSINCE 7) FLAGS (x)\r\n",
        "A003 COPY 2:4 MEETING\r\n",
        "A003 UID MOVE 42:69 foo\r\n",
        "A003 SEARCH MODSEQ 5\r\n",
        "a1 UID SEARCH UNSEEN YOUNGER 259200 OLDER 60\r\n",
        "A282 SORT (SUBJECT) UTF-8 SINCE 1-Feb-1994\r\n",
        "A283 SORT (SUBJECT REVERSE DATE) UTF-8 ALL\r\n",
        "A284 UID SORT (REVERSE ARRIVAL CC FROM SIZE TO) US-ASCII TEXT {11+}\r\nnot in mail\r\n",
        "A283 THREAD ORDEREDSUBJECT UTF-8 SINCE 5-MAR-2000\r\n",
        "A284 UID THREAD REFERENCES US-ASCII TEXT \"gewp\"\r\n",
        "A0001 GETQUOTA \"!partition/sda4\"\r\n",
        "G0001 GETQUOTAROOT INBOX\r\n",
        "S0000 SETQUOTA \"#user/alice\" (STORAGE 510 MESSAGE 1000)\r\n",
        "S0001 SETQUOTA \"\" ()\r\n",
        "a GETMETADATA \"\" /shared/comment\r\n",
        "a GETMETADATA INBOX (/shared/comment /private/comment)\r\n",
        "a GETMETADATA (MAXSIZE 1024) INBOX (/shared/comment /private/comment)\r\n",
        "a GETMETADATA (DEPTH 1) INBOX (/private/filters/values)\r\n",
        "a SETMETADATA INBOX (/private/comment {33+}\r\nMy new comment across\r\ntwo lines.)\r\n",
        "a SETMETADATA INBOX (/private/comment NIL)\r\n",
        "a SETMETADATA \"\" (/private/comment \"x\" /shared/comment NIL)\r\n",
        "a COMPRESS DEFLATE\r\n",
        "a FETCH 1 (BINARY[1.2] BINARY.PEEK[]<0.5> BINARY.SIZE[3])\r\n",
    ];
    let refused: Vec<&str> =
        CASES.iter().copied().filter(|case| ours(case.as_bytes()).is_err()).collect();
    assert_eq!(refused, [""; 0], "we must take these");
    let errors: Vec<String> =
        CASES.iter().filter_map(|case| agree(case.as_bytes()).err()).collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}

/// Strings as clients write them: bare, quoted, literal.
fn astring() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9.\\]/~#-]{1,8}",
        "[ -~&&[^\"\\\\]]{0,8}".prop_map(|text| format!("\"{text}\"")),
        "[ -~]{0,6}".prop_map(|text| format!("{{{}}}\r\n{text}", text.len())),
        "[ -~]{0,6}".prop_map(|text| format!("{{{}+}}\r\n{text}", text.len())),
        "[\"\\\\a]{0,4}".prop_map(|text| {
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        }),
    ]
}

/// No mailbox may be called INBOX here: `imap-codec` changes its case.
fn mailbox() -> impl Strategy<Value = String> {
    astring().prop_filter("INBOX", |name| !name.to_ascii_lowercase().contains("inbox"))
}

fn sequence_set() -> impl Strategy<Value = String> {
    let number = prop_oneof![Just("*".to_owned()), "[1-9][0-9]{0,5}"];
    let part = (number.clone(), proptest::option::of(number))
        .prop_map(|(first, last)| last.map_or(first.clone(), |last| format!("{first}:{last}")));
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join(","))
}

fn search_key() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        proptest::sample::select(vec!["ALL", "SEEN", "UNSEEN", "NEW", "OLD", "RECENT", "DRAFT"])
            .prop_map(str::to_owned),
        (proptest::sample::select(vec!["FROM", "TO", "BODY", "TEXT", "SUBJECT"]), astring())
            .prop_map(|(key, text)| format!("{key} {text}")),
        sequence_set(),
        sequence_set().prop_map(|set| format!("UID {set}")),
        (1_u8..29, 1970_u16..2100).prop_map(|(day, year)| format!("SINCE {day}-Nov-{year}")),
        // Even when damaged it must fit in 32 bits: we accept 63, as in IMAP4rev2.
        (0..40_000_000).prop_map(|size| format!("LARGER {size}")),
    ];
    leaf.prop_recursive(4, 16, 3, |key| {
        prop_oneof![
            key.clone().prop_map(|key| format!("NOT {key}")),
            (key.clone(), key.clone()).prop_map(|(left, right)| format!("OR {left} {right}")),
            (key.clone(), key).prop_map(|(first, second)| format!("({first} {second})")),
        ]
    })
}

fn fetch_item() -> impl Strategy<Value = String> {
    let bare = vec!["FLAGS", "UID", "ENVELOPE", "BODY", "BODYSTRUCTURE", "RFC822", "RFC822.SIZE"];
    let part = prop_oneof![
        Just(String::new()),
        Just("HEADER".to_owned()),
        Just("TEXT".to_owned()),
        "[1-9](\\.[1-9]){0,3}(\\.(MIME|TEXT|HEADER))?",
        astring().prop_map(|name| format!("HEADER.FIELDS ({name} To)")),
    ];
    prop_oneof![
        proptest::sample::select(bare).prop_map(str::to_owned),
        (part, any::<bool>(), proptest::option::of((0_u32..9, 1_u32..9))).prop_map(
            |(part, peek, partial)| {
                let partial = partial.map(|(offset, count)| format!("<{offset}.{count}>"));
                let peek = if peek { ".PEEK" } else { "" };
                format!("BODY{peek}[{part}]{}", partial.unwrap_or_default())
            }
        ),
    ]
}

fn command() -> impl Strategy<Value = String> {
    let items = proptest::collection::vec(fetch_item(), 1..4);
    prop_oneof![
        (astring(), astring()).prop_map(|(user, password)| format!("LOGIN {user} {password}")),
        mailbox().prop_map(|name| format!("SELECT {name}")),
        mailbox().prop_map(|name| format!("CREATE {name}")),
        (mailbox(), mailbox()).prop_map(|(source, target)| format!("RENAME {source} {target}")),
        mailbox().prop_map(|name| format!("STATUS {name} (MESSAGES UNSEEN)")),
        (sequence_set(), mailbox()).prop_map(|(set, name)| format!("UID COPY {set} {name}")),
        (sequence_set(), items)
            .prop_map(|(set, items)| format!("FETCH {set} ({})", items.join(" "))),
        sequence_set().prop_map(|set| format!("STORE {set} +FLAGS.SILENT (\\Seen $x)")),
        search_key().prop_map(|key| format!("SEARCH {key}")),
        search_key().prop_map(|key| format!("UID SEARCH {key}")),
        mailbox().prop_map(|name| format!("APPEND {name} (\\Seen) {{2+}}\r\nhi")),
    ]
    .prop_map(|command| format!("a7 {command}\r\n"))
}

/// Commands of extensions. Damaged ones are not compared: each side has its own ideas about names.
fn extension() -> impl Strategy<Value = String> {
    let criterion =
        prop_oneof!["(REVERSE )?(ARRIVAL|CC|DATE|FROM)", "(REVERSE )?(SIZE|SUBJECT|TO)"];
    let order = proptest::collection::vec(criterion, 1..4).prop_map(|order| order.join(" "));
    prop_oneof![
        (order, search_key()).prop_map(|(order, key)| format!("UID SORT ({order}) UTF-8 {key}")),
        search_key().prop_map(|key| format!("THREAD REFERENCES UTF-8 {key}")),
        mailbox().prop_map(|name| format!("GETQUOTAROOT {name}")),
        astring().prop_map(|root| format!("GETQUOTA {root}")),
        (astring(), 0_u32..9).prop_map(|(root, size)| format!("SETQUOTA {root} (STORAGE {size})")),
        (mailbox(), astring()).prop_map(|(name, value)| {
            let value = if value.starts_with(['"', '{']) { value } else { "NIL".to_owned() };
            format!("SETMETADATA {name} (/private/comment {value})")
        }),
        mailbox().prop_map(|name| format!("GETMETADATA {name} (/shared/comment /private/a)")),
    ]
    .prop_map(|command| format!("a7 {command}\r\n"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2_000)
    })]

    #[test]
    fn commands_that_are_valid(command in prop_oneof![command(), extension()]) {
        if let Err(error) = ours(command.as_bytes()) {
            prop_assert!(false, "we refuse {command:?}: {error}");
        }
        if let Err(error) = agree(command.as_bytes()) {
            prop_assert!(false, "{error}");
        }
    }

    /// One octet is lost, doubled or replaced.
    #[test]
    fn commands_that_may_be_damaged(
        command in command(),
        at in any::<proptest::sample::Index>(),
        what in 0..3,
        octet in proptest::sample::select(b" ()\"{}[]<>*:,.%\\a1+-\r\n\0".to_vec()),
    ) {
        let mut input = command.into_bytes();
        // The line's end stays: without it both would wait.
        let at = at.index(input.len() - 2);
        match what {
            0 => drop(input.remove(at)),
            1 => input.insert(at, input[at]),
            _ => input[at] = octet,
        }
        // `imap-codec` also checks the message of an APPEND; we stream it.
        let appends_nul = input.starts_with(b"a7 APPEND") && input.contains(&0);
        // RFC 3501 9: a number other than 0 does not start with 0; `imap-codec` accepts it anyway.
        let has_leading_zero = input.windows(3).any(|three| {
            !three[0].is_ascii_digit() && three[1] == b'0' && three[2].is_ascii_digit()
        });
        prop_assume!(!appends_nul && !has_leading_zero);
        if let Err(error) = agree(&input) {
            prop_assert!(false, "{error}");
        }
    }
}

fn announced(capabilities: Capabilities) -> Announced {
    Announced { capabilities, append_limit: 50 << 20, message_limit: 0, save_limit: 0 }
}

/// Every kind of response, as bytes.
fn responses() -> Vec<u8> {
    let mut out = Vec::new();
    let keywords = ["$Junk".to_owned()];
    let mut writer = Writer::new(&mut out);
    let codes = [
        Code::BadCharset(&["UTF-8", "US-ASCII"]),
        Code::Capability(announced(Capabilities::ALL)),
        Code::ReadOnly,
        Code::ReadWrite,
        Code::TryCreate,
        Code::UidNext(Uid(5)),
        Code::UidValidity(UidValidity(6)),
        Code::Unseen(7),
        Code::HighestModSeq(ModSeq(8)),
        Code::Modified(vec![1, 2, 9]),
        Code::AppendUid(UidValidity(1), vec![Uid(2)]),
        Code::CopyUid(UidValidity(1), vec![(Uid(2), Uid(3)), (Uid(3), Uid(9))]),
        Code::Closed,
        Code::TooBig,
        Code::OverQuota,
    ];
    for code in codes {
        writer.untagged(Status::Ok, Some(code), "text");
    }
    writer.tagged("a1", Status::No, Some(Code::AlreadyExists), "exists");
    writer.tagged("a2", Status::Bad, None, "syntax");
    writer.bye("going");
    writer.capability(announced(Capabilities::ALL));
    writer.enabled([Capability::CondStore].into_iter().collect());
    writer.id(&[("name", Some("Ringmail")), ("os", None)]);
    writer.namespace("Other Users", "Shared");
    writer.exists(3);
    writer.recent(0);
    writer.expunge(2);
    writer.flags(&keywords);
    writer.permanent_flags(Flags::SEEN, &keywords, true);
    writer.list_separator();
    for name in ["INBOX", "a b", "Entw\u{fc}rfe", "\"quoted\"", "nil"] {
        let attributes = Attributes(0x1ff);
        let special_use = Some(SpecialUse::Drafts);
        let item = ListItem {
            name,
            attributes,
            special_use,
            child_subscribed: false,
            child_special_use: false,
            old_name: None,
        };
        writer.list(&item);
        writer.lsub(&item);
    }
    let values = StatusValues {
        messages: 1,
        uid_next: Uid(2),
        uid_validity: UidValidity(3),
        highest_mod_seq: ModSeq(4),
        ..StatusValues::default()
    };
    writer.status("a b", StatusItems(0x7f), &values);
    writer.search([1, 2, 3], None);
    writer.search([1], Some(ModSeq(5)));
    writer.search([], None);
    out
}

/// `imap-codec` parses every response completely, and recognizes each code that it has a type for.
#[test]
fn responses_are_read() {
    let bytes = responses();
    let mut rest = bytes.as_slice();
    let mut count = 0;
    while !rest.is_empty() {
        let (after, response) = ResponseCodec::default()
            .decode(rest)
            .unwrap_or_else(|error| panic!("{error:?} at {}", rest.escape_ascii()));
        if let Response::Status(TheirStatus::Untagged(body)) = &response {
            let code = body.code.as_ref();
            assert!(!matches!(code, None | Some(TheirCode::Other(_))), "{response:?}");
        }
        rest = after;
        count += 1;
    }
    assert_eq!(count, bytes.split(|&octet| octet == b'\n').count() - 1, "one a line");
    let mut greeting = Vec::new();
    let capabilities = announced([Capability::Imap4Rev1].into_iter().collect());
    let capabilities = Code::Capability(capabilities);
    Writer::new(&mut greeting).untagged(Status::Ok, Some(capabilities), "hi");
    assert!(GreetingCodec::default().decode(&greeting).is_ok());
}

/// A FETCH of everything, for generated messages, is parsed with the intended meaning.
#[test]
fn fetches_are_read() {
    let inner = "From: =?utf-8?q?a?= <a@b.test>\r\nSubject: \"\\\u{e4}\r\n\r\ninner\r\n";
    let messages = [
        "\r\n".to_owned(),
        inner.to_owned(),
        format!("Content-Type: message/rfc822\r\n\r\n{inner}"),
        format!(
            "To: group: x@y.test, z@y.test;, \"q \\\" q\" <@r.test:u@v.test>\r\n\
             Content-Type: multipart/alternative; boundary=\"=_x\"; a=\"b c\"\r\n\r\n\
             --=_x\r\nContent-Language: de\r\n\r\none\r\n--=_x\r\n\
             Content-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\
             Content-Type: message/rfc822\r\nContent-MD5: Q2hlY2s=\r\n\r\n{inner}\r\n--y--\r\n\
             --=_x--\r\n"
        ),
    ];
    for message in messages {
        let mut summarizer = Summarizer::new();
        summarizer.push(message.as_bytes());
        let summary = summarizer.finish();
        let mut out = Vec::new();
        let mut response = FetchResponse::begin(&mut out, 7);
        let mut keywords = KeywordSet::default();
        keywords.insert(0);
        let flags = FlagSet { system: Flags::SEEN, keywords };
        response.flags(&mut out, flags, &["$Junk".to_owned()], true);
        response.uid(&mut out, Uid(9));
        response.mod_seq(&mut out, ModSeq(10));
        response.size(&mut out, message.len() as u64);
        response.internal_date(&mut out, Timestamp(0));
        response.envelope(&mut out, &summary.envelope());
        let mut written = WrittenParts::default();
        response.body(&mut out, &summary, &mut written);
        response.body_structure(&mut out, &summary, &mut written);
        let header = Section {
            part: SectionPart::HeaderFields(vec![b"To".as_slice().into()]),
            ..Section::default()
        };
        response.section(&mut out, &header, None, Some(b"\r\n"));
        response.section_literal(&mut out, &Section::default(), Some(2), message.len() as u64);
        out.extend_from_slice(message.as_bytes());
        response.end(&mut out);

        let decoded = ResponseCodec::default().decode(&out);
        let Ok((b"", Response::Data(Data::Fetch { seq, items }))) = decoded else {
            panic!("{decoded:?} of {}", out.escape_ascii());
        };
        assert_eq!(seq.get(), 7);
        assert_eq!(items.as_ref().len(), 10);
        for item in items {
            match item {
                MessageDataItem::Uid(uid) => assert_eq!(uid.get(), 9),
                MessageDataItem::Rfc822Size(size) => assert_eq!(size as usize, message.len()),
                MessageDataItem::Flags(flags) => assert_eq!(flags.len(), 3),
                MessageDataItem::BodyExt { origin: Some(2), data, .. } => {
                    assert_eq!(data.into_option().as_deref(), Some(message.as_bytes()));
                }
                _ => {}
            }
        }
    }
}
