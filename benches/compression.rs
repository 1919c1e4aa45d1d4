//! The cost of compressing a message for the shard (or, from 64 KiB on, another thread), and the
//! saving: the ratio of each kind is printed first.
//!
//!     cargo bench --bench compression

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringmail::store::compression::{compress, decompress};

const SIZES: [usize; 4] = [1 << 10, 4 << 10, 64 << 10, 256 << 10];

/// Words of unequal frequency, as in any language.
fn text(len: usize) -> Vec<u8> {
    let words: Vec<String> = (0..4000u64)
        .map(|n| {
            let mut seed = random(n);
            (0..2 + seed % 9)
                .map(|_| {
                    seed = random(seed);
                    (b'a' + (seed % 26) as u8) as char
                })
                .collect()
        })
        .collect();
    let mut out = Vec::with_capacity(len + 16);
    let mut seed = 7;
    let mut column = 0;
    while out.len() < len {
        seed = random(seed);
        // Squared twice: a few words are most of the text.
        let share = (seed % 1_000_000) as f64 / 1e6;
        let word = &words[(share.powi(4) * words.len() as f64) as usize];
        out.extend_from_slice(word.as_bytes());
        column += word.len() + 1;
        match column > 70 {
            true => {
                out.extend_from_slice(b"\r\n");
                column = 0;
            }
            false => out.push(b' '),
        }
    }
    out.truncate(len);
    out
}

/// The same as a newsletter: more markup than text.
fn html(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 400);
    for (n, line) in text(len).chunks(60).enumerate() {
        let line = String::from_utf8_lossy(line);
        out.extend_from_slice(
            format!(
                "<tr><td style=\"font-family:Arial,sans-serif;font-size:14px;color:#333333\" \
                 align=\"left\"><a href=\"https://news.example/c/{:x}\">{line}</a></td></tr>\r\n",
                random(n as u64)
            )
            .as_bytes(),
        );
        if out.len() >= len {
            break;
        }
    }
    out.truncate(len);
    out
}

/// A picture or an archive in MIME's encoding.
fn base64(len: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..len as u64)
        .map(|at| match at % 78 {
            76 => b'\r',
            77 => b'\n',
            _ => ALPHABET[(random(at) % 64) as usize],
        })
        .collect()
}

fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn compression(criterion: &mut Criterion) {
    type Kind = (&'static str, fn(usize) -> Vec<u8>);
    let kinds: [Kind; 3] = [("text", text), ("html", html), ("base64", base64)];
    for level in [1, 3] {
        let mut group = criterion.benchmark_group(format!("compress, level {level}"));
        for (name, make) in kinds {
            for size in SIZES {
                let raw = make(size);
                let packed = compress(raw.clone(), level);
                let share = packed.bytes.len() as f64 / size as f64;
                println!("{name} of {size}, level {level}: {share:.2} of it is left");
                group.throughput(Throughput::Bytes(size as u64));
                group.bench_with_input(BenchmarkId::new(name, size), &raw, |bencher, raw| {
                    bencher.iter_batched(
                        || raw.clone(),
                        |raw| compress(raw, level),
                        criterion::BatchSize::SmallInput,
                    );
                });
            }
        }
    }
    let mut group = criterion.benchmark_group("decompress");
    for (name, make) in kinds {
        for size in SIZES {
            let packed = compress(make(size), 1);
            if !packed.is_compressed() {
                continue;
            }
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_with_input(BenchmarkId::new(name, size), &packed, |bencher, packed| {
                bencher.iter(|| decompress(&packed.bytes, packed.raw));
            });
        }
    }
}

criterion_group!(benches, compression);
criterion_main!(benches);
