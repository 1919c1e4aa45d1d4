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

/// Why mail may not go to a host now. All are temporary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsTrouble {
    /// The demand is not known now, and somebody may be hiding it (RFC 7672 2.1).
    #[error("{question}: {failure}")]
    Unknown { question: String, failure: Failure },
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
                    let question = question.to_string();
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
            Reply::Failed(failure) => {
                let question = question.to_string();
                Err(TlsTrouble::Unknown { question, failure: *failure })
            }
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
            Reply::Failed(failure) => {
                let question = question.to_string();
                Err(TlsTrouble::Unknown { question, failure: *failure })
            }
        }
    }
}

#[cfg(test)]
mod tests;
