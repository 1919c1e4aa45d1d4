//! The header of the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt): a load
//! balancer sends it before everything else and names the client that it connects for.
//!
//! `server::sessions` feeds it what connections from the networks of proxies begin with, before
//! TLS. Invariants: a header has at most [`HEADER_MAX`] octets, and input that cannot become a
//! header is refused at its first wrong octet, so at most that many octets are waited for. Which
//! peers are believed is not decided here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Octets of a header of version 2, its TLVs included. They may hold names and certificates'
/// subjects; those of HAProxy and of clouds need some hundred.
pub const HEADER_MAX: usize = 4096;
/// Octets of a header of version 1, CRLF included (2.1).
const HEADER_V1_MAX: usize = 107;
const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED_V2: usize = 16;
/// The TLV with a checksum of the whole header (2.2.3).
const TLV_CRC32C: u8 = 0x03;

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Header {
    /// The proxy connects for itself, for instance to see whether we live, or does not say for
    /// whom.
    Local,
    /// It connects for this client, who connected to `destination`.
    Proxied { client: SocketAddr, destination: SocketAddr },
}

/// The input does not begin with a header, or with a wrong one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadHeader {
    #[error("no PROXY header")]
    Missing,
    #[error("malformed PROXY header")]
    Malformed,
    #[error("PROXY header too long")]
    TooLong,
    #[error("PROXY header with a wrong checksum")]
    Checksum,
}

/// Takes a header from the start of `input`: its length and what it says. `None`: more is needed.
pub fn parse(input: &[u8]) -> Result<Option<(usize, Header)>, BadHeader> {
    let begins = |signature: &[u8]| {
        let length = signature.len().min(input.len());
        input[..length] == signature[..length]
    };
    if begins(SIGNATURE_V2) {
        parse_v2(input)
    } else if begins(SIGNATURE_V1) {
        parse_v1(input)
    } else {
        Err(BadHeader::Missing)
    }
}

/// `PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n` (2.1).
fn parse_v1(input: &[u8]) -> Result<Option<(usize, Header)>, BadHeader> {
    let start = &input[..input.len().min(HEADER_V1_MAX)];
    let Some(end) = memchr::memchr(b'\n', start) else {
        return if start.len() == HEADER_V1_MAX { Err(BadHeader::TooLong) } else { Ok(None) };
    };
    let line = start[..end].strip_suffix(b"\r").ok_or(BadHeader::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_| BadHeader::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let header = match words.next() {
        // The rest of the line must be ignored.
        Some("UNKNOWN") => Header::Local,
        Some("TCP4") => addresses::<Ipv4Addr>(words).ok_or(BadHeader::Malformed)?,
        Some("TCP6") => addresses::<Ipv6Addr>(words).ok_or(BadHeader::Malformed)?,
        _ => return Err(BadHeader::Malformed),
    };
    Ok(Some((end + 1, header)))
}

fn addresses<'a, A>(mut words: impl Iterator<Item = &'a str>) -> Option<Header>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let (client, destination) =
        (words.next()?.parse::<A>().ok()?, words.next()?.parse::<A>().ok()?);
    let (client_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    words
        .next()
        .is_none()
        .then(|| proxied((client.into(), client_port), (destination.into(), destination_port)))
}

fn proxied(client: (IpAddr, u16), destination: (IpAddr, u16)) -> Header {
    let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    Header::Proxied { client: address(client), destination: address(destination) }
}

/// Digits without a leading zero.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|octet| octet.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    if plain && !padded { text.parse().ok() } else { None }
}

/// Version 2 (2.2).
fn parse_v2(input: &[u8]) -> Result<Option<(usize, Header)>, BadHeader> {
    let Some(fixed) = input.get(..FIXED_V2) else { return Ok(None) };
    let [command, family] = [fixed[12], fixed[13]];
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader::Malformed),
    };
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(BadHeader::Malformed);
    }
    if length > HEADER_MAX {
        return Err(BadHeader::TooLong);
    }
    let Some(whole) = input.get(..length) else { return Ok(None) };
    let payload = &whole[FIXED_V2..];
    let addresses = match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    if !local && payload.len() < addresses {
        return Err(BadHeader::Malformed);
    }
    // 2.2: with LOCAL the payload's addresses are to be discarded.
    let header = match family {
        _ if local => Header::Local,
        0x11 => {
            let ip = |at: usize| {
                let octets: [u8; 4] = payload[at..at + 4].try_into().unwrap_or_default();
                IpAddr::from(octets)
            };
            proxied((ip(0), port_at(payload, 8)), (ip(4), port_at(payload, 10)))
        }
        0x21 => {
            let ip = |at: usize| {
                let octets: [u8; 16] = payload[at..at + 16].try_into().unwrap_or_default();
                IpAddr::from(octets)
            };
            proxied((ip(0), port_at(payload, 32)), (ip(16), port_at(payload, 34)))
        }
        // Unspecified, datagrams or UNIX sockets: no client that we could name.
        _ => Header::Local,
    };
    check_tlvs(whole, FIXED_V2 + addresses.min(payload.len()))?;
    Ok(Some((length, header)))
}

fn port_at(payload: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([payload[at], payload[at + 1]])
}

/// Checks the TLVs from `at` on, and the checksum if there is one (2.2.3).
fn check_tlvs(whole: &[u8], mut at: usize) -> Result<(), BadHeader> {
    while let Some(&[kind, high, low]) = whole.get(at..at + 3) {
        let value = at + 3;
        let end = value + usize::from(u16::from_be_bytes([high, low]));
        let Some(octets) = whole.get(value..end) else { return Err(BadHeader::Malformed) };
        if kind == TLV_CRC32C {
            let stated = <[u8; 4]>::try_from(octets).map_err(|_| BadHeader::Malformed)?;
            let before = crc32c::crc32c(&whole[..value]);
            let sum = crc32c::crc32c_append(before, &[0; 4]);
            let sum = crc32c::crc32c_append(sum, &whole[end..]);
            if sum != u32::from_be_bytes(stated) {
                return Err(BadHeader::Checksum);
            }
        }
        at = end;
    }
    if at == whole.len() { Ok(()) } else { Err(BadHeader::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(client: &str, destination: &str) -> Header {
        Header::Proxied {
            client: client.parse().expect("address"),
            destination: destination.parse().expect("address"),
        }
    }

    /// Checks the header with text after it, and every cut of it.
    fn check(header: &[u8], expected: Result<Header, BadHeader>) {
        let text = header.escape_ascii().to_string();
        let mut input = header.to_vec();
        input.extend_from_slice(b"EHLO x\r\n");
        let found = parse(&input);
        assert_eq!(found, expected.map(|it| Some((header.len(), it))), "{text}");
        if expected.is_ok() {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Ok(None), "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn version_1() {
        use BadHeader::*;
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        let cases = [
            (
                "PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\r\n",
                Ok(of("192.0.2.7:56324", "192.0.2.1:25")),
            ),
            (
                "PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n",
                Ok(of("[2001:db8::7]:1", "[2001:db8::1]:65535")),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.1 1 0\r\n",
                Ok(of("192.0.2.7:1", "192.0.2.1:0")),
            ),
            ("PROXY UNKNOWN\r\n", Ok(Header::Local)),
            ("PROXY UNKNOWN ffff::1 what ever\r\n", Ok(Header::Local)),
            (&longest, Ok(Header::Local)),
            (&too_long, Err(TooLong)),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 56324 25\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 56324\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 56324 25 \r\n", Err(Malformed)),
            ("PROXY TCP4  192.0.2.7 192.0.2.1 56324 25\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.07 192.0.2.1 56324 25\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 056 25\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 +56 25\r\n", Err(Malformed)),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 65536 25\r\n", Err(Malformed)),
            ("PROXY TCP4 ::1 ::1 1 25\r\n", Err(Malformed)),
            ("PROXY TCP6 192.0.2.7 192.0.2.1 1 25\r\n", Err(Malformed)),
            ("PROXY UDP4 192.0.2.7 192.0.2.1 1 25\r\n", Err(Malformed)),
            ("PROXY \r\n", Err(Malformed)),
            ("PROXYTCP4", Err(Missing)),
            ("EHLO x\r\n", Err(Missing)),
            ("proxy TCP4", Err(Missing)),
            ("\u{16}\u{3}\u{1}", Err(Missing)),
        ];
        for (text, expected) in cases {
            check(text.as_bytes(), expected);
        }
    }

    fn version_2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).expect("length").to_be_bytes();
        [SIGNATURE_V2, &[command, family][..], &length, payload].concat()
    }

    const V4: &[u8] = &[192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 0x04, 0, 25];

    #[test]
    fn version_2_headers() {
        use BadHeader::*;
        let v4 = Ok(of("192.0.2.7:56324", "192.0.2.1:25"));
        let v6: Vec<u8> = [
            &"2001:db8::7".parse::<Ipv6Addr>().expect("address").octets()[..],
            &"2001:db8::1".parse::<Ipv6Addr>().expect("address").octets(),
            &[0xdc, 0x04, 0, 25],
        ]
        .concat();
        let with_tlv = [V4, &[0x04, 0, 3, 1, 2, 3], &[0x02, 0, 0]].concat();
        let cut_tlv = [V4, &[0x04, 0, 4, 1, 2, 3]].concat();
        let stray = [V4, &[0x04, 0]].concat();
        let cases: &[(u8, u8, &[u8], Result<Header, BadHeader>)] = &[
            (0x21, 0x11, V4, v4),
            (0x21, 0x21, &v6, Ok(of("[2001:db8::7]:56324", "[2001:db8::1]:25"))),
            (0x20, 0x11, V4, Ok(Header::Local)),
            (0x20, 0x00, &[], Ok(Header::Local)),
            (0x21, 0x00, &[], Ok(Header::Local)),
            (0x21, 0x31, &[b'/'; 216], Ok(Header::Local)),
            (0x21, 0x12, V4, Ok(Header::Local)),
            (0x21, 0x11, &with_tlv, v4),
            (0x21, 0x11, &cut_tlv, Err(Malformed)),
            (0x21, 0x11, &stray, Err(Malformed)),
            (0x21, 0x11, &V4[..11], Err(Malformed)),
            (0x21, 0x21, V4, Err(Malformed)),
            (0x22, 0x11, V4, Err(Malformed)),
            (0x11, 0x11, V4, Err(Malformed)),
            (0x21, 0x41, V4, Err(Malformed)),
            (0x21, 0x13, V4, Err(Malformed)),
            (0x21, 0x00, &[0; HEADER_MAX - 16 + 1], Err(TooLong)),
        ];
        for (command, family, payload, expected) in cases {
            check(&version_2(*command, *family, payload), *expected);
        }
        let most = [V4, &[0x04, 0x0f, 0xe1], &[0; HEADER_MAX - FIXED_V2 - 12 - 3][..]].concat();
        check(&version_2(0x21, 0x11, &most), v4);
    }

    #[test]
    fn checksums() {
        let payload = [V4, &[TLV_CRC32C, 0, 4, 0, 0, 0, 0], &[0x04, 0, 1, 9]].concat();
        let mut header = version_2(0x21, 0x11, &payload);
        let sum = crc32c::crc32c(&header).to_be_bytes();
        header[FIXED_V2 + 15..FIXED_V2 + 19].copy_from_slice(&sum);
        check(&header, Ok(of("192.0.2.7:56324", "192.0.2.1:25")));
        header[FIXED_V2] ^= 1;
        check(&header, Err(BadHeader::Checksum));
    }

    proptest! {
        #[test]
        fn anything_is_decided_within_the_bound(
            start in proptest::sample::select(vec![
                &b""[..], SIGNATURE_V1, SIGNATURE_V2, b"PROXY TCP4 ",
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x60",
            ]),
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut input = [start, &rest].concat();
            let found = parse(&input);
            if let Ok(Some((length, _))) = found {
                prop_assert!(length <= input.len());
                prop_assert_eq!(parse(&input[..length]), found);
            }
            input.resize(HEADER_MAX, b'x');
            prop_assert_ne!(parse(&input), Ok(None));
        }
    }
}
