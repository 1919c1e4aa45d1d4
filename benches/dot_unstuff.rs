//! What does it cost to find the end of a message and remove its dots: ordinary text, text where
//! every line begins with a dot, and one endless line?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringmail::protocol::smtp::{
    BareNewline,
    data::{DataReader, Piece},
};

fn unstuff(criterion: &mut Criterion) {
    const SIZE: usize = 256 * 1024;
    let text = |line: &[u8]| [line.repeat(SIZE / line.len()), b"\r\n.\r\n".to_vec()].concat();
    let cases = [
        ("text", text(b"a line of text as long as lines of text are in real mail, or so\r\n")),
        ("every_line_stuffed", text(b"..\r\n")),
        ("one_line", text(b"x")),
    ];
    let mut group = criterion.benchmark_group("dot_unstuff");
    for (name, input) in &cases {
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(*name, |bencher| {
            bencher.iter(|| {
                let mut reader = DataReader::new(BareNewline::Refuse);
                let mut rest = black_box(input.as_slice());
                let mut size = 0;
                loop {
                    let (consumed, piece) = reader.next(rest);
                    rest = &rest[consumed..];
                    match piece {
                        Piece::Content(content) => size += content.len(),
                        Piece::End => break,
                        other => panic!("{other:?}"),
                    }
                }
                size
            });
        });
    }
    group.finish();
}

criterion_group!(benches, unstuff);
criterion_main!(benches);
