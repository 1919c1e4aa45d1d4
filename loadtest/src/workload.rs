//! The data sent: message text and addresses.

/// `pattern` with `{}` replaced by `number`.
pub fn address(pattern: &str, number: u64) -> String {
    pattern.replace("{}", &number.to_string())
}

/// A message of about `size` octets (never less than its headers): CRLF lines of words, a dot at
/// the start of some of them. Some words are much more frequent than others, so that it compresses
/// like natural text, to somewhat less than half.
pub fn message(size: usize, sender: &str) -> Vec<u8> {
    let mut text = format!(
        "From: <{sender}>\r\nTo: undisclosed-recipients:;\r\nSubject: ringload\r\n\
         Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{:x}@ringload.invalid>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
        rand::random::<u64>()
    )
    .into_bytes();
    let words = vocabulary();
    let mut number = 0u64;
    while text.len() < size {
        let mut line = if number % 16 == 7 { ".dotted" } else { "line" }.to_owned();
        while line.len() < 60 {
            let share = rand::random::<f64>();
            line.push(' ');
            line.push_str(&words[(share.powi(4) * words.len() as f64) as usize]);
        }
        let room = (size - text.len()).saturating_sub(2).min(line.len());
        text.extend_from_slice(&line.as_bytes()[..room]);
        text.extend_from_slice(b"\r\n");
        number += 1;
    }
    text
}

/// Words of 2 to 10 letters.
fn vocabulary() -> Vec<String> {
    let letter = |_| char::from(b'a' + rand::random::<u8>() % 26);
    (0..4000).map(|_| (0..2 + rand::random::<u8>() % 9).map(letter).collect()).collect()
}

/// RFC 5321 4.5.2: a dot at the start of a line is doubled; the final dot is added.
pub fn dot_stuff(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 64 + 5);
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if line.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for size in [400, 1000, 4096, 65536] {
            let length = message(size, "s@example.org").len();
            assert!((size..=size + 2).contains(&length), "{size}: {length}");
        }
    }

    #[test]
    fn dots() {
        assert_eq!(dot_stuff(b".a\r\nb.\r\n..\r\n"), b"..a\r\nb.\r\n...\r\n.\r\n");
    }

    #[test]
    fn numbered_addresses() {
        assert_eq!(address("u{}@x", 7), "u7@x");
        assert_eq!(address("u@x", 7), "u@x");
    }
}
