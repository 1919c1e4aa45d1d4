//! The field `TLS-Required: No` (RFC 8689 3): whoever sends the message asks that it goes through
//! where the TLS policy of its recipients would hold it up, for instance to tell them so. Found
//! while the message arrives; `service::smtp` keeps the finding in the queue's envelope.

use memchr::memchr;

/// Octets of a header field that are looked at; ours is much shorter.
const FIELD_OCTETS: usize = 128;

/// Looks for the field in the header of a message that is given in pieces.
#[derive(Clone, Debug, Default)]
pub struct TlsRequired {
    /// The beginning of the current field, with its continuation lines.
    field: Vec<u8>,
    /// The beginning of the current line, if it has not ended, and whether it is longer.
    line: Vec<u8>,
    line_is_longer: bool,
    /// The header is over.
    over: bool,
    no: bool,
}

impl TlsRequired {
    /// Takes the next octets of the message, as they were sent.
    pub fn push(&mut self, mut octets: &[u8]) {
        while !self.over && !octets.is_empty() {
            let end = memchr(b'\n', octets);
            let (line, rest) = octets.split_at(end.map_or(octets.len(), |at| at + 1));
            octets = rest;
            let room = FIELD_OCTETS.saturating_sub(self.line.len());
            self.line.extend_from_slice(line.get(..room).unwrap_or(line));
            self.line_is_longer |= line.len() > room;
            if end.is_some() {
                self.take_line();
            }
        }
    }

    fn take_line(&mut self) {
        let text = self.line.trim_ascii_end();
        let continues = !text.is_empty() && matches!(self.line.first(), Some(b' ' | b'\t'));
        if !continues {
            self.no |= is_no(&self.field);
            self.field.clear();
            self.over = text.is_empty();
        }
        let fits = !self.line_is_longer && self.field.len() + self.line.len() <= FIELD_OCTETS;
        match fits {
            true => self.field.extend_from_slice(&self.line),
            // Too long to be ours, however it begins and goes on.
            false => {
                self.field.truncate(FIELD_OCTETS - 1);
                self.field.insert(0, b'?');
            }
        }
        self.line.clear();
        self.line_is_longer = false;
    }

    /// Whether the field is there. At the end of the message.
    pub fn is_no(&self) -> bool {
        self.no
    }
}

fn is_no(field: &[u8]) -> bool {
    let Some(colon) = memchr(b':', field) else { return false };
    let (name, value) = field.split_at(colon);
    let value = value.get(1..).unwrap_or_default();
    name.trim_ascii_end().eq_ignore_ascii_case(b"TLS-Required")
        && value.trim_ascii().eq_ignore_ascii_case(b"no")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found() {
        let long = format!("Subject: {}\r\nTLS-Required: No\r\n\r\n", "x".repeat(1000));
        let longer = format!("TLS-Required: No{}x\r\n\r\n", " ".repeat(1000));
        let folded = format!("TLS-Required: No\r\n {}\r\n\r\n", "x".repeat(1000));
        for (message, expected) in [
            ("TLS-Required: No\r\n\r\nHi\r\n", true),
            ("From: <a@b>\r\ntls-required:NO \r\nTo: <c@d>\r\n\r\n", true),
            ("From: <a@b>\r\nTLS-Required:\r\n no\r\n\r\n", true),
            ("TLS-Required: No\n\n", true),
            (&*long, true),
            ("TLS-Required: Yes\r\n\r\n", false),
            ("TLS-Required: No, thanks\r\n\r\n", false),
            ("TLS-Required: No\r\n\tx\r\n\r\n", false),
            ("X-TLS-Required: No\r\n\r\n", false),
            ("Subject: x\r\n TLS-Required: No\r\n\r\n", false),
            ("Subject: x\r\n\r\nTLS-Required: No\r\n", false),
            ("\r\nTLS-Required: No\r\n\r\n", false),
            (&*longer, false),
            (&*folded, false),
            ("", false),
        ] {
            for piece in [1, 2, 3, 7, 4096] {
                let mut seen = TlsRequired::default();
                message.as_bytes().chunks(piece).for_each(|octets| seen.push(octets));
                assert_eq!(seen.is_no(), expected, "{message:?} in pieces of {piece}");
            }
        }
    }
}
