//! URLs that say who may use them (RFC 4467), from and to accounts on any shard, and what those try
//! who may not.
//!
//! Alice's account is on shard 0, bob's on shard 1, carol's beside one of them. Each case is played
//! with issuer, owner of the mailbox and reader on one shard and on several.

mod transcript;
mod world;

use std::{path::Path, rc::Rc, time::Duration};

use ringmail::{
    directory::{
        Directory, DirectoryOptions, DirectorySnapshot, PeerLimits, SharedDirectory, UsersFile,
    },
    events::rfc3339,
    runtime::executor::Executor,
};
use world::{AtOnce, Client, Kit, SimulatedWorld, accounts_of, serve_imap};

/// Two users of one shard and two of the other.
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Issuer and reader; the third one is the other's.
const CASES: [[&str; 3]; 4] = [
    ["alice", "bob", "carol"],
    ["alice", "carol", "bob"],
    ["bob", "alice", "dave"],
    ["alice", "dave", "carol"],
];

fn append(client: &mut Client, mailbox: &str, text: &str) {
    client.done(&format!("APPEND {mailbox} {{{}+}}\r\n{text}", text.len()));
}

/// An URL of `user` of a message in `mailbox`, as it is in an URL, for whom `end` says.
fn rump(user: &str, mailbox: &str, end: &str) -> String {
    format!("imap://{user}%40demo.test@mail.demo.test/{mailbox}/;UID=1/;SECTION=TEXT{end}")
}

/// The URL, signed.
fn sign(client: &mut Client, rump: &str) -> String {
    let told = client.done(&format!("GENURLAUTH \"{rump}\" INTERNAL"));
    let signed = told.strip_prefix("* GENURLAUTH \"").and_then(|told| told.split_once('"'));
    let (signed, _) = signed.expect("signed");
    assert!(signed.starts_with(&format!("{rump}:internal:")), "{signed}");
    signed.to_owned()
}

/// What URLFETCH returns of `url`; `None` for NIL.
fn fetch(client: &mut Client, url: &str) -> Option<String> {
    let told = client.done(&format!("URLFETCH \"{url}\""));
    let data = told.strip_prefix(&format!("* URLFETCH \"{url}\" ")).expect("a response");
    if data.starts_with("NIL\r\n") {
        return None;
    }
    let (size, rest) = data.strip_prefix('{').and_then(|it| it.split_once("}\r\n")).expect("data");
    let (text, rest) = rest.split_at(size.parse().expect("a size"));
    assert!(rest.starts_with("\r\n"), "{rest}");
    Some(text.to_owned())
}

struct Case<'k> {
    world: SimulatedWorld<'k>,
    issuer: Client,
    reader: Client,
    other: Client,
    names: [&'static str; 3],
}

/// The issuer has a message in `box`, and so has the other one.
fn case<'k>(kit: &'k Kit, names: [&'static str; 3]) -> Case<'k> {
    let mut options = world::options(true);
    options.imap.submitters = vec!["Dave@demo.test".to_owned()];
    options.imap.url_hosts = vec!["imap.demo.test".to_owned()];
    let world = SimulatedWorld::with_options(kit, serve_imap, 0, options, 64 << 20);
    let [mut issuer, reader, mut other] = names.map(|name| world.log_in(name));
    for (client, name) in [(&mut issuer, names[0]), (&mut other, names[2])] {
        client.done("CREATE box");
        append(client, "box", &format!("Subject: x\r\n\r\nof {name}\r\n"));
    }
    Case { world, issuer, reader, other, names }
}

#[test]
fn an_url_is_for_whom_it_says() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let [issuer, reader, other] = names;
        let text = Some(format!("of {issuer}\r\n"));
        // (who may use it, whether the issuer, the reader and the other one can)
        let readers = format!("user+{}%40demo.test", reader.to_uppercase());
        let cases = [
            ("anonymous", [true, true, true]),
            ("authuser", [true, true, true]),
            (&readers, [false, true, false]),
            ("user+nobody%40demo.test", [false, false, false]),
            ("submit+fred", [issuer, reader, other].map(|name| name == "dave")),
        ];
        for (access, expected) in cases {
            let end = format!(";URLAUTH={access}");
            let url = sign(&mut case.issuer, &rump(issuer, "box", &end));
            let clients = [&mut case.issuer, &mut case.reader, &mut case.other];
            for ((client, may), name) in clients.into_iter().zip(expected).zip(names) {
                let expected = text.clone().filter(|_| may);
                assert_eq!(fetch(client, &url), expected, "{access} of {issuer} by {name}");
            }
        }
    }
}

/// By the server's own name and those of the setting; a refusal says which name it is.
#[test]
fn urls_name_the_server_as_clients_do() {
    let kit = Kit::of(&USERS);
    let mut case = case(&kit, CASES[0]);
    let issuer = case.names[0];
    let own = rump(issuer, "box", ";URLAUTH=anonymous");
    let other = own.replace("mail.demo.test", "IMAP.demo.test");
    assert_ne!(own, other);
    for url in [&own, &other] {
        let url = sign(&mut case.issuer, url);
        assert_eq!(fetch(&mut case.reader, &url), Some(format!("of {issuer}\r\n")), "{url}");
    }
    let elsewhere = own.replace("mail.demo.test", "localhost");
    let told = case.issuer.answer(&format!("GENURLAUTH \"{elsewhere}\" INTERNAL"));
    assert!(told.contains("t BAD ") && told.contains("which is mail.demo.test"), "{told}");
}

/// RFC 4467 7: with the rights that the issuer has at that moment.
#[test]
fn urls_of_others_mailboxes_follow_the_rights_of_who_signed_them() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let [issuer, _, owner] = names;
        let mailbox = format!("Other%20Users/{owner}%40demo.test/box");
        let rump = rump(issuer, &mailbox, ";URLAUTH=authuser");
        let ask = format!("GENURLAUTH \"{rump}\" INTERNAL");
        assert!(case.issuer.answer(&ask).contains(" BAD "), "{names:?}");
        case.other.done(&format!("SETACL box {issuer}@demo.test lr"));
        let url = sign(&mut case.issuer, &rump);
        let text = Some(format!("of {owner}\r\n"));
        // The reader himself may read nothing of the owner.
        let list = case.reader.done("LIST \"\" \"Other Users/*\"");
        assert!(!list.contains("* LIST"), "{list}");
        assert_eq!(fetch(&mut case.reader, &url), text, "{names:?}");
        case.other.done(&format!("SETACL box {issuer}@demo.test -r"));
        assert_eq!(fetch(&mut case.reader, &url), None, "{names:?}");
        assert_eq!(fetch(&mut case.other, &url), None, "{names:?}");
        case.other.done(&format!("SETACL box {issuer}@demo.test +r"));
        assert_eq!(fetch(&mut case.reader, &url), text, "{names:?}");
        // The owner has another key for his mailbox, and another name for it.
        case.other.done("RESETKEY box");
        assert_eq!(fetch(&mut case.reader, &url), text, "{names:?}");
        case.other.done("RENAME box moved");
        assert_eq!(fetch(&mut case.reader, &url), None, "{names:?}");
        case.other.done("RENAME moved box");
        assert_eq!(fetch(&mut case.reader, &url), text, "{names:?}");
        case.issuer.done(&format!("RESETKEY \"Other Users/{owner}@demo.test/box\""));
        assert_eq!(fetch(&mut case.reader, &url), None, "{names:?}");
    }
}

/// RFC 4467 3: a mailbox created anew has another key, though the message has the same UID.
#[test]
fn a_mailbox_created_anew_is_another_one() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let url = sign(&mut case.issuer, &rump(names[0], "box", ";URLAUTH=anonymous"));
        assert!(fetch(&mut case.reader, &url).is_some());
        case.issuer.done("CREATE other");
        append(&mut case.issuer, "other", "Subject: x\r\n\r\nanother\r\n");
        case.issuer.done("DELETE box");
        assert_eq!(fetch(&mut case.reader, &url), None, "{names:?}");
        case.issuer.done("RENAME other box");
        assert_eq!(fetch(&mut case.reader, &url), None, "{names:?}");
        case.issuer.done("DELETE box");
        case.issuer.done("CREATE box");
        append(&mut case.issuer, "box", "Subject: x\r\n\r\nanew\r\n");
        assert_eq!(fetch(&mut case.reader, &url), None, "{names:?}");
        let again = sign(&mut case.issuer, &rump(names[0], "box", ";URLAUTH=anonymous"));
        assert_eq!(fetch(&mut case.reader, &again).as_deref(), Some("anew\r\n"));
        // Nor one whose message is gone.
        case.issuer.done("SELECT box");
        case.issuer.done("STORE 1 +FLAGS (\\Deleted)");
        case.issuer.done("EXPUNGE");
        assert_eq!(fetch(&mut case.reader, &again), None, "{names:?}");
    }
}

#[test]
fn an_url_ends_when_it_says() {
    let kit = Kit::of(&USERS);
    let mut case = case(&kit, CASES[0]);
    let now = kit.simulation.now();
    let at = |seconds: u64| rfc3339(now.after(Duration::from_secs(seconds)));
    let end = |seconds| format!(";EXPIRE={};URLAUTH=authuser", at(seconds));
    let soon = sign(&mut case.issuer, &rump(case.names[0], "box", &end(60)));
    let later = sign(&mut case.issuer, &rump(case.names[0], "box", &end(3_600)));
    let past = sign(&mut case.issuer, &rump(case.names[0], "box", &end(0)));
    assert!(fetch(&mut case.reader, &soon).is_some() && fetch(&mut case.reader, &later).is_some());
    assert_eq!(fetch(&mut case.reader, &past), None);
    case.world.sleep(61);
    assert_eq!(fetch(&mut case.reader, &soon), None);
    assert!(fetch(&mut case.reader, &later).is_some());
    // The time is signed.
    let (soon_end, later_end) = (at(60), at(3_600));
    assert_eq!(fetch(&mut case.reader, &soon.replace(&soon_end, &later_end)), None);
    let start = soon.replace(&format!(";EXPIRE={soon_end}"), "");
    assert_eq!(fetch(&mut case.reader, &start), None);
}

/// Tokens that are guessed, cut, of another URL, and what a signed URL does not say.
#[test]
fn what_is_forged_is_nothing() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let [issuer, reader, other] = names;
        let access = format!(";URLAUTH=user+{reader}%40demo.test");
        let url = sign(&mut case.issuer, &rump(issuer, "box", &access));
        let others = sign(&mut case.other, &rump(other, "box", &access));
        let (start, token) = url.rsplit_once(':').expect("a token");
        let (others_start, others_token) = others.rsplit_once(':').expect("a token");
        assert_ne!(token, others_token);
        assert!(fetch(&mut case.reader, &url).is_some());
        let zeros = "0".repeat(64);
        let forged = [
            format!("{start}:{others_token}"),
            format!("{others_start}:{token}"),
            format!("{start}:{zeros}"),
            format!("{start}:"),
            start.to_owned(),
            format!("{start}:{}", &token[..32]),
            format!("{start}:{}", &token[..63]),
            format!("{start}:{token}{token}"),
            format!("{start}:{token}:{token}"),
            url.replace(":internal:", "::"),
            url.replace(":internal:", ":NONE:"),
            url.replace(":internal:", ":internal:internal:"),
            url.replace("UID=1", "UID=2"),
            url.replace("UID=1", "UID=01"),
            url.replace("TEXT", "HEADER"),
            url.replace("/;SECTION=TEXT", ""),
            url.replace("/box/", "/INBOX/"),
            url.replace("/box/", "/b%6Fx/"),
            url.replace(reader, other),
            url.replace(&access, ";URLAUTH=anonymous"),
            url.replace(issuer, other),
            url.replace("mail.demo.test", "MAIL.demo.test"),
            url.replace("mail.demo.test", "mail.demo.test:143"),
            url.replace(&format!("{issuer}%40demo.test@"), ""),
            format!("{url};URLAUTH=anonymous"),
            format!("{url};EXPIRE=2999-01-01T00:00:00Z"),
        ];
        for forged in &forged {
            for client in [&mut case.reader, &mut case.other, &mut case.issuer] {
                assert_eq!(fetch(client, forged), None, "{forged}");
            }
        }
    }
}

/// RFC 4467 7: one's own name, a mailbox that is there, this server, who may use it, and no proof.
#[test]
fn what_cannot_be_signed() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let [issuer, reader, _] = names;
        let good = rump(issuer, "box", ";URLAUTH=anonymous");
        let signed = sign(&mut case.issuer, &good);
        let box_of = |name: &str| format!("/Other%20Users/{name}%40demo.test/box/");
        for bad in [
            good.replace(issuer, reader),
            good.replace(issuer, "nobody"),
            good.replace(&format!("{issuer}%40demo.test@"), ""),
            good.replace("mail.demo.test", "elsewhere.test"),
            good.replace("/box/", "/none/"),
            good.replace("/box/", &box_of(reader)),
            good.replace("/box/", &box_of("nobody")),
            good.replace("/box/", ";UIDVALIDITY=1/"),
            good.replace(";URLAUTH=anonymous", ""),
            good.replace("/;UID=1/;SECTION=TEXT", ""),
            signed,
            "/box/;UID=1;URLAUTH=anonymous".to_owned(),
        ] {
            let told = case.issuer.answer(&format!("GENURLAUTH \"{bad}\" INTERNAL"));
            assert!(told.contains(" BAD ") && !told.contains("* GENURLAUTH"), "{bad}: {told}");
            // All or none.
            let both = format!("GENURLAUTH \"{good}\" INTERNAL \"{bad}\" INTERNAL");
            let told = case.issuer.answer(&both);
            assert!(told.contains(" BAD ") && !told.contains("* GENURLAUTH"), "{bad}: {told}");
            case.issuer.done("NOOP");
        }
        for mechanism in ["XSAMPLE", "INTERNAL2", "NONE"] {
            let told = case.issuer.answer(&format!("GENURLAUTH \"{good}\" {mechanism}"));
            assert!(told.contains(" NO [CANNOT] "), "{told}");
        }
    }
}

/// RFC 4467 7: one user's RESETKEY is nothing to another one, and one of a mailbox nothing to
/// another mailbox.
#[test]
fn keys_are_reset_one_by_one_and_all_together() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let [issuer, _, other] = names;
        append(&mut case.issuer, "INBOX", "Subject: x\r\n\r\nin INBOX\r\n");
        let end = ";URLAUTH=authuser";
        let mut urls = [
            sign(&mut case.issuer, &rump(issuer, "box", end)),
            sign(&mut case.issuer, &rump(issuer, "INBOX", end)),
            sign(&mut case.other, &rump(other, "box", end)),
        ];
        let same = sign(&mut case.issuer, &rump(issuer, "box", end));
        assert_eq!(same, urls[0], "the key stays");
        let valid = |case: &mut Case<'_>, urls: &[String]| {
            urls.iter().map(|url| fetch(&mut case.reader, url).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(valid(&mut case, &urls), [true, true, true]);
        case.issuer.done("RESETKEY box");
        assert_eq!(valid(&mut case, &urls), [false, true, true]);
        urls[0] = sign(&mut case.issuer, &rump(issuer, "box", end));
        assert_eq!(valid(&mut case, &urls), [true, true, true]);
        case.issuer.done("RESETKEY");
        assert_eq!(valid(&mut case, &urls), [false, false, true]);
        assert_eq!(fetch(&mut case.reader, &same), None, "replayed");
    }
}

/// The users, with these numbers.
fn directory_of(users: &[(u64, &str)]) -> DirectorySnapshot {
    // A password of each: accounts_of has it.
    let hash = accounts_of(&["x"]).users()[0].hash.to_string();
    let mut text = String::from("# next-id 100\n");
    for (number, name) in users {
        text.push_str(&format!("{number} {name}@demo.test {hash}\n"));
    }
    let file = UsersFile::parse(&text, Path::new("users")).expect("parsed");
    let options =
        DirectoryOptions { domains: vec!["demo.test".to_owned()], ..DirectoryOptions::default() };
    DirectorySnapshot::new(&file, &options).expect("snapshot")
}

/// What a removed user signed is nothing, and nobody who gets his name has signed it; nor is
/// anything for him that was for one who had his name.
#[test]
fn what_is_signed_goes_with_the_account() {
    for names in CASES {
        let all: Vec<(u64, &str)> = (1..).zip(USERS).collect();
        let shared = SharedDirectory::new(directory_of(&all), PeerLimits::default());
        let kit = Kit::with_directory(|_| Directory::new(shared.clone(), Rc::new(AtOnce)));
        let mut case = case(&kit, names);
        let [issuer, reader, _] = names;
        let anyone = sign(&mut case.issuer, &rump(issuer, "box", ";URLAUTH=anonymous"));
        assert!(fetch(&mut case.other, &anyone).is_some());
        let mut without = all.clone();
        without.retain(|(_, name)| *name != issuer);
        shared.replace(directory_of(&without));
        assert_eq!(fetch(&mut case.other, &anyone), None, "{names:?}");
        // Somebody else has the name, and a mailbox and a message that are called alike.
        without.push((99, issuer));
        shared.replace(directory_of(&without));
        let mut successor = case.world.log_in(issuer);
        successor.done("CREATE box");
        append(&mut successor, "box", "Subject: x\r\n\r\nanother\r\n");
        assert_eq!(fetch(&mut case.other, &anyone), None, "{names:?}");
        assert_eq!(fetch(&mut successor, &anyone), None, "{names:?}");
        let own = sign(&mut successor, &rump(issuer, "box", ";URLAUTH=anonymous"));
        assert_ne!(own, anyone);
        assert_eq!(fetch(&mut case.reader, &own).as_deref(), Some("another\r\n"), "{reader}");
    }
}

/// RFC 4467 7: another session of the user that has the mailbox selected hears of a new key.
#[test]
fn other_sessions_of_the_user_hear_of_a_reset() {
    const NEWS: &str = "* OK [URLMECH INTERNAL] The mailbox has another key\r\n";
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let [issuer, _, owner] = names;
        case.other.done(&format!("SETACL box {issuer}@demo.test lr"));
        let theirs = format!("\"Other Users/{owner}@demo.test/box\"");
        let mailbox = format!("Other%20Users/{owner}%40demo.test/box");
        for (mailbox, name) in [("box", "box"), (&*mailbox, &*theirs)] {
            let mut second = case.world.log_in(issuer);
            second.done(&format!("SELECT {name}"));
            case.other.done("SELECT box");
            // A first key takes the place of none.
            sign(&mut case.issuer, &rump(issuer, mailbox, ";URLAUTH=anonymous"));
            assert!(!second.done("NOOP").contains("URLMECH"), "{names:?}");
            case.issuer.done(&format!("RESETKEY {name}"));
            assert!(second.done("NOOP").contains(NEWS), "{names:?}");
            assert!(!second.done("NOOP").contains("URLMECH"), "{names:?}");
            case.issuer.done("RESETKEY");
            assert!(second.done("CHECK").contains(NEWS), "{names:?}");
            // The session itself is told by the reply, and other users not at all.
            sign(&mut second, &rump(issuer, mailbox, ";URLAUTH=anonymous"));
            let told = second.done(&format!("RESETKEY {name}"));
            assert_eq!(told.matches("URLMECH").count(), 1, "{told}");
            assert!(!case.other.done("NOOP").contains("URLMECH"), "{names:?}");
        }
    }
}

/// CATENATE takes what URLFETCH does (RFC 4469 3, RFC 4467 7).
#[test]
fn messages_are_made_of_what_others_signed() {
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        let access = format!(";URLAUTH=user+{}%40demo.test", names[1]);
        let url = sign(&mut case.issuer, &rump(names[0], "box", &access));
        let catenate =
            |url: &str| format!("APPEND INBOX CATENATE (TEXT {{2+}}\r\n\r\n URL \"{url}\")");
        case.reader.done(&catenate(&url));
        case.reader.done("EXAMINE INBOX");
        let told = case.reader.done("FETCH 1 BODY.PEEK[TEXT]");
        assert!(told.contains(&format!("\r\nof {}\r\n)", names[0])), "{told}");
        let refused = case.other.answer(&catenate(&url));
        assert!(refused.contains(" NO [BADURL "), "{refused}");
        case.issuer.done("RESETKEY");
        let refused = case.reader.answer(&catenate(&url));
        assert!(refused.contains(" NO [BADURL "), "{refused}");
    }
}

/// Many URLs in one command cost no more than their number, and a flood is refused.
#[test]
fn a_flood_of_urls_ends_at_a_limit() {
    let kit = Kit::of(&USERS);
    let mut case = case(&kit, CASES[1]);
    let url = sign(&mut case.issuer, &rump(case.names[0], "box", ";URLAUTH=authuser"));
    let told = case.reader.done(&format!("URLFETCH{}", format!(" \"{url}\"").repeat(100)));
    assert_eq!(told.matches("of alice\r\n").count(), 100);
    for command in [
        format!("URLFETCH{}", format!(" \"{url}\"").repeat(101)),
        format!("URLFETCH{}", " x".repeat(20_000)),
        format!("GENURLAUTH{}", " x INTERNAL".repeat(5_000)),
        format!("RESETKEY box{}", " INTERNAL".repeat(5_000)),
    ] {
        let refused = case.issuer.answer(&command);
        assert!(refused.contains(" BAD too many "), "{refused}");
    }
    let long = format!("{url}{}", "0".repeat(50_000));
    let told = case.reader.done(&format!("URLFETCH {{{}+}}\r\n{long}", long.len()));
    assert!(told.ends_with("URLFETCH completed\r\n") && told.contains("0 NIL\r\n"), "no data");
}

/// RFC 5524: its form, decoded parts, and what they are.
#[test]
fn parts_come_without_their_encoding() {
    const MESSAGE: &str = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
        Content-Transfer-Encoding: quoted-printable\r\n\r\n\
        Si vis pacem, =\r\npara =62ellum.=0D=0A\r\n--b\r\n\
        Content-Type: image/png; name=p.png\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        AAEC\r\nAwQF\r\n--b\r\n\
        Content-Transfer-Encoding: x-secret\r\n\r\n???\r\n--b\r\n\r\nplain\r\n--b\r\n\
        Content-Transfer-Encoding: base64\r\n\r\nw6kNCg==\r\n--b--\r\n";
    let kit = Kit::of(&USERS);
    for names in CASES {
        let mut case = case(&kit, names);
        case.issuer.done("CREATE parts");
        append(&mut case.issuer, "parts", MESSAGE);
        let issuer = &mut case.issuer;
        let mut url = |section: &str| {
            let rump = rump(names[0], "parts", ";URLAUTH=anonymous");
            sign(issuer, &rump.replace("/;SECTION=TEXT", section))
        };
        let [text, image, secret, plain, accents, header, whole, part] = [
            "/;SECTION=1",
            "/;SECTION=2",
            "/;SECTION=3",
            "/;SECTION=4",
            "/;SECTION=5",
            "/;SECTION=HEADER",
            "",
            "/;SECTION=2/;PARTIAL=1.3",
        ]
        .map(&mut url);
        let mut answer = |items: &str| case.reader.done(&format!("URLFETCH {items}"));
        let mut check = |url: &str, items: &str, expected: &str| {
            let told = answer(&format!("(\"{url}\" {items})"));
            let expected = format!("* URLFETCH \"{url}\" {expected}\r\n");
            let end = told.split("URLFETCH completed").next().unwrap_or_default();
            let end = end.rsplit_once("\r\n").expect("lines").0;
            assert_eq!(format!("{end}\r\n"), expected, "{items} of {url}");
        };
        let us_ascii = "\"text\" \"plain\" (\"charset\" \"us-ascii\") NIL NIL";
        check(
            &text,
            "BODYPARTSTRUCTURE BINARY",
            &format!(
                "(BODYPARTSTRUCTURE ({us_ascii} \"7bit\" 28 1 NIL NIL NIL NIL)) \
                 (BINARY {{28}}\r\nSi vis pacem, para bellum.\r\n)"
            ),
        );
        check(
            &text,
            "BODY BODYPARTSTRUCTURE",
            &format!(
                "(BODYPARTSTRUCTURE ({us_ascii} \"quoted-printable\" 37 1 NIL NIL NIL NIL)) \
                 (BODY {{37}}\r\nSi vis pacem, =\r\npara =62ellum.=0D=0A)"
            ),
        );
        let png = "\"image\" \"png\" (\"name\" \"p.png\") NIL NIL";
        check(
            &image,
            "BINARY BODYPARTSTRUCTURE",
            &format!(
                "(BODYPARTSTRUCTURE ({png} \"binary\" 6 NIL NIL NIL NIL)) \
                 (BINARY ~{{6}}\r\n\0\u{1}\u{2}\u{3}\u{4}\u{5})"
            ),
        );
        check(&image, "BODY", "(BODY {10}\r\nAAEC\r\nAwQF)");
        check(&part, "BINARY", "(BINARY {3}\r\n\u{1}\u{2}\u{3})");
        check(&secret, "BINARY", "(BINARY NIL)");
        check(&secret, "BODY", "(BODY {3}\r\n???)");
        check(
            &plain,
            "BINARY BODYPARTSTRUCTURE",
            &format!(
                "(BODYPARTSTRUCTURE ({us_ascii} \"7bit\" 5 0 NIL NIL NIL NIL)) \
                 (BINARY {{5}}\r\nplain)"
            ),
        );
        check(
            &accents,
            "BINARY BODYPARTSTRUCTURE",
            &format!(
                "(BODYPARTSTRUCTURE ({us_ascii} \"8bit\" 4 1 NIL NIL NIL NIL)) \
                 (BINARY {{4}}\r\né\r\n)"
            ),
        );
        let fields = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        check(&header, "BINARY", &format!("(BINARY {{{}}}\r\n{fields})", fields.len()));
        check(&header, "BODYPARTSTRUCTURE", "NIL");
        check(&whole, "BODY", &format!("(BODY {{{}}}\r\n{MESSAGE})", MESSAGE.len()));
        // In both forms in one command, and what is not signed.
        let told = answer(&format!("\"{plain}\" (\"{image}\" BODY) (x BODYPARTSTRUCTURE BODY)"));
        let expected = format!(
            "* URLFETCH \"{plain}\" {{5}}\r\nplain\r\n\
             * URLFETCH \"{image}\" (BODY {{10}}\r\nAAEC\r\nAwQF)\r\n\
             * URLFETCH \"x\" NIL\r\n"
        );
        assert!(told.starts_with(&expected), "{told}");
        for items in ["BODY BINARY", "BODY BODY", "SIZE"] {
            let refused = case.reader.answer(&format!("URLFETCH (\"{plain}\" {items})"));
            assert!(refused.contains(" BAD "), "{refused}");
        }
    }
}

/// A large message, in pieces, from another shard.
#[test]
fn a_large_part_comes_whole() {
    let kit = Kit::of(&USERS);
    for names in [CASES[0], CASES[1]] {
        let mut case = case(&kit, names);
        let body: String = (0..40_000).map(|line| format!("line {line}\r\n")).collect();
        case.issuer.done("CREATE large");
        append(&mut case.issuer, "large", &format!("Subject: x\r\n\r\n{body}"));
        let url = sign(&mut case.issuer, &rump(names[0], "large", ";URLAUTH=authuser"));
        assert_eq!(fetch(&mut case.reader, &url), Some(body.clone()));
        let part = rump(names[0], "large", "/;PARTIAL=300000.9;URLAUTH=authuser");
        let url = sign(&mut case.issuer, &part);
        assert_eq!(fetch(&mut case.reader, &url).as_deref(), body.get(300_000..300_009));
    }
}
