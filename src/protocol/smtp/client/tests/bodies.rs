//! The text of a message on its way: dots, line ends and chunks.

use super::*;

/// `content` encoded in pieces of `piece` octets.
fn encode(mut encoder: BodyEncoder, content: &[u8], piece: usize) -> Vec<u8> {
    let mut output = Vec::new();
    content.chunks(piece).for_each(|piece| encoder.push(piece, &mut output));
    encoder.finish(&mut output);
    output
}

/// RFC 5321 4.5.2 and 2.3.8: nothing in a message can look like its end, for any peer.
#[test]
fn bodies() {
    let cases: &[(&[u8], &[u8])] = &[
        (b"", b""),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a", b"a\r\n"),
        (b".", b"..\r\n"),
        (b".\r\n", b"..\r\n"),
        (b"..\r\n", b"...\r\n"),
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
        (b"a.\r\n.b", b"a.\r\n..b\r\n"),
        (b"a\r\n", b"a\r\n"),
        (b"\r\n.\r\n", b"\r\n..\r\n"),
        // Smuggling.
        (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\n.\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\n.\rb", b"a\r\n..\r\nb\r\n"),
        (b"a\r.\r\nb", b"a\r\n..\r\nb\r\n"),
        (b"a\r\r\n.\r\nb", b"a\r\n\r\n..\r\nb\r\n"),
        (b"a\n\r.\n\rb", b"a\r\n\r\n..\r\n\r\nb\r\n"),
        (b"a\r\0\n.\r\n", b"a\r\n\0\r\n..\r\n"),
        (b"\r", b"\r\n"),
        (b"\n", b"\r\n"),
        (b"\r\n", b"\r\n"),
        (b"\r\r\r", b"\r\n\r\n\r\n"),
        (b"caf\xe9\n.\xff\r\n", b"caf\xe9\r\n..\xff\r\n"),
    ];
    for (content, expected) in cases {
        for piece in 1..=content.len().max(1) {
            let data = encode(BodyEncoder::data(), content, piece);
            assert_eq!(data, *expected, "{content:?} in pieces of {piece}");
            let chunks = encode(BodyEncoder::chunks(false), content, piece);
            let unstuffed = expected.split(|it| *it == b'\n').map(|line| match line {
                [b'.', line @ ..] => line,
                line => line,
            });
            assert_eq!(chunks, unstuffed.collect::<Vec<_>>().join(&b'\n'));
            assert_eq!(encode(BodyEncoder::chunks(true), content, piece), *content);
        }
    }
    let long = [vec![b'x'; 5000], b"\r\n".to_vec()].concat();
    assert_eq!(encode(BodyEncoder::data(), &long, 999), long);
}
