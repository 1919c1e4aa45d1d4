//! What does the summary cost for an incoming message, and ENVELOPE for an outgoing one?
//!
//! `cargo bench --bench mime_summary`. The summarizer sees every body byte of SMTP, LMTP and
//! APPEND; the aims are 2 to 4 µs for a message of 4 KiB and at least 1 GB/s in bodies.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringmail::protocol::mime::{Summarizer, Summary};

/// The amount SMTP passes at once.
const CHUNK_SIZE: usize = 16 * 1024;

const HEADER: &str = "Return-Path: <sender@example.org>\r\n\
    Received: from client.example.org (client.example.org [192.0.2.1])\r\n\
    \tby mail.example.net with ESMTPS id 4Zx; Mon, 23 Nov 2026 21:30:00 +0000\r\n\
    Date: Mon, 23 Nov 2026 21:29:58 +0000\r\n\
    From: \"Some Sender\" <sender@example.org>\r\n\
    To: Some Recipient <recipient@example.net>\r\n\
    Subject: A subject of the usual length, more or less\r\n\
    Message-ID: <20261123212958.4711@client.example.org>\r\n\
    MIME-Version: 1.0\r\n\
    User-Agent: Bench/1.0\r\n";

fn plain(size: usize) -> Vec<u8> {
    let head = format!("{HEADER}Content-Type: text/plain; charset=utf-8\r\n\r\n");
    filled(head, "A line of text that is about as long as lines of text usually are.\r\n", size)
}

fn multipart(size: usize) -> Vec<u8> {
    let head = format!(
        "{HEADER}Content-Type: multipart/mixed; boundary=\"=_boundary\"\r\n\r\n\
         --=_boundary\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nSee attachment.\r\n\
         --=_boundary\r\nContent-Type: application/pdf; name=report.pdf\r\n\
         Content-Disposition: attachment; filename=report.pdf\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n"
    );
    let line = format!("{}\r\n", "JVBERi0xLjQKJcfs".repeat(5).split_off(4));
    let mut message = filled(head, &line, size);
    message.extend_from_slice(b"--=_boundary--\r\n");
    message
}

/// Every line may begin a delimiter, and none does.
fn dashes(size: usize) -> Vec<u8> {
    let head = format!("{HEADER}Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n");
    filled(head, "--\r\n", size)
}

fn filled(head: String, line: &str, size: usize) -> Vec<u8> {
    let count = size.saturating_sub(head.len()).div_ceil(line.len());
    [head, line.repeat(count)].concat().into_bytes()
}

fn summarize(message: &[u8]) -> Summary {
    let mut summarizer = Summarizer::new();
    message.chunks(CHUNK_SIZE).for_each(|chunk| summarizer.push(chunk));
    summarizer.finish()
}

fn summarizer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("summarize_and_encode");
    let messages =
        [("plain", plain as fn(usize) -> Vec<u8>), ("multipart", multipart), ("dashes", dashes)];
    for (name, make) in messages {
        for size in [4 * 1024, 1024 * 1024] {
            let message = make(size);
            group.throughput(Throughput::Bytes(message.len() as u64));
            group.bench_with_input(BenchmarkId::new(name, size), &message, |bencher, message| {
                bencher.iter(|| summarize(black_box(message)).encode());
            });
        }
    }
    group.finish();
}

fn envelope(criterion: &mut Criterion) {
    let encoded = summarize(&plain(4 * 1024)).encode();
    println!("summary of a plain message: {} octets", encoded.len());
    criterion.bench_function("decode_and_envelope", |bencher| {
        bencher.iter(|| {
            let summary = Summary::decode(black_box(&encoded)).expect("just encoded");
            black_box(summary.envelope());
        });
    });
}

criterion_group!(benches, summarizer, envelope);
criterion_main!(benches);
