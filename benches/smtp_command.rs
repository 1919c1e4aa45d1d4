//! What does it cost to parse the commands of one message, and to run them through a session?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmail::protocol::smtp::{Event, Greeting, Limits, Role, Security, Session, Verb, command};

const ENVELOPE: [&[u8]; 3] = [
    b"MAIL FROM:<sender.name@example.test> SIZE=4096 BODY=8BITMIME",
    b"RCPT TO:<recipient+folder@demo.test>",
    b"DATA",
];

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smtp_command");
    group.throughput(Throughput::Elements(ENVELOPE.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| {
            for line in ENVELOPE {
                assert!(command::parse(black_box(line)).1.is_ok());
            }
        });
    });
    group.finish();
}

/// Envelope and a message of 4 KiB, pipelined, nothing stored.
fn session(criterion: &mut Criterion) {
    let mut input = Vec::new();
    for line in ENVELOPE {
        input.extend_from_slice(line);
        input.extend_from_slice(b"\r\n");
    }
    input.extend_from_slice(
        &b"a line of text as long as lines of text are in real mail\r\n".repeat(71),
    );
    input.extend_from_slice(b".\r\n");
    let mut session = Session::new(Role::Exchange, Limits::default(), Security::default());
    let mut output = Vec::new();
    let greeting = Greeting { verb: Verb::Ehlo, client_name: "client.test" };
    session.accept_greeting(&greeting, "me.test", ringmail::model::Timestamp(0), &mut output);

    let mut group = criterion.benchmark_group("smtp_session");
    group.throughput(Throughput::Bytes(input.len() as u64));
    group.bench_function("message_4k", |bencher| {
        bencher.iter(|| {
            output.clear();
            let mut rest = black_box(input.as_slice());
            loop {
                let (consumed, event) = session.next(rest, &mut output);
                rest = &rest[consumed..];
                match event {
                    Event::Incomplete => break,
                    Event::Sender(sender) => session.accept_sender(&sender, &mut output),
                    Event::Recipient(_) => session.accept_recipient(&mut output),
                    Event::MessageStart(_) => session.accept_message(&mut output),
                    Event::Content(content) => {
                        black_box(content);
                    }
                    Event::MessageEnd => session.end_transaction(true),
                    _ => (),
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, parse, session);
criterion_main!(benches);
