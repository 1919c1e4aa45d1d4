//! Any bytes as a message and as a stored summary: nothing panics, cuts make no difference, and
//! every range lies inside the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmail::protocol::mime::{
    HeaderFilter, MessageSearch, Needle, Part, Scope, SectionText, Summarizer, Summary, address,
    date, encoded_word, filter_header,
};

fuzz_target!(|bytes: &[u8]| {
    let whole = summarize([bytes]);
    let middle = bytes.len() / 2;
    assert_eq!(whole, summarize([&bytes[..middle], &bytes[middle..]]));
    assert_eq!(whole, summarize(bytes.chunks(3)));
    assert_eq!(Summary::decode(&whole.encode()).as_ref(), Ok(&whole));
    walk(whole.root(), bytes.len() as u64);
    read(&whole, bytes);

    if let Ok(summary) = Summary::decode(bytes) {
        walk(summary.root(), summary.size());
    }
    address::parse_list(bytes);
    date::parse(bytes);
    encoded_word::decode_value(bytes);
});

fn summarize<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Summary {
    let mut summarizer = Summarizer::new();
    chunks.into_iter().for_each(|chunk| summarizer.push(chunk));
    summarizer.finish()
}

fn walk(part: Part<'_>, size: u64) {
    assert!(part.header().start <= part.header().end);
    assert!(part.body().start <= part.body().end && part.body().end <= size);
    let _ = (part.parameters().count(), part.disposition_parameters().count());
    let _ = (part.languages().count(), part.envelope());
    part.children().chain(part.message()).for_each(|part| walk(part, size));
}

fn read(summary: &Summary, bytes: &[u8]) {
    let _ = summary.envelope();
    for path in [[].as_slice(), &[1], &[2], &[1, 1], &[1, 2, 1]] {
        for what in [SectionText::Full, SectionText::Header, SectionText::Text, SectionText::Mime] {
            if let Some(range) = summary.section(path, what) {
                let section = &bytes[range.start as usize..range.end as usize];
                filter_header(section, HeaderFilter::Except, &["subject"]);
            }
        }
    }
    let needle = Needle::new("needle");
    let found = |size: usize| {
        let needles = [(Scope::Body, &needle), (Scope::Text, &needle)];
        let mut search = MessageSearch::new(summary, &needles);
        let mut rest = bytes.get(search.seek() as usize..).unwrap_or_default();
        while !rest.is_empty() {
            if search.push(&rest[..rest.len().min(size)]) {
                break;
            }
            rest = bytes.get(search.seek() as usize..).unwrap_or_default();
        }
        search.finish()
    };
    assert_eq!(found(5), found(1 << 20));
}
