//! Any bytes as a message for a 7-bit path: what is written is 7-bit, does not depend on cuts, and
//! its decoded bodies are the same octets as before. The same of a message written without NUL.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::mime::{
    Part, PartKind, Summarizer, Summary, decode_transfer,
    downgrade::{Plan, Rewriter, Survey},
};

fuzz_target!(|message: &[u8]| {
    without_nul(message);
    let Some((plan, out)) = convert(Survey::new, message, usize::MAX) else {
        assert!(convert(Survey::new, message, 7).is_none());
        return;
    };
    let (_, cut) = convert(Survey::new, message, 7).expect("convertible however cut");
    assert_eq!(out, cut);
    if !plan.changes() {
        return assert!(is_seven_bit(message));
    }
    assert!(is_seven_bit(&out));
    if !plan.rewrites_around() {
        assert_eq!(leaves(message), leaves(&out));
    }
});

fn without_nul(message: &[u8]) {
    let Some((plan, out)) = convert(Survey::for_nul, message, usize::MAX) else { return };
    let (_, cut) = convert(Survey::for_nul, message, 7).expect("convertible however cut");
    assert_eq!(out, cut);
    if plan.rewrites_around() {
        return;
    }
    assert!(!out.contains(&0));
    assert_eq!(leaves(message), leaves(&out));
    if !message.contains(&0) {
        assert_eq!(message, out);
    }
}

fn summarize(message: &[u8]) -> Summary {
    let mut summarizer = Summarizer::new();
    summarizer.push(message);
    summarizer.finish()
}

fn convert(
    survey: fn(&Summary) -> Survey,
    message: &[u8],
    size: usize,
) -> Option<(Plan, Vec<u8>)> {
    let mut survey = survey(&summarize(message));
    message.chunks(size).for_each(|piece| survey.push(piece));
    let plan = survey.finish().ok()?;
    let mut rewriter = Rewriter::new(&plan);
    let mut out = Vec::new();
    message.chunks(size).for_each(|piece| rewriter.push(piece, &mut out));
    rewriter.finish(&mut out);
    Some((plan, out))
}

fn is_seven_bit(octets: &[u8]) -> bool {
    octets.iter().all(|&octet| octet != 0 && octet < 0x80)
        && octets.split(|&octet| octet == b'\n').all(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            line.len() <= 998 && !line.contains(&b'\r')
        })
        && octets.iter().enumerate().all(|(at, &octet)| {
            octet != b'\n' || at.checked_sub(1).is_some_and(|before| octets[before] == b'\r')
        })
}

fn leaves(message: &[u8]) -> Vec<Vec<u8>> {
    fn walk(part: Part<'_>, message: &[u8], found: &mut Vec<Vec<u8>>) {
        // A composite part that is itself encoded, which RFC 2045 6.4 forbids, is one encoded text.
        let encoded = decodes(part.encoding());
        if part.kind() == PartKind::Leaf || encoded {
            let range = part.body();
            let body = &message[range.start as usize..range.end as usize];
            found.push(decode_transfer(part.encoding(), body));
        }
        if encoded {
            return;
        }
        part.children().chain(part.message()).for_each(|part| walk(part, message, found));
    }
    let mut found = Vec::new();
    walk(summarize(message).root(), message, &mut found);
    found
}

fn decodes(encoding: &[u8]) -> bool {
    let is = |name: &[u8]| encoding.eq_ignore_ascii_case(name);
    is(b"quoted-printable") || is(b"base64")
}
