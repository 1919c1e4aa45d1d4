//! Trace fields: the Return-Path and Received lines put in front of a message (RFC 5321 4.4), and
//! the count of existing ones, which detects mail loops (RFC 5321 6.3).

use std::{fmt::Write, net::IpAddr};

use memchr::memchr;

use crate::{model::Timestamp, protocol::mime::date::write_rfc5322};

/// Octets of a Received line after which it is folded.
const FOLD: &str = "\r\n\t";

/// The transport of the message, for the `with` clause (RFC 3848, RFC 6531 4.3, IANA mail
/// parameters).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Transport {
    pub lmtp: bool,
    /// EHLO or LHLO, not HELO.
    pub extended: bool,
    pub tls: bool,
    pub authenticated: bool,
    pub utf8: bool,
}

impl Transport {
    /// The keyword registered for this transport.
    pub fn keyword(self) -> &'static str {
        const KEYWORDS: [[&str; 4]; 4] = [
            ["ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA"],
            ["LMTP", "LMTPA", "LMTPS", "LMTPSA"],
            ["UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"],
            ["UTF8LMTP", "UTF8LMTPA", "UTF8LMTPS", "UTF8LMTPSA"],
        ];
        if !self.extended {
            return "SMTP";
        }
        let row = 2 * usize::from(self.utf8) + usize::from(self.lmtp);
        KEYWORDS[row][2 * usize::from(self.tls) + usize::from(self.authenticated)]
    }
}

/// The contents of the two fields.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// Without brackets; "" is the null path.
    pub reverse_path: &'a str,
    /// The client's name for itself: any printable word.
    pub client_name: &'a str,
    pub peer: IpAddr,
    pub hostname: &'a str,
    pub transport: Transport,
    /// Protocol and cipher, e.g. "TLSv1.3 TLS13_AES_256_GCM_SHA384".
    pub tls: Option<&'a str>,
    pub id: &'a str,
    /// Only if there is one recipient: recipients must not learn of each other (RFC 5321 7.2).
    pub forward_path: Option<&'a str>,
    pub now: Timestamp,
}

impl Trace<'_> {
    /// Appends the return path, the first field of a message. Existing fields of this name stay, as
    /// do Received fields: RFC 5321 4.4 forbids changing them.
    pub fn append_return_path_to(&self, output: &mut Vec<u8>) {
        append(output, &["Return-Path: <", self.reverse_path, ">\r\n"]);
    }

    /// Appends the Received field.
    pub fn append_received_to(&self, output: &mut Vec<u8>) {
        append(output, &["Received: from "]);
        append_client_name(output, self.client_name);
        let mut address = AddressLiteral::new(self.peer);
        append(output, &[" (", address.text(), ")", FOLD, "by ", self.hostname]);
        append(output, &[" with ", self.transport.keyword()]);
        if let Some(tls) = self.tls {
            append(output, &[" (", tls, ")"]);
        }
        append(output, &[" id ", self.id]);
        if let Some(forward_path) = self.forward_path {
            append(output, &[FOLD, "for <", forward_path, ">"]);
        }
        append(output, &[";", FOLD]);
        write_rfc5322(self.now, output);
        output.extend_from_slice(b"\r\n");
    }
}

fn append(output: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        output.extend_from_slice(part.as_bytes());
    }
}

/// Keeps characters that are allowed in a domain or an address literal; others, which could break
/// the field's syntax or look like one of our comments, become "?".
fn append_client_name(output: &mut Vec<u8>, name: &str) {
    let plain =
        |octet: u8| octet.is_ascii_alphanumeric() || b"-_.[]:".contains(&octet) || octet >= 0x80;
    output.extend(name.bytes().map(|octet| if plain(octet) { octet } else { b'?' }));
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3), on the stack.
struct AddressLiteral {
    octets: [u8; 64],
    len: usize,
}

impl AddressLiteral {
    fn new(address: IpAddr) -> AddressLiteral {
        let mut literal = AddressLiteral { octets: [0; 64], len: 0 };
        // The longest IPv6 address has 39 characters: this cannot fail.
        let _ = match address.to_canonical() {
            IpAddr::V4(address) => write!(literal, "[{address}]"),
            IpAddr::V6(address) => write!(literal, "[IPv6:{address}]"),
        };
        literal
    }

    fn text(&mut self) -> &str {
        std::str::from_utf8(&self.octets[..self.len]).unwrap_or_default()
    }
}

impl Write for AddressLiteral {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let free = self.octets.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        free.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// Counts the Received fields of a message as its octets pass, without looking at its body.
#[derive(Clone, Debug, Default)]
pub struct HopCounter {
    hops: usize,
    place: HopPlace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HopPlace {
    /// After this many octets of a line, all equal to `received:` so far.
    Name(usize),
    /// In a line that is not a Received field.
    Line,
    Body,
}

impl Default for HopPlace {
    fn default() -> HopPlace {
        HopPlace::Name(0)
    }
}

impl HopCounter {
    /// Received fields so far.
    pub fn hops(&self) -> usize {
        self.hops
    }

    /// Takes the next octets of the message.
    pub fn push(&mut self, mut octets: &[u8]) {
        const NAME: &[u8] = b"received:";
        while let Some(&octet) = octets.first() {
            match self.place {
                HopPlace::Body => return,
                HopPlace::Line => match memchr(b'\n', octets) {
                    None => return,
                    Some(end) => {
                        octets = &octets[end + 1..];
                        self.place = HopPlace::Name(0);
                        continue;
                    }
                },
                HopPlace::Name(0) if matches!(octet, b'\r' | b'\n') => {
                    self.place = HopPlace::Body;
                }
                HopPlace::Name(matched) if NAME[matched] == octet.to_ascii_lowercase() => {
                    if matched + 1 == NAME.len() {
                        self.hops += 1;
                        self.place = HopPlace::Line;
                    } else {
                        self.place = HopPlace::Name(matched + 1);
                    }
                }
                // The octet may be the line's end, so it is examined again.
                HopPlace::Name(_) => {
                    self.place = HopPlace::Line;
                    continue;
                }
            }
            octets = &octets[1..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut trace = Trace {
            reverse_path: "a@b.test",
            client_name: "me(you)",
            peer: "192.0.2.1".parse().expect("address"),
            hostname: "mail.test",
            transport: Transport { extended: true, tls: true, ..Transport::default() },
            tls: Some("TLSv1.3 X"),
            id: "1f",
            forward_path: Some("c@d.test"),
            now: Timestamp::from_unix_seconds(1_795_469_789),
        };
        let mut output = Vec::new();
        trace.append_return_path_to(&mut output);
        trace.append_received_to(&mut output);
        assert_eq!(
            String::from_utf8_lossy(&output),
            "Return-Path: <a@b.test>\r\n\
             Received: from me?you? ([192.0.2.1])\r\n\
             \tby mail.test with ESMTPS (TLSv1.3 X) id 1f\r\n\
             \tfor <c@d.test>;\r\n\
             \tMon, 23 Nov 2026 21:36:29 +0000\r\n"
        );
        trace.peer = "2001:db8::1".parse().expect("address");
        trace.forward_path = None;
        output.clear();
        trace.append_return_path_to(&mut output);
        trace.append_received_to(&mut output);
        let text = String::from_utf8_lossy(&output);
        assert!(text.contains("([IPv6:2001:db8::1])") && !text.contains("for <"), "{text}");
    }

    #[test]
    fn keywords() {
        let transport = |lmtp, extended, tls, authenticated, utf8| {
            Transport { lmtp, extended, tls, authenticated, utf8 }.keyword()
        };
        assert_eq!(transport(false, false, true, false, false), "SMTP");
        assert_eq!(transport(false, true, false, false, false), "ESMTP");
        assert_eq!(transport(false, true, true, true, false), "ESMTPSA");
        assert_eq!(transport(true, true, false, false, false), "LMTP");
        assert_eq!(transport(false, true, false, true, true), "UTF8SMTPA");
        assert_eq!(transport(true, true, true, false, true), "UTF8LMTPS");
    }

    #[test]
    fn dates() {
        const CASES: &[(i64, &str)] = &[
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (-1, "Wed, 31 Dec 1969 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 +0000"),
        ];
        for (seconds, expected) in CASES {
            let mut output = Vec::new();
            write_rfc5322(Timestamp::from_unix_seconds(*seconds), &mut output);
            assert_eq!(String::from_utf8_lossy(&output), *expected);
        }
    }

    #[test]
    fn hops() {
        const CASES: &[(&[u8], usize)] = &[
            (b"", 0),
            (b"Received: x\r\n\r\n", 1),
            (b"RECEIVED:x\r\n y\r\nreceived: z\r\n\r\nReceived: no\r\n", 2),
            (b"Subject: Received:\r\nX-Received: a\r\nReceive: b\r\nReceived : c\r\n\r\n", 0),
            (b"Rec\r\nReceived: a", 1),
            (b"\r\nReceived: a\r\n", 0),
            (b" Received: a\r\n", 0),
        ];
        for (message, expected) in CASES {
            for size in 1..=message.len().max(1) {
                let mut counter = HopCounter::default();
                message.chunks(size).for_each(|chunk| counter.push(chunk));
                assert_eq!(counter.hops(), *expected, "{:?}", String::from_utf8_lossy(message));
            }
        }
    }
}
