//! Which TLS a host must offer before mail for a domain may go to it: DANE before MTA-STS before
//! nothing (RFC 7672, RFC 8461 2).
//!
//! Asked for each host just before it is connected to, so that TLSA records are looked up only of
//! hosts that are tried. A failure here is the host's: the next one may be all right.

use std::sync::Arc;

use super::{
    Exchange, Failure, Found, Kind, MailHost, Name, Question, Records, Reply, Resolver,
    sts::{self, StsPolicy},
};
use crate::model::Tlsa;

/// What the connection to one host must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsDemand {
    /// Nothing: TLS if it is offered, with any certificate (RFC 7435).
    Opportunistic,
    /// TLS, and a certificate that matches a record, or, for the records of an authority, one of
    /// the names (RFC 7672 3). If no record is usable: TLS with any certificate (RFC 7672 2.2).
    Dane {
        records: Arc<[Tlsa]>,
        /// The first is for SNI (RFC 7672 8.1).
        names: Vec<String>,
    },
    /// TLS, and a certificate for the host from a public authority (RFC 8461 4.2).
    Sts {
        name: String,
        policy: Arc<StsPolicy>,
        /// The policy is only being tried out: if it fails, the mail goes through all the same, and
        /// the failure is reported (RFC 8461 5).
        testing: bool,
    },
}

/// Which domains with the same hosts may share connections: what a connection was made for must be
/// enough for each message on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsScope {
    /// The hosts need have nothing.
    Open,
    /// Authentic MX records lead to hosts with TLSA records. The same hosts may serve domains whose
    /// MX records are not, and which are served without DANE (RFC 7672 2.2.1).
    Dane,
    /// The domain has an MTA-STS policy of its own, or a certificate for its name would be enough
    /// (RFC 7672 3.2.2).
    Alone,
}

/// Certificate usage DANE-TA (RFC 7218 2.1), for which names count.
const DANE_TA: u8 = 2;

/// Why mail may not go to a host now. All are temporary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsTrouble {
    /// The demand is not known now, and somebody may be hiding it (RFC 7672 2.1).
    #[error("{question}: {failure}")]
    Unknown { question: Question, failure: Failure },
    #[error("the domain's MTA-STS policy does not list this host")]
    NotListed { policy: Arc<StsPolicy> },
}

impl TlsTrouble {
    /// The enhanced status code (RFC 3463 3.5, 3.8).
    pub fn status(&self) -> &'static str {
        match self {
            TlsTrouble::Unknown { .. } => "4.4.3",
            TlsTrouble::NotListed { .. } => "4.7.5",
        }
    }
}

impl Resolver {
    /// What a connection to `host` of `exchange` must have, for mail to `domain`; `port` is the one
    /// to connect to.
    ///
    /// # Errors
    /// Mail must not go to this host now.
    pub async fn tls_of_exchange(
        &self,
        domain: &str,
        exchange: &Exchange,
        host: &MailHost,
        port: u16,
    ) -> Result<TlsDemand, TlsTrouble> {
        let Ok(domain) = Name::parse(domain) else { return Ok(TlsDemand::Opportunistic) };
        // An MX record that anybody can forge leads to any host (RFC 7672 2.2.1). Without MX
        // records the domain is the host.
        if exchange.authentic || exchange.implicit {
            let mut names = vec![domain.to_string()];
            names.extend(exchange.domain.iter().map(Name::to_string));
            if let Some(demand) = self.dane(host, port, names).await? {
                return Ok(demand);
            }
        }
        let Some(policy) = self.sts(&domain).await? else { return Ok(TlsDemand::Opportunistic) };
        let testing = match policy.mode {
            sts::Mode::Enforce => false,
            sts::Mode::Testing => true,
            sts::Mode::None => return Ok(TlsDemand::Opportunistic),
        };
        let listed = Name::parse(&host.name).is_ok_and(|name| policy.lists(&name));
        if !listed && !testing {
            return Err(TlsTrouble::NotListed { policy });
        }
        Ok(TlsDemand::Sts { name: host.name.clone(), policy, testing })
    }

    /// With which other domains `domain` may share connections to the hosts of `exchange`. What
    /// cannot be found out now may be a demand.
    pub async fn tls_scope(&self, domain: &str, exchange: &Exchange, port: u16) -> TlsScope {
        let Ok(domain) = Name::parse(domain) else { return TlsScope::Open };
        let (mut any_with, mut any_without) = (false, !exchange.authentic && !exchange.implicit);
        if !any_without {
            // Asked all at once, and then waited for.
            exchange.hosts.iter().for_each(|host| self.begin_dane(host, port));
            for host in &exchange.hosts {
                match self.dane(host, port, Vec::new()).await {
                    Ok(Some(TlsDemand::Dane { records, .. })) => {
                        if records.iter().any(|record| record.usage == DANE_TA) {
                            return TlsScope::Alone;
                        }
                        any_with = true;
                    }
                    Ok(_) => any_without = true,
                    Err(_) => any_with = true,
                }
            }
        }
        let has_policy = any_without
            && match self.sts(&domain).await {
                Ok(policy) => policy.is_some_and(|policy| policy.mode != sts::Mode::None),
                Err(_) => true,
            };
        match (has_policy, any_with) {
            (true, _) => TlsScope::Alone,
            (false, true) => TlsScope::Dane,
            (false, false) => TlsScope::Open,
        }
    }

    /// Sends the question that [`Resolver::dane`] begins with.
    fn begin_dane(&self, host: &MailHost, port: u16) {
        let name = Name::parse(&host.name).ok().filter(|_| host.authentic);
        if let Some(base) = name.as_ref().map(|name| host.canonical.as_ref().unwrap_or(name))
            && let Ok(name) = base.below(&format!("_{port}._tcp"))
        {
            drop(self.lookups.find(Question { name, kind: Kind::Tlsa }));
        }
    }

    /// The same for a host that configuration names as next hop.
    ///
    /// # Errors
    /// Mail must not go to this host now.
    pub async fn tls_of_host(&self, host: &MailHost, port: u16) -> Result<TlsDemand, TlsTrouble> {
        let demand = self.dane(host, port, Vec::new()).await?;
        Ok(demand.unwrap_or(TlsDemand::Opportunistic))
    }

    /// `names`: the domain's, which a certificate of DANE-TA may also be for (RFC 7672 3.2.2).
    async fn dane(
        &self,
        host: &MailHost,
        port: u16,
        names: Vec<String>,
    ) -> Result<Option<TlsDemand>, TlsTrouble> {
        let Ok(name) = Name::parse(&host.name) else { return Ok(None) };
        // First where the aliases lead, then the name itself (RFC 7672 2.2.2). Of a zone without
        // signatures no TLSA record is asked for: some servers there do not answer such questions
        // (RFC 7672 2.1.3).
        let canonical = host.canonical.as_ref().filter(|_| host.authentic);
        if !host.authentic && !self.is_authentic_alias(host, &name).await? {
            return Ok(None);
        }
        for base in canonical.into_iter().chain([&name]) {
            let Ok(owner) = base.below(&format!("_{port}._tcp")) else { continue };
            let question = Question { name: owner, kind: Kind::Tlsa };
            match &*self.lookups.find(question.clone()).await {
                Reply::Found(Found {
                    records: Records::Tlsa(records), authentic: true, ..
                }) => {
                    let mut all = vec![base.to_string()];
                    for other in [name.to_string()].into_iter().chain(names.iter().cloned()) {
                        if !all.contains(&other) {
                            all.push(other);
                        }
                    }
                    let records = records.as_slice().into();
                    return Ok(Some(TlsDemand::Dane { records, names: all }));
                }
                Reply::Found(_) | Reply::Nothing { .. } => {}
                Reply::Failed(failure) => {
                    return Err(TlsTrouble::Unknown { question, failure: *failure });
                }
            }
        }
        Ok(None)
    }

    /// Whether the name of a host is an alias in a signed zone, though it leads out of it: its own
    /// TLSA records count, those of the zone where it leads do not (RFC 7672 2.2.2).
    async fn is_authentic_alias(&self, host: &MailHost, name: &Name) -> Result<bool, TlsTrouble> {
        if host.canonical.is_none() {
            return Ok(false);
        }
        let question = Question { name: name.clone(), kind: Kind::Cname };
        match &*self.lookups.find(question.clone()).await {
            Reply::Found(found) => Ok(found.authentic),
            Reply::Nothing { .. } => Ok(false),
            Reply::Failed(failure) => Err(TlsTrouble::Unknown { question, failure: *failure }),
        }
    }

    /// The MTA-STS policy in force for `domain`, fetched or kept from before. One that cannot be
    /// fetched for the first time is none (RFC 8461 3.3); whoever answers has decided that.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn sts(&self, domain: &Name) -> Result<Option<Arc<StsPolicy>>, TlsTrouble> {
        if !self.options.sts {
            return Ok(None);
        }
        let question = Question { name: domain.clone(), kind: Kind::Sts };
        match &*self.lookups.find(question.clone()).await {
            Reply::Found(Found { records: Records::Sts(policy), .. }) => Ok(Some(policy.clone())),
            Reply::Found(_) | Reply::Nothing { .. } => Ok(None),
            Reply::Failed(failure) => Err(TlsTrouble::Unknown { question, failure: *failure }),
        }
    }
}

#[cfg(test)]
mod tests;
