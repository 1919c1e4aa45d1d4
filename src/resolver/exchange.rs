//! From MX and address records to the hosts to try (RFC 5321 5.1, RFC 7505).

use std::{fmt::Write as _, net::IpAddr, rc::Rc};

use super::{
    Failure, Found, Kind, Name, Question, Records, Reply, Resolver, address_literal, question::Mx,
};
use crate::runtime::answer::Answer;

/// Hosts of one domain that are looked at, the best first. RFC 5321 4.5.4.1 asks for two at least.
pub const HOSTS_MAX: usize = 32;

/// Addresses of one host that are looked at, of each family.
pub const ADDRESSES_MAX: usize = 16;

/// Octets of a site's name; a longer one is cut, with a hash of the whole.
const SITE_MAX: usize = 255;

/// Where mail for a domain goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// In the order in which to try them; at least one, each with an address.
    pub hosts: Vec<MailHost>,
    /// Names the set of hosts, whichever domain they serve: the MX hosts sorted, joined by commas.
    /// At most 255 octets.
    pub site: String,
    /// The MX records were authenticated by DNSSEC, or there are none and none of the names
    /// involved is claimed to be authentic.
    pub authentic: bool,
    /// The name that the MX records are of, or the domain itself if there are none.
    pub domain: Option<Name>,
    /// There is no MX record: the domain is its own host.
    pub implicit: bool,
}

/// A host that takes mail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MailHost {
    /// As the MX record, or configuration, has it: a name or an address literal.
    pub name: String,
    /// Of the MX record; lower is better.
    pub preference: u16,
    /// IPv6 before IPv4, each in random order; at least one.
    pub addresses: Vec<IpAddr>,
    /// The addresses, and the aliases on the way to them, were authenticated by DNSSEC.
    pub authentic: bool,
    /// The name that has the addresses, if `name` is an alias of it (CNAME).
    pub canonical: Option<Name>,
}

impl MailHost {
    pub(super) fn literal(name: &str, address: IpAddr) -> MailHost {
        let name = name.to_owned();
        MailHost {
            name,
            preference: 0,
            addresses: vec![address],
            authentic: false,
            canonical: None,
        }
    }
}

/// Our own names and addresses (RFC 5321 5.1).
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Own {
    pub names: Vec<Name>,
    /// Addresses on which we take mail at the port that mail is sent to.
    pub addresses: Vec<IpAddr>,
}

impl Own {
    fn has_name(&self, name: &Name) -> bool {
        self.names.contains(name)
    }

    fn has_address(&self, host: &MailHost) -> bool {
        host.addresses.iter().any(|address| self.addresses.contains(address))
    }
}

/// Why a domain has no exchange now, or never.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("this is not a domain name")]
    BadDomain,
    #[error("the domain does not exist")]
    NoSuchDomain,
    /// RFC 7505.
    #[error("the domain does not accept mail (null MX)")]
    NullMx,
    /// The best host is this server, which does not keep mail for the domain.
    #[error("mail for the domain loops back to this server")]
    Loop,
    #[error("no host that takes mail for the domain has an address")]
    NoAddress,
    #[error("{question}: {failure}")]
    Temporary {
        /// What could not be answered.
        question: Rc<str>,
        failure: Failure,
    },
}

impl Trouble {
    fn temporary(name: &Name, kind: Kind, failure: Failure) -> Trouble {
        let question = Question { name: name.clone(), kind }.to_string().into();
        Trouble::Temporary { question, failure }
    }

    pub fn is_permanent(&self) -> bool {
        !matches!(self, Trouble::Temporary { .. })
    }

    /// The enhanced status code (RFC 3463 3.2, 3.5; RFC 7505 4.2).
    pub fn status(&self) -> &'static str {
        match self {
            Trouble::BadDomain | Trouble::NoSuchDomain => "5.1.2",
            Trouble::NullMx => "5.1.10",
            Trouble::Loop => "5.4.6",
            Trouble::NoAddress => "5.4.4",
            Trouble::Temporary { .. } => "4.4.3",
        }
    }
}

/// A host to look up.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Candidate {
    preference: u16,
    name: Name,
}

/// The exchange of `domain`.
pub(super) async fn find(resolver: &Resolver, domain: &str) -> Result<Exchange, Trouble> {
    let own = &resolver.options.own;
    if domain.starts_with('[') {
        let address = address_literal(domain).ok_or(Trouble::BadDomain)?;
        let host = MailHost::literal(domain, address);
        if own.has_address(&host) {
            return Err(Trouble::Loop);
        }
        let site = domain.to_ascii_lowercase();
        let hosts = vec![host];
        return Ok(Exchange { hosts, site, authentic: false, domain: None, implicit: true });
    }
    let name = Name::parse(domain).map_err(|_| Trouble::BadDomain)?;
    let reply = resolver.ask(&name, Kind::Mx).await;
    let (candidates, of, authentic, implicit) = match &*reply {
        Reply::Found(Found { records: Records::Mx(records), name, authentic, .. }) => {
            (candidates(records, own)?, name.clone(), *authentic, false)
        }
        Reply::Nothing { exists: true, .. } | Reply::Found(_) => {
            if own.has_name(&name) {
                return Err(Trouble::Loop);
            }
            (vec![Candidate { preference: 0, name: name.clone() }], name, false, true)
        }
        Reply::Nothing { exists: false, .. } => return Err(Trouble::NoSuchDomain),
        Reply::Failed(failure) => return Err(Trouble::temporary(&name, Kind::Mx, *failure)),
    };
    let (found, trouble) = look_up(resolver, candidates).await;
    if found.is_empty() {
        return Err(trouble.unwrap_or(Trouble::NoAddress));
    }
    let mut hosts = without_us(found, own)?;
    arrange(&mut hosts, &mut || resolver.executor.random());
    let site = site(&hosts);
    Ok(Exchange { hosts, site, authentic, domain: Some(of), implicit })
}

/// The hosts of the MX records that are better than us, the best first.
///
/// # Errors
/// There are none, or the domain takes no mail.
fn candidates(records: &[Mx], own: &Own) -> Result<Vec<Candidate>, Trouble> {
    let mut hosts: Vec<Candidate> = records
        .iter()
        .filter_map(|mx| Some(Candidate { preference: mx.preference, name: mx.host.clone()? }))
        .collect();
    if hosts.is_empty() {
        // A root beside other records means nothing (RFC 7505 3).
        let null = records.iter().any(|mx| mx.is_root);
        return Err(if null { Trouble::NullMx } else { Trouble::NoAddress });
    }
    let ours = hosts.iter().filter(|host| own.has_name(&host.name));
    if let Some(limit) = ours.map(|host| host.preference).min() {
        hosts.retain(|host| host.preference < limit);
    }
    if hosts.is_empty() {
        return Err(Trouble::Loop);
    }
    hosts.sort_by(|one, other| (one.preference, &one.name).cmp(&(other.preference, &other.name)));
    // A host that is listed twice counts by its better record.
    let mut seen: Vec<Name> = Vec::new();
    hosts.retain(|host| {
        let is_new = !seen.contains(&host.name);
        if is_new && seen.len() < HOSTS_MAX {
            seen.push(host.name.clone());
            return true;
        }
        false
    });
    Ok(hosts)
}

/// The hosts with their addresses, and why one of the others has none: the reason to wait, if there
/// is one.
async fn look_up(
    resolver: &Resolver,
    candidates: Vec<Candidate>,
) -> (Vec<MailHost>, Option<Trouble>) {
    // All queries are under way before the first is awaited.
    let asked: Vec<_> = candidates
        .into_iter()
        .map(|candidate| (Addresses::ask(resolver, &candidate.name), candidate))
        .collect();
    let mut hosts = Vec::new();
    let mut trouble: Option<Trouble> = None;
    for (addresses, candidate) in asked {
        match addresses.answer(resolver, candidate.preference).await {
            Ok(host) => hosts.push(host),
            Err(new) => {
                if trouble.as_ref().is_none_or(Trouble::is_permanent) {
                    trouble = Some(new);
                }
            }
        }
    }
    // That one of several hosts does not exist says nothing about the domain.
    (hosts, trouble.filter(|it| !it.is_permanent()))
}

/// The addresses of `name`, as a host of the preference given.
pub(super) async fn addresses(
    resolver: &Resolver,
    name: &Name,
    preference: u16,
) -> Result<MailHost, Trouble> {
    Addresses::ask(resolver, name).answer(resolver, preference).await
}

/// The address queries of one host.
struct Addresses {
    name: Name,
    /// With the kind of the query. None if the name spells an address.
    asked: Vec<(Kind, Answer<'static, Rc<Reply>>)>,
}

impl Addresses {
    fn ask(resolver: &Resolver, name: &Name) -> Addresses {
        let kinds: &[Kind] = match (name.as_address(), resolver.options.ipv6) {
            (Some(_), _) => &[],
            (None, true) => &[Kind::Aaaa, Kind::A],
            (None, false) => &[Kind::A],
        };
        let ask = |kind: &Kind| {
            let question = Question { name: name.clone(), kind: *kind };
            (*kind, resolver.lookups.find(question))
        };
        Addresses { name: name.clone(), asked: kinds.iter().map(ask).collect() }
    }

    async fn answer(self, resolver: &Resolver, preference: u16) -> Result<MailHost, Trouble> {
        let Addresses { name, asked } = self;
        if let Some(address) = name.as_address() {
            let literal = MailHost::literal(name.as_str(), address);
            return Ok(MailHost { preference, ..literal });
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        let (mut authentic, mut canonical, mut exists) = (true, None, false);
        let mut failed = None;
        for (kind, reply) in asked {
            match &*reply.await {
                Reply::Found(Found { records: Records::Addresses(records), name: of, .. })
                    if records.is_empty() =>
                {
                    canonical = Some(of.clone());
                }
                Reply::Found(found) => {
                    let Records::Addresses(records) = &found.records else { continue };
                    let wanted = records.iter().filter(|it| resolver.wants(**it));
                    let mut family: Vec<IpAddr> = wanted.copied().collect();
                    resolver.shuffle(&mut family);
                    family.truncate(ADDRESSES_MAX);
                    addresses.extend(family);
                    authentic &= found.authentic;
                    canonical = Some(found.name.clone());
                }
                Reply::Nothing { exists: this, .. } => exists |= this,
                Reply::Failed(failure) => {
                    failed.get_or_insert_with(|| Trouble::temporary(&name, kind, *failure));
                }
            }
        }
        if addresses.is_empty() {
            let permanent = if exists { Trouble::NoAddress } else { Trouble::NoSuchDomain };
            return Err(failed.unwrap_or(permanent));
        }
        let canonical = canonical.filter(|of| *of != name);
        Ok(MailHost { name: name.to_string(), preference, addresses, authentic, canonical })
    }
}

/// Drops what is no better than we are, by our addresses (RFC 5321 5.1).
fn without_us(mut hosts: Vec<MailHost>, own: &Own) -> Result<Vec<MailHost>, Trouble> {
    let ours = hosts.iter().filter(|host| own.has_address(host));
    if let Some(limit) = ours.map(|host| host.preference).min() {
        hosts.retain(|host| host.preference < limit);
    }
    if hosts.is_empty() { Err(Trouble::Loop) } else { Ok(hosts) }
}

/// By preference; equal ones in random order, to spread the load (RFC 5321 5.1).
fn arrange(hosts: &mut [MailHost], random: &mut dyn FnMut() -> u64) {
    shuffle(hosts, random);
    hosts.sort_by_key(|host| host.preference);
}

pub(super) fn shuffle<T>(items: &mut [T], random: &mut dyn FnMut() -> u64) {
    for last in (1..items.len()).rev() {
        let chosen = random() % (last as u64 + 1);
        items.swap(last, usize::try_from(chosen).unwrap_or(last));
    }
}

fn site(hosts: &[MailHost]) -> String {
    let mut names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    names.sort_unstable();
    let mut site = names.join(",");
    if site.len() > SITE_MAX {
        // FNV-1a: the same in every process, unlike the hash of a map.
        let hash = site.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        });
        // Names are ASCII.
        site.truncate(SITE_MAX - 17);
        let _ = write!(site, "#{hash:016x}");
    }
    site
}

#[cfg(test)]
mod tests;
