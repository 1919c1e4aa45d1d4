//! The TXT record of `_smtp._tls.` and a domain: where the domain wants its reports (RFC 8460 3).

use std::fmt;

/// Endpoints of a domain that get a report; further ones are left out.
pub const ENDPOINTS_MAX: usize = 4;

/// Octets of a URI that is used.
const URI_MAX: usize = 1024;

/// Octets of an address (RFC 5321 4.5.3.1.3).
const ADDRESS_MAX: usize = 254;

/// Where a report goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// An address.
    Mail(String),
    Https(HttpsUrl),
}

/// A URL of HTTPS that names its host; addresses are none, since no certificate is for them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpsUrl {
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub target: String,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Mail(address) => write!(f, "mailto:{address}"),
            Endpoint::Https(url) if url.port == 443 => {
                write!(f, "https://{}{}", url.host, url.target)
            }
            Endpoint::Https(url) => write!(f, "https://{}:{}{}", url.host, url.port, url.target),
        }
    }
}

/// The endpoints in the TXT records of `_smtp._tls.` and a domain; none unless exactly one record
/// is of this kind (RFC 8460 3).
pub fn endpoints(records: &[String]) -> Vec<Endpoint> {
    let of_kind = |text: &&String| {
        let rest = text.strip_prefix("v=TLSRPTv1");
        rest.is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with(';'))
    };
    let mut ours = records.iter().filter(of_kind);
    let (Some(text), None) = (ours.next(), ours.next()) else { return Vec::new() };
    let fields = text.split(';').filter_map(|field| field.trim().split_once('='));
    let mut wanted = fields.filter(|(key, _)| key.trim() == "rua").map(|(_, value)| value);
    let mut found = Vec::new();
    for uri in wanted.next().unwrap_or_default().split(',') {
        let endpoint = Endpoint::parse(uri.trim());
        found.extend(endpoint.filter(|it| found.len() < ENDPOINTS_MAX && !found.contains(it)));
    }
    found
}

impl Endpoint {
    /// `None` for what is neither a `mailto:` with one address nor an `https:` with a host's name.
    pub fn parse(uri: &str) -> Option<Endpoint> {
        let (scheme, rest) = uri.split_once(':')?;
        let is_plain = uri.len() <= URI_MAX && uri.bytes().all(|octet| octet.is_ascii_graphic());
        if !is_plain {
            return None;
        }
        if scheme.eq_ignore_ascii_case("mailto") {
            return address(rest.split(['?', '#']).next()?).map(Endpoint::Mail);
        }
        let is_https = scheme.eq_ignore_ascii_case("https");
        is_https.then(|| url(rest.strip_prefix("//")?).map(Endpoint::Https))?
    }
}

/// One address, decoded (RFC 6068 2).
fn address(text: &str) -> Option<String> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let digit = |octet: u8| char::from(octet).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high * 16 + low).ok()?
            }
            octet => octet,
        });
    }
    let decoded = String::from_utf8(octets).ok()?;
    let (local, domain) = decoded.rsplit_once('@')?;
    let is_atom =
        |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&octet);
    let is_local = local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(is_atom));
    (is_local && is_host(domain) && decoded.len() <= ADDRESS_MAX).then_some(decoded)
}

fn url(text: &str) -> Option<HttpsUrl> {
    let text = text.split('#').next()?;
    let at = text.find(['/', '?']).unwrap_or(text.len());
    let (authority, target) = text.split_at(at);
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (authority, 443),
    };
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    is_host(host).then(|| HttpsUrl { host: host.to_ascii_lowercase(), port, target })
}

/// Whether it is a host's name, in A-labels, and no address.
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(is_label)
        && last.bytes().any(|octet| octet.is_ascii_alphabetic())
}
