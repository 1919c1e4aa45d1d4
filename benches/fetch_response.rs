//! What does writing one FETCH response cost, without a body's octets?
//!
//! `cargo bench --bench fetch_response`. The shapes: what a sync fetches of every message, what a
//! list view fetches, BODYSTRUCTURE from a message's card, and the label of a body that is then
//! streamed.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmail::{
    model::{FlagSet, Flags, KeywordSet, ModSeq, Timestamp, Uid},
    protocol::{
        imap::{FetchResponse, WrittenParts, message::fetch::Section, write_set},
        mime::{Summarizer, Summary, card, split_card},
    },
};

const MESSAGE: &str = "Date: Mon, 23 Nov 2026 21:29:58 +0000\r\n\
    From: \"Some Sender\" <sender@example.org>\r\n\
    To: Some Recipient <recipient@example.net>, other@example.net\r\n\
    Subject: A subject of the usual length, more or less\r\n\
    Message-ID: <20261123212958.4711@client.example.org>\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: multipart/alternative; boundary=\"=_b\"\r\n\r\n\
    --=_b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nHello\r\n\
    --=_b\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<p>Hello\r\n--=_b--\r\n";

fn summary() -> Summary {
    let mut summarizer = Summarizer::new();
    summarizer.push(MESSAGE.as_bytes());
    summarizer.finish()
}

/// The structure of a message with text in two forms and an attachment.
fn structure_card(number: usize) -> Vec<u8> {
    let boundary = format!("=_{:x}", number * 7_919);
    let lines = "one line of the text\r\n".repeat(number);
    let message = format!(
        "Content-Type: multipart/mixed; boundary=\"{boundary}.1\"\r\n\r\n--{boundary}.1\r\n\
         Content-Type: multipart/alternative; boundary=\"{boundary}.2\"\r\n\r\n--{boundary}.2\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\
         \r\n{lines}--{boundary}.2\r\n\
         Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\
         \r\n{lines}--{boundary}.2--\r\n--{boundary}.1\r\n\
         Content-Type: application/pdf; name=\"{number}.pdf\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"{number}.pdf\"\r\n\r\n\
         AAAA\r\n--{boundary}.1--\r\n"
    );
    let mut summarizer = Summarizer::new();
    summarizer.push(message.as_bytes());
    let mut parts = Default::default();
    split_card(&summarizer.finish().encode(), &mut parts);
    parts[card::STRUCTURE].clone()
}

fn fetch(criterion: &mut Criterion) {
    let mut keywords = KeywordSet::default();
    keywords.insert(1);
    let flags = FlagSet { system: Flags::SEEN, keywords };
    let table = ["$Junk".to_owned(), "$Label1".to_owned()];
    let summary = summary();
    let mut group = criterion.benchmark_group("fetch_response");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(64 * 1024);
    group.bench_function("uid flags modseq", |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut response = FetchResponse::begin(&mut out, black_box(4_711));
            response.uid(&mut out, Uid(104_711));
            response.flags(&mut out, flags, &table, false);
            response.mod_seq(&mut out, ModSeq(1_234_567));
            response.end(&mut out);
            black_box(out.len())
        });
    });
    let mut written = WrittenParts::default();
    group.bench_function("list view", |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut response = FetchResponse::begin(&mut out, black_box(4_711));
            response.uid(&mut out, Uid(104_711));
            response.flags(&mut out, flags, &table, false);
            response.size(&mut out, 4_096);
            response.internal_date(&mut out, Timestamp::from_unix_seconds(1_795_469_400));
            response.envelope(&mut out, &summary.envelope());
            response.body_structure(&mut out, &summary, &mut written);
            response.end(&mut out);
            black_box(out.len())
        });
    });
    // The cards of messages that differ in sizes, file name and boundary, as in a mailbox.
    let cards: Vec<Vec<u8>> = (0..64).map(structure_card).collect();
    let mut structure = Summary::spent();
    let mut written = WrittenParts::default();
    let mut number = 0;
    group.bench_function("structure from its card", |bencher| {
        bencher.iter(|| {
            out.clear();
            number = (number + 1) % cards.len();
            structure.decode_again(black_box(&cards[number])).unwrap();
            let mut response = FetchResponse::begin(&mut out, black_box(4_711));
            response.body_structure(&mut out, &structure, &mut written);
            response.end(&mut out);
            black_box(out.len())
        });
    });
    group.bench_function("body label", |bencher| {
        bencher.iter(|| {
            out.clear();
            let mut response = FetchResponse::begin(&mut out, black_box(4_711));
            response.uid(&mut out, Uid(104_711));
            response.section_literal(&mut out, &Section::default(), None, 4_096);
            response.end(&mut out);
            black_box(out.len())
        });
    });
    group.bench_function("1,000 uids as a set", |bencher| {
        bencher.iter(|| {
            out.clear();
            write_set(&mut out, (0..1_000).map(|uid| uid * 3 / 2 + 100_000));
            black_box(out.len())
        });
    });
    group.finish();
}

criterion_group!(benches, fetch);
criterion_main!(benches);
