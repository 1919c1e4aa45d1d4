//! A TLSA record (RFC 6698 2.1): what the DNS says about a host's certificate. The resolver reads
//! it, outgoing TLS compares the certificate with it.

use std::fmt;

/// One record of a TLSA set. The fields are as received: unknown values are kept, and whoever uses
/// the record decides whether it is usable (RFC 7672 3.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tlsa {
    /// Certificate usage (RFC 6698 2.1.1, names of RFC 7218): 0 PKIX-TA, 1 PKIX-EE, 2 DANE-TA,
    /// 3 DANE-EE.
    pub usage: u8,
    /// What of the certificate is compared (RFC 6698 2.1.2): 0 all of it, 1 its public key.
    pub selector: u8,
    /// How (RFC 6698 2.1.3): 0 octet by octet, 1 by SHA-256, 2 by SHA-512.
    pub matching: u8,
    pub data: Box<[u8]>,
}

/// As in a zone file: `3 1 1 0a1b…`.
impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_in_a_zone_file() {
        let record = Tlsa { usage: 3, selector: 1, matching: 1, data: [0x0a, 0x1b].into() };
        assert_eq!(record.to_string(), "3 1 1 0a1b");
    }
}
