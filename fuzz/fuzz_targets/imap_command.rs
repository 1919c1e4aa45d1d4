//! Any bytes as input from an IMAP client: nothing panics, cuts make no difference, and frames stay
//! within their limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::imap::{
    CommandBody, Frame, Framer, Limits, ListPattern, MailboxName, MessageUrl, NameForm, Quoted,
    SequenceSet, UploadPart, UploadPlace, message::copy::Move, parse, parse_with, url_auth,
};

const LIMITS: Limits = Limits { line: 2_048, command: 4_096, message: 1_000, unasked: u64::MAX };

fuzz_target!(|bytes: &[u8]| {
    let whole = frames(bytes, bytes.len().max(1));
    assert_eq!(whole, frames(bytes, 1));
    assert_eq!(whole, frames(bytes, 7));
    // Most inputs are framed as one bare line: give the parser the rest of them too.
    let mut line = b"a ".to_vec();
    line.extend_from_slice(bytes);
    line.extend_from_slice(b"\r\n");
    look_at(&line, false);
});

/// Feeds `bytes` in pieces of `step`; parses each command found.
fn frames(bytes: &[u8], step: usize) -> Vec<Frame> {
    let mut framer = Framer::new(LIMITS);
    let (mut start, mut end, mut skip) = (0, 0, 0);
    let mut in_command = false;
    let mut found = Vec::new();
    loop {
        let skipped = skip.min(end - start);
        (start, skip) = (start + skipped, skip - skipped);
        let frame = if skip == 0 { framer.next(&bytes[start..end]) } else { Frame::More };
        if frame != Frame::More {
            found.push(frame);
        }
        match frame {
            Frame::More if end == bytes.len() => return found,
            Frame::More => {
                // The end of a read never decides whether the limit is exceeded.
                assert!(skip > 0 || end - start <= LIMITS.line + LIMITS.command + step);
                end = (end + step).min(bytes.len());
            }
            Frame::Continue => {}
            Frame::Command { size } => {
                look_at(&bytes[start..start + size], in_command);
                (start, in_command) = (start + size, false);
            }
            Frame::Refused { size } => (start, in_command) = (start + size, false),
            Frame::Part { size, literal } => {
                assert!(literal.size <= LIMITS.message);
                look_at(&bytes[start..start + size], in_command);
                (start, skip, in_command) = (start + size, literal.size as usize, true);
                // A waiting client sometimes gets NO, and goes on with another command.
                if literal.sync && literal.size % 2 == 1 {
                    framer.abandon();
                    (skip, in_command) = (0, false);
                }
            }
            Frame::Bye(_) => return found,
        }
    }
}

/// Parses, and uses the values as a service would.
fn look_at(frame: &[u8], in_command: bool) {
    if in_command {
        use UploadPlace::{Catenate, Message, Utf8Catenate, Utf8Message};
        for place in [Message, Catenate, Utf8Message, Utf8Catenate] {
            let _ = UploadPart::parse_rest(place, frame);
        }
        let _ = MessageUrl::parse(frame);
        return;
    }
    let Ok(command) = parse(frame) else {
        assert!(parse_with(Quoted::Utf8, frame).is_err(), "stricter than without UTF-8");
        return;
    };
    command.body.updates();
    match &command.body {
        CommandBody::Fetch(fetch) => resolve(&fetch.set),
        CommandBody::Store(store) => resolve(&store.set),
        CommandBody::Copy(copy) | CommandBody::Move(Move(copy)) => {
            resolve(&copy.set);
            name(&copy.mailbox);
        }
        CommandBody::Select(select) => name(&select.mailbox),
        CommandBody::Create(create) => name(&create.mailbox),
        CommandBody::List(list) => list.patterns.iter().for_each(name),
        CommandBody::GenUrlAuth(command) => {
            command.urls.iter().for_each(|(url, _)| look_at_url(url))
        }
        CommandBody::UrlFetch(command) => command.urls.iter().for_each(|(url, _)| look_at_url(url)),
        _ => {}
    }
}

/// What is signed is the beginning of the URL, and is signed as it was written.
fn look_at_url(url: &[u8]) {
    let Ok(MessageUrl { auth: Some(auth), .. }) = MessageUrl::parse(url) else { return };
    let rump = &url[..auth.rump];
    match auth.proof {
        Some(proof) => assert!(!proof.verifies(&[7; 32], rump)),
        None => {
            let signed = url_auth::sign(&[7; 32], url);
            let auth = MessageUrl::parse(&signed).expect("still an URL").auth.expect("signed");
            assert_eq!(auth.rump, url.len());
            assert!(auth.proof.expect("proved").verifies(&[7; 32], url));
        }
    }
}

fn resolve(set: &SequenceSet) {
    for max in [0, 1, 3, u32::MAX] {
        let ranges = set.resolve(max);
        assert!(ranges.ranges().all(|(first, last)| 1 <= first && first <= last && last <= max));
        assert!(ranges.ranges().zip(ranges.ranges().skip(1)).all(|(a, b)| a.1 + 1 < b.0));
    }
}

fn name(name: &MailboxName<'_>) {
    for form in [NameForm::ModifiedUtf7, NameForm::Utf8] {
        let Ok(utf8) = name.to_utf8(form) else { continue };
        if let Some(pattern) = ListPattern::new(&utf8) {
            let is_plain = !utf8.contains(['*', '%']);
            assert!(pattern.matches(&utf8) || !is_plain);
        }
    }
}
