//! What does one IMAP command cost from bytes to value: framing and parsing?
//!
//! `cargo bench --bench imap_command`. The commands are those that clients send most; the last ones
//! are bad input, whose cost must stay near that of reading it.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmail::protocol::imap::{Frame, Framer, Limits, ListPattern, SequenceSet, parse};

fn commands(criterion: &mut Criterion) {
    let uids: Vec<String> = (0..2_000).map(|uid| (uid * 3 + 100_000).to_string()).collect();
    let cases = [
        ("noop", "a001 NOOP\r\n".to_owned()),
        ("login", "a001 LOGIN \"alice@demo.test\" \"demo\"\r\n".to_owned()),
        ("literal", "a001 LOGIN {15+}\r\nalice@demo.test {4+}\r\ndemo\r\n".to_owned()),
        ("fetch flags", "a001 UID FETCH 1:* (FLAGS)\r\n".to_owned()),
        (
            "fetch headers",
            "a001 UID FETCH 1:500 (UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS \
             (From To Cc Subject Date Message-ID Content-Type)])\r\n"
                .to_owned(),
        ),
        ("store", "a001 UID STORE 4711 +FLAGS.SILENT (\\Seen $Label1)\r\n".to_owned()),
        (
            "search",
            "a001 UID SEARCH OR FROM \"bob\" SUBJECT \"report\" SINCE 1-Nov-2026 UNDELETED\r\n"
                .to_owned(),
        ),
        ("2,000 uids", format!("a001 UID FETCH {} (FLAGS)\r\n", uids.join(","))),
        ("15,000 NOTs", format!("a001 SEARCH {}ALL\r\n", "NOT ".repeat(15_000))),
        ("60,000 parentheses", format!("a001 SEARCH {}\r\n", "(".repeat(60_000))),
    ];
    let mut group = criterion.benchmark_group("imap_command");
    for (name, command) in &cases {
        group.throughput(Throughput::Bytes(command.len() as u64));
        group.bench_function(*name, |bencher| {
            let mut framer = Framer::new(Limits::default());
            bencher.iter(|| {
                let Frame::Command { size } = framer.next(black_box(command.as_bytes())) else {
                    panic!("one command");
                };
                black_box(parse(&command.as_bytes()[..size]).is_ok())
            });
        });
    }
    group.finish();
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("imap_lookup");
    let set = SequenceSet::parse(b"5:7,1:4294967295,3,*").expect("a set");
    group.bench_function("resolve", |bencher| bencher.iter(|| black_box(&set).resolve(3)));
    let name = "a/".repeat(100);
    for (label, pattern) in [("star", "*".to_owned()), ("bomb", "%a*".repeat(300))] {
        let pattern = ListPattern::new(&pattern).expect("short enough");
        group.bench_function(format!("pattern {label}"), |bencher| {
            bencher.iter(|| pattern.matches(black_box(&name)));
        });
    }
    group.finish();
}

criterion_group!(benches, commands, lookups);
criterion_main!(benches);
