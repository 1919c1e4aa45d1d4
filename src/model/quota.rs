//! The limits of an account's mail (RFC 9208 5), as they are set for it.

/// What an account's mail may take; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct QuotaLimits {
    /// Octets of messages, as RFC822.SIZE counts them; copies count like originals.
    pub octets: Option<u64>,
    pub messages: Option<u64>,
}

const VERSION: u8 = 1;
const LEN: usize = 17;
/// In place of a limit.
const NONE: u64 = u64::MAX;

impl QuotaLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == QuotaLimits::default()
    }

    /// For the store; `docs/disk_format.md`, "Quota", has the layout.
    pub fn encode(&self) -> Vec<u8> {
        let mut octets = vec![VERSION];
        for limit in [self.octets, self.messages] {
            octets.extend_from_slice(&limit.unwrap_or(NONE).to_le_bytes());
        }
        octets
    }

    /// `None` for what another version wrote.
    pub fn decode(octets: &[u8]) -> Option<QuotaLimits> {
        let octets: &[u8; LEN] = octets.try_into().ok()?;
        let (version, limits) = octets.split_first()?;
        let (size, number) = limits.split_at_checked(8)?;
        let limit = |octets: &[u8]| {
            let limit = u64::from_le_bytes(octets.try_into().ok()?);
            Some(Some(limit).filter(|limit| *limit != NONE))
        };
        let limits = QuotaLimits { octets: limit(size)?, messages: limit(number)? };
        (*version == VERSION).then_some(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_written() {
        for octets in [None, Some(0), Some(1 << 40)] {
            for messages in [None, Some(0), Some(7)] {
                let limits = QuotaLimits { octets, messages };
                assert_eq!(QuotaLimits::decode(&limits.encode()), Some(limits));
            }
        }
        let written = QuotaLimits::default().encode();
        assert_eq!(QuotaLimits::decode(&written[..16]), None);
        assert_eq!(QuotaLimits::decode(&[&written[..], &[0]].concat()), None);
        assert_eq!(QuotaLimits::decode(&[&[2], &written[1..]].concat()), None);
    }
}
