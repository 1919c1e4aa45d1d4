//! What is sent: message text and addresses.

/// `pattern` with `{}` replaced by `number`.
pub fn address(pattern: &str, number: u64) -> String {
    pattern.replace("{}", &number.to_string())
}

/// A message of about `size` octets (never less than its headers): CRLF lines, a dot at the start
/// of some of them, no two runs of the same length alike.
pub fn message(size: usize, sender: &str) -> Vec<u8> {
    let mut text = format!(
        "From: <{sender}>\r\nTo: undisclosed-recipients:;\r\nSubject: ringload\r\n\
         Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{:x}@ringload.invalid>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n",
        rand::random::<u64>()
    )
    .into_bytes();
    let mut line = 0u64;
    while text.len() < size {
        let start = if line % 16 == 7 { ".dotted " } else { "" };
        let words = format!("{start}line {line} of a message made by ringload to measure a server");
        let room = (size - text.len()).saturating_sub(2).min(words.len());
        text.extend_from_slice(&words.as_bytes()[..room]);
        text.extend_from_slice(b"\r\n");
        line += 1;
    }
    text
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
