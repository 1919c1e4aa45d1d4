//! Compares our command parser with `smtp-proto`: commands that both accept must have the same
//! meaning, and both must accept well-formed ones.

use proptest::prelude::*;
use ringmail::protocol::smtp::{
    Path,
    command::{self, Command},
    parameter::BodyKind,
};
use smtp_proto::{
    MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_BODY_BINARYMIME, MAIL_SMTPUTF8, Request,
};

/// A command in terms common to both parsers.
#[derive(PartialEq, Eq, Debug)]
enum Meaning {
    Hello(&'static str, String),
    Mail { reverse_path: String, size: u64, body: BodyKind, smtp_utf8: bool },
    Rcpt(String),
    Bdat(u64, bool),
    Auth,
    Plain(&'static str),
}

fn ours(line: &str) -> Option<Meaning> {
    let (verb, command) = command::parse(line.as_bytes());
    Some(match command.ok()? {
        Command::Helo(name) | Command::Ehlo(name) | Command::Lhlo(name) => {
            Meaning::Hello(verb.name(), name.to_owned())
        }
        Command::Mail { reverse_path, parameters } => Meaning::Mail {
            reverse_path: reverse_path.as_str().to_owned(),
            size: parameters.size.unwrap_or(0),
            body: parameters.body,
            smtp_utf8: parameters.smtp_utf8,
        },
        Command::Rcpt { forward_path: Path::Postmaster, .. } => {
            Meaning::Rcpt("postmaster".to_owned())
        }
        Command::Rcpt { forward_path, .. } => Meaning::Rcpt(forward_path.as_str().to_owned()),
        Command::Bdat { size, last } => Meaning::Bdat(size, last),
        Command::Auth { .. } => Meaning::Auth,
        _ => Meaning::Plain(verb.name()),
    })
}

fn theirs(line: &str) -> Option<Meaning> {
    let line = format!("{line}\r\n");
    let request = Request::parse(&mut line.as_bytes().iter()).ok()?;
    let name = request.name();
    Some(match request {
        Request::Helo { host } | Request::Ehlo { host } | Request::Lhlo { host } => {
            Meaning::Hello(name, host.into_owned())
        }
        Request::Mail { from } => Meaning::Mail {
            reverse_path: without_root(&from.address),
            size: from.size as u64,
            body: match from.flags & (MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_BODY_BINARYMIME) {
                MAIL_BODY_8BITMIME => BodyKind::EightBitMime,
                MAIL_BODY_BINARYMIME => BodyKind::BinaryMime,
                _ => BodyKind::SevenBit,
            },
            smtp_utf8: from.flags & MAIL_SMTPUTF8 != 0,
        },
        Request::Rcpt { to } => Meaning::Rcpt(without_root(&to.address)),
        Request::Bdat { chunk_size, is_last } => Meaning::Bdat(chunk_size as u64, is_last),
        Request::Auth { .. } => Meaning::Auth,
        _ => Meaning::Plain(name),
    })
}

/// smtp-proto keeps the dot of a rooted domain; we drop it (docs/rfc.md).
fn without_root(address: &str) -> String {
    match address.contains('@') {
        true => address.strip_suffix('.').unwrap_or(address).to_owned(),
        false => address.to_owned(),
    }
}

fn well_formed() -> impl Strategy<Value = String> {
    let address = "[a-z0-9]{1,8}(\\.[a-z+_-]{1,5}){0,2}@[a-z]{1,5}(\\.[a-z0-9]{1,5}){0,3}";
    let route = prop_oneof![Just(String::new()), Just("@a.test,@b.test:".to_owned())];
    let size = prop_oneof![Just(String::new()), "[0-9]{1,9}".prop_map(|it| format!(" SIZE={it}"))];
    let body = proptest::sample::select(vec![
        "",
        " BODY=7BIT",
        " BODY=8BITMIME",
        " BODY=BINARYMIME",
        " SMTPUTF8",
    ]);
    prop_oneof![
        "(EHLO|HELO|LHLO) [a-z]{1,5}(\\.[a-z0-9]{1,5}){0,3}",
        "BDAT [0-9]{1,9}( LAST)?",
        "(DATA|RSET|QUIT|NOOP|HELP|STARTTLS|VRFY [a-z]{1,5}|EXPN [a-z]{1,5}|NOOP [a-z]{1,5})",
        "AUTH PLAIN [A-Za-z0-9]{4,8}",
        (address, size, body).prop_map(|(it, size, body)| format!("MAIL FROM:<{it}>{size}{body}")),
        Just("MAIL FROM:<>".to_owned()),
        (route, address).prop_map(|(route, it)| format!("RCPT TO:<{route}{it}>")),
    ]
}

proptest! {
    #[test]
    fn well_formed_commands_mean_the_same(line in well_formed(), lower in any::<bool>()) {
        let line = if lower { line.to_ascii_lowercase() } else { line };
        let ours = ours(&line);
        prop_assert!(ours.is_some(), "{line}");
        // smtp-proto keeps a source route in the address; RFC 5321 appendix C ignores it.
        if !line.contains(",@b.test") {
            prop_assert_eq!(ours, theirs(&line), "{}", line);
        }
    }

    #[test]
    fn what_both_accept_means_the_same(
        line in well_formed(),
        at in any::<proptest::sample::Index>(),
        octet in proptest::sample::select(b" <>@:.,\"\\=a0+".to_vec()),
        insert in any::<bool>(),
    ) {
        let mut octets = line.into_bytes();
        let at = at.index(octets.len());
        if insert { octets.insert(at, octet) } else { octets[at] = octet }
        let line = String::from_utf8(octets).expect("ASCII");
        if let (Some(ours), Some(theirs)) = (ours(&line), theirs(&line))
            && !line.contains(",@b.test")
        {
            prop_assert_eq!(ours, theirs, "{}", line);
        }
    }
}
