//! What does it cost to find lines: short commands, and one long line that comes in pieces?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmail::protocol::line::{Frame, LineFramer};

fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("line_framer");
    let commands = b"RCPT TO:<user12345@demo.test>\r\n".repeat(1000);
    group.throughput(Throughput::Bytes(commands.len() as u64));
    group.bench_function("commands", |bencher| {
        bencher.iter(|| {
            let mut framer = LineFramer::new(2048);
            let mut rest = black_box(commands.as_slice());
            let mut lines = 0;
            loop {
                let (consumed, frame) = framer.next(rest);
                rest = &rest[consumed..];
                match frame {
                    Frame::Incomplete => break,
                    _ => lines += 1,
                }
            }
            assert_eq!(lines, 1000);
        });
    });

    let long = [vec![b'x'; 12_000], b"\r\n".to_vec()].concat();
    group.throughput(Throughput::Bytes(long.len() as u64));
    group.bench_function("one_line_in_pieces_of_100", |bencher| {
        bencher.iter(|| {
            let mut framer = LineFramer::new(12_288);
            let mut found = false;
            for end in (100..=long.len()).step_by(100).chain([long.len()]) {
                let (_, frame) = framer.next(black_box(&long[..end]));
                found = matches!(frame, Frame::Line(_));
            }
            assert!(found);
        });
    });
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
