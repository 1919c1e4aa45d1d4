//! Networks: the unit of client limits, of counts of wrong passwords, of fair queueing and of the
//! operator's trust.
//!
//! One household or host has a whole IPv6 /64 and may have a /48, so addresses inside count as one.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// The prefix length of IPv4-mapped IPv6 addresses.
const MAPPED: u8 = 96;

/// Addresses with the same first bits. IPv4 is kept as IPv6 maps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Network {
    bits: u128,
    prefix: u8,
}

impl Network {
    /// One IPv4 address, or an IPv6 /64.
    pub fn narrow(peer: IpAddr) -> Network {
        Network::around(peer, 32, 64)
    }

    /// An IPv4 /24, or an IPv6 /48.
    pub fn wide(peer: IpAddr) -> Network {
        Network::around(peer, 24, 48)
    }

    /// One address.
    pub fn exact(peer: IpAddr) -> Network {
        Network::around(peer, 32, 128)
    }

    /// As [`Network::wide`] makes them.
    pub fn is_wide(&self) -> bool {
        self.prefix == if self.is_v4() { MAPPED + 24 } else { 48 }
    }

    fn is_v4(&self) -> bool {
        self.prefix >= MAPPED && Ipv6Addr::from_bits(self.bits).to_ipv4_mapped().is_some()
    }

    fn around(peer: IpAddr, prefix_v4: u8, prefix_v6: u8) -> Network {
        match peer.to_canonical() {
            IpAddr::V4(address) => {
                Network::new(address.to_ipv6_mapped().to_bits(), MAPPED + prefix_v4)
            }
            IpAddr::V6(address) => Network::new(address.to_bits(), prefix_v6),
        }
    }

    fn new(bits: u128, prefix: u8) -> Network {
        let beyond = u128::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        Network { bits: bits & !beyond, prefix }
    }

    /// Whether all of `other` is in this network.
    pub fn contains(&self, other: &Network) -> bool {
        other.prefix >= self.prefix && Network::new(other.bits, self.prefix) == *self
    }
}

/// The text is neither an address nor an address with a prefix length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a network: write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/64")]
pub struct NotANetwork;

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match (address.to_ipv4_mapped(), self.prefix.checked_sub(MAPPED)) {
            (Some(address), Some(32)) => write!(f, "{address}"),
            (Some(address), Some(prefix)) => write!(f, "{address}/{prefix}"),
            _ if self.prefix == 128 => write!(f, "{address}"),
            _ => write!(f, "{address}/{}", self.prefix),
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// An address, or an address with a prefix length: `192.0.2.0/24`.
    fn from_str(text: &str) -> Result<Network, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                (address, Some(prefix.parse::<u8>().map_err(|_| NotANetwork)?))
            }
            None => (text, None),
        };
        match address.parse().map_err(|_| NotANetwork)? {
            IpAddr::V4(address) => match prefix.unwrap_or(32) {
                prefix @ 0..=32 => {
                    Ok(Network::new(address.to_ipv6_mapped().to_bits(), MAPPED + prefix))
                }
                _ => Err(NotANetwork),
            },
            IpAddr::V6(address) => match prefix.unwrap_or(128) {
                prefix @ 0..=128 => Ok(Network::new(address.to_bits(), prefix)),
                _ => Err(NotANetwork),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn addresses_are_in_networks() {
        const CASES: &[(&str, &str, &str)] = &[
            ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
            ("2001:db8:1:2:3::4", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ];
        for (address, narrow, wide) in CASES {
            let (is_narrow, is_wide) = (Network::narrow(ip(address)), Network::wide(ip(address)));
            assert_eq!(is_narrow.to_string(), *narrow);
            assert_eq!(is_wide.to_string(), *wide);
            assert_eq!(narrow.parse(), Ok(is_narrow));
            assert_eq!(wide.parse(), Ok(is_wide));
            assert!(is_wide.contains(&is_narrow) && !is_narrow.contains(&is_wide));
        }
        let all: Network = "::/0".parse().expect("all");
        assert!(all.contains(&Network::narrow(ip("192.0.2.7"))));
        let all_v4: Network = "0.0.0.0/0".parse().expect("all of IPv4");
        assert!(all_v4.contains(&Network::exact(ip("9.9.9.9"))));
        assert!(!all_v4.contains(&Network::exact(ip("::"))));
    }

    #[test]
    fn what_is_no_network() {
        for text in ["", "x", "192.0.2.0/33", "192.0.2/24", "::/129", "::1/-1", "192.0.2.1/"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }
}
