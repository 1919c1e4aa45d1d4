//! Where mail for a domain goes, by the DNS: exchanges, their addresses and the TLS they demand.
//!
//! A [`Resolver`] is shard-local. It asks a [`NameServers`], which runs beside the shards (the
//! control thread's, `control::dns`), caches the answers until their time to live is over, and
//! makes of them an [`Exchange`]: the hosts to try, in order. Names are A-labels throughout
//! ([`Name`]).
//!
//! Limits: queries that wait ([`ResolverOptions::queue`]), cached answers
//! ([`ResolverOptions::entries`]), hosts of a domain ([`HOSTS_MAX`]) and addresses of a host
//! ([`ADDRESSES_MAX`]).
//!
//! Called by the relay service; `server` makes one per shard.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod cache;
mod exchange;
mod lookups;
mod name;
mod question;
pub mod sts;
mod tls;
pub mod zone;

pub use exchange::{ADDRESSES_MAX, Exchange, HOSTS_MAX, MailHost, Own, Trouble};
pub use name::{Name, NotADomain, address_literal};
pub use question::{Failure, Found, Kind, Mx, NameServers, Question, Records, Reply};
pub use sts::StsPolicy;
pub use tls::{TlsDemand, TlsScope, TlsTrouble};

use std::{net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use self::lookups::Lookups;
use crate::runtime::executor::Executor;

/// The port to which mail for a domain is sent (RFC 5321 4.5.4.2).
pub const MAIL_PORT: u16 = 25;

/// Limits and choices of a shard's resolver; `config` fills them.
#[derive(Clone, Debug)]
pub struct ResolverOptions {
    /// Our own names and addresses, which mail must not be sent back to.
    pub own: Own,
    /// Whether hosts are reached by IPv6, too.
    pub ipv6: bool,
    /// Answers that a shard caches; as many again that say that there is no such record.
    pub entries: usize,
    /// Queries of a shard that may wait.
    pub queue: usize,
    /// How long a query may take in total, with all its tries.
    pub deadline: Duration,
    /// An answer is cached no longer than this, whatever its time to live.
    pub age_max: Duration,
    /// The same for an answer that says that there is no such record (RFC 2308 5).
    pub age_unknown_max: Duration,
    /// How long after its time to live an answer is used while no server answers (RFC 8767); zero =
    /// not at all.
    pub stale: Duration,
    /// Whether MTA-STS policies are looked for (RFC 8461).
    pub sts: bool,
}

impl Default for ResolverOptions {
    fn default() -> ResolverOptions {
        ResolverOptions {
            own: Own::default(),
            ipv6: true,
            entries: 10_000,
            queue: 1024,
            deadline: Duration::from_secs(30),
            age_max: Duration::from_secs(24 * 3600),
            age_unknown_max: Duration::from_secs(3600),
            stale: Duration::from_secs(24 * 3600),
            sts: true,
        }
    }
}

/// One shard's view of the DNS. See the module documentation.
pub struct Resolver {
    lookups: Lookups,
    executor: Rc<dyn Executor>,
    options: ResolverOptions,
}

impl Resolver {
    pub fn new(
        servers: Arc<dyn NameServers>,
        executor: Rc<dyn Executor>,
        options: ResolverOptions,
    ) -> Resolver {
        let lookups = Lookups::new(servers, executor.clone(), &options);
        Resolver { lookups, executor, options }
    }

    /// The hosts that take mail for `domain`, in the order in which to try them; those of equal
    /// preference in random order (RFC 5321 5.1). `domain` may be an address literal.
    ///
    /// # Errors
    /// [`Trouble`]: permanent if the DNS says that mail cannot be delivered, else temporary.
    pub async fn exchange(&self, domain: &str) -> Result<Rc<Exchange>, Trouble> {
        exchange::find(self, domain).await.map(Rc::new)
    }

    /// The addresses of a host that configuration names as next hop: a name or an address, in
    /// brackets or not. MX records are not asked for.
    ///
    /// # Errors
    /// As [`Resolver::exchange`].
    pub async fn host(&self, host: &str) -> Result<MailHost, Trouble> {
        if let Some(address) = address_literal(host).or_else(|| host.parse().ok()) {
            return Ok(MailHost::literal(host, address));
        }
        let name = Name::parse(host).map_err(|_| Trouble::BadDomain)?;
        exchange::addresses(self, &name, 0).await
    }

    /// The records of one name, of the cache or of the servers.
    pub async fn ask(&self, name: &Name, kind: Kind) -> Rc<Reply> {
        self.lookups.find(Question { name: name.clone(), kind }).await
    }

    /// Queries that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.lookups.waiting()
    }

    /// Puts `addresses` in random order.
    fn shuffle<T>(&self, addresses: &mut [T]) {
        exchange::shuffle(addresses, &mut || self.executor.random());
    }

    fn wants(&self, address: IpAddr) -> bool {
        self.options.ipv6 || address.is_ipv4()
    }
}
