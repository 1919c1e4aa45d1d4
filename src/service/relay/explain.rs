//! Where mail for a domain goes and why, for operators: the route, the hosts with their addresses,
//! and the TLS that each must have. Found in the same way as for mail, but without connecting.

use std::net::IpAddr;

use super::carrier::{Kind, Relay};
use crate::{
    directory::{NextHop, ROUTE_REJECTED, TlsPolicy},
    queue::{HERE, Problem, Unreachable, Way, domain_of_destination},
    runtime::tls_client::Verification,
    service::Shard,
};

/// The way of the mail for one destination.
#[derive(Clone, Debug)]
pub struct WayFacts {
    /// The domain, or empty: here.
    pub destination: String,
    /// What decides the way: a route of the configuration, or DNS.
    pub route: String,
    /// Its site, if it was found.
    pub site: Option<String>,
    /// In the order in which they are tried.
    pub hosts: Vec<HostFacts>,
    /// Why it cannot be reached, and whether its mail is returned.
    pub problem: Option<(Problem, bool)>,
    /// Nobody may send there: only mail that is in the queue already is concerned.
    pub refused: bool,
}

/// A host that takes the mail.
#[derive(Clone, Debug)]
pub struct HostFacts {
    pub name: String,
    pub preference: u16,
    pub port: u16,
    pub addresses: Vec<IpAddr>,
    /// Their DNS records were validated (DNSSEC).
    pub authentic: bool,
    /// What a connection must have, or why there cannot be one.
    pub tls: String,
}

fn tls_name(tls: TlsPolicy) -> &'static str {
    match tls {
        TlsPolicy::Never => "never TLS",
        TlsPolicy::Opportunistic => "TLS if the host offers it, with any certificate",
        TlsPolicy::Required => "TLS required, with any certificate",
        TlsPolicy::Verified => "TLS required, with a verified certificate",
    }
}

fn route(shard: &Shard, destination: &str) -> String {
    if destination == HERE {
        return "delivered here".to_owned();
    }
    match shard.directory.next_hop(destination) {
        NextHop::Local => "the domain is ours: delivered here".to_owned(),
        NextHop::Discard => "a route: thrown away".to_owned(),
        NextHop::Reject(text) => format!("a route: refused, 550 {ROUTE_REJECTED} {text}"),
        NextHop::Mx(_) if !shard.options.relay.has_dns => "none".to_owned(),
        NextHop::Mx(tls) => format!("the hosts that DNS names; {}", tls_name(tls)),
        NextHop::Host(fixed) => format!(
            "a route: {} to {}{}{}; {}",
            if fixed.lmtp { "LMTP" } else { "relay" },
            fixed.place(),
            if fixed.mx { " (its MX hosts)" } else { "" },
            if fixed.credentials.is_some() { ", with a log-in" } else { "" },
            if fixed.implicit_tls { "TLS from the first octet" } else { tls_name(fixed.tls) }
        ),
    }
}

impl Relay {
    /// What is decided about mail for `destination`, as the queue names it.
    pub async fn explain(&self, shard: &Shard, destination: &str) -> WayFacts {
        let domain = domain_of_destination(destination);
        let mut facts = WayFacts {
            destination: domain.to_owned(),
            route: route(shard, domain),
            site: None,
            hosts: Vec::new(),
            problem: None,
            refused: destination != HERE
                && match shard.directory.next_hop(domain) {
                    NextHop::Reject(_) => true,
                    NextHop::Mx(_) => !shard.options.relay.has_dns,
                    NextHop::Local | NextHop::Discard | NextHop::Host(_) => false,
                },
        };
        let way = match self.find_way(destination).await {
            Ok(way) => way,
            Err(Unreachable::Now(problem)) => {
                return WayFacts { problem: Some((problem, false)), ..facts };
            }
            Err(Unreachable::Ever(problem)) => {
                return WayFacts { problem: Some((problem, true)), ..facts };
            }
        };
        facts.site = Some(way.site().to_owned());
        let Kind::Hosts(hosts) = way.kind() else { return facts };
        for host in &hosts.hosts {
            let tls = match self.demand(shard, hosts, host).await {
                Ok(demand) => {
                    let how = match &demand.verification {
                        Verification::None => tls_name(demand.tls).to_owned(),
                        Verification::Names(names) => {
                            format!("TLS required, with a certificate for {}", names.join(" or "))
                        }
                        Verification::Dane { tlsa, .. } => {
                            format!("TLS required, by DANE ({} TLSA records)", tlsa.len())
                        }
                    };
                    let try_out = demand.may_do_without && demand.tls == TlsPolicy::Verified;
                    if try_out { format!("{how}; without it, too (testing)") } else { how }
                }
                Err(trouble) => format!("none possible: {} {trouble}", trouble.status()),
            };
            facts.hosts.push(HostFacts {
                name: host.name.clone(),
                preference: host.preference,
                port: hosts.port,
                addresses: host.addresses.clone(),
                authentic: host.authentic,
                tls,
            });
        }
        facts
    }
}
