//! The queue's way to the world: where mail for a destination goes, and a connection to one of its
//! hosts.
//!
//! Routes of the configuration come first, then DNS. Hosts are tried in their order, all addresses
//! of each; a host that refuses us at its greeting is skipped like one that is down
//! (RFC 5321 5.1). What TLS needs follows from the route's
//! policy, or from DANE and MTA-STS.
//!
//! Ownership: one per shard; it holds the shard weakly, which holds the queue.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    client::{Client, Failed, Target, TlsUse, Watcher},
    etrn::Starts,
    local::{LocalSession, NowhereSession},
    miscounts::Miscounts,
    remote::RemoteSession,
    report,
    tls_report::{Successes, Under},
    watch::Watch,
};
use crate::{
    directory::{NextHop, ROUTE_REJECTED, RelayHost, TlsPolicy},
    events::Event,
    model::Timestamp,
    protocol::{
        sasl::Credentials,
        smtp::client::{Reply, Stage},
        tls_report::Failure,
    },
    queue::{
        ANY_TLS, Carrier, Ends, HERE, Job, Outcome, Problem, Queue, QueueEvent, Report, Session,
        SiteSlots, Step, Times, Unreachable, Way, domain_of_destination,
    },
    resolver::{Exchange, MailHost, Name, TlsDemand, TlsScope, TlsTrouble, Trouble},
    runtime::{LocalFuture, connect::Dialer, tls_client::Verification},
    service::Shard,
    store::StoreError,
};

/// Hosts' addresses that are tried for one connection.
const ADDRESSES_TRIED_MAX: usize = 8;

/// The way to mailboxes of this server, and to nowhere, in listings.
const SITE_HERE: &str = "local";
const SITE_NOWHERE: &str = "discard";

/// The carrier of a shard's queue.
pub struct Relay {
    shard: Weak<Shard>,
    dialer: Rc<dyn Dialer>,
    /// The next address of ours to connect from.
    next_source: Cell<usize>,
    /// Connections begun so far.
    sessions: Cell<u64>,
    miscounts: Rc<Miscounts>,
    /// What was tried at a client's request.
    pub(super) starts: Starts,
}

/// Where mail for a destination goes. Cheap to clone.
#[derive(Clone)]
pub struct RelayWay(Rc<Found>);

struct Found {
    site: String,
    kind: Kind,
}

pub(super) enum Kind {
    Here,
    Nowhere,
    Hosts(Hosts),
}

pub(super) struct Hosts {
    pub hosts: Vec<MailHost>,
    pub port: u16,
    tls: TlsPolicy,
    /// The TLS that DNS demands is not required (RFC 8689 4.2.2).
    any_tls: bool,
    /// The domain and its exchange, if DNS named the hosts.
    exchange: Option<(String, Rc<Exchange>)>,
    /// The fixed next hop, if it is one.
    fixed: Option<Arc<RelayHost>>,
}

impl Hosts {
    fn of_exchange(
        exchange: (String, Rc<Exchange>),
        port: u16,
        tls: TlsPolicy,
        any_tls: bool,
        fixed: Option<Arc<RelayHost>>,
    ) -> Hosts {
        let hosts = exchange.1.hosts.clone();
        Hosts { hosts, port, tls, any_tls, exchange: Some(exchange), fixed }
    }

    /// The domain under whose policies the sessions are counted; `None` if they are not counted, or
    /// if a policy of our own applies.
    fn counted(&self, shard: &Shard) -> Option<Name> {
        let ours = self.fixed.as_ref().is_some_and(|fixed| fixed.lmtp || fixed.implicit_tls);
        let by_dns = self.tls == TlsPolicy::Opportunistic && !self.any_tls && !ours;
        let (domain, _) = self.exchange.as_ref().filter(|_| by_dns && shard.tls_counts.is_on())?;
        Name::parse(domain).ok()
    }
}

/// What a connection to one host must have.
pub(super) struct Demand {
    /// The policies under which its sessions are counted; none for a policy of our own.
    under: Option<Under>,
    pub tls: TlsPolicy,
    pub verification: Verification,
    /// The name that is looked up.
    sni: String,
    /// If TLS fails, the mail may go without it.
    pub may_do_without: bool,
}

impl RelayWay {
    pub(super) fn kind(&self) -> &Kind {
        &self.0.kind
    }
}

impl Way for RelayWay {
    fn site(&self) -> &str {
        &self.0.site
    }

    fn hosts(&self) -> SmallVec<[&str; 4]> {
        match &self.0.kind {
            Kind::Hosts(hosts) => hosts.hosts.iter().map(|host| host.name.as_str()).collect(),
            Kind::Here | Kind::Nowhere => SmallVec::new(),
        }
    }
}

/// The host of a socket: reports name it, not the path.
fn this_host(shard: &Shard) -> MailHost {
    MailHost {
        name: shard.options.hostname.clone(),
        preference: 0,
        addresses: Vec::new(),
        authentic: true,
        canonical: None,
    }
}

/// The name of the site of a fixed next hop: routes to the same host that use it in different ways
/// share no connections. The name leaves out what is the default.
fn fixed_site(name: &str, fixed: &RelayHost) -> String {
    let RelayHost { port, lmtp, tls, implicit_tls, ref credentials, .. } = *fixed;
    let is_socket = fixed.socket().is_some();
    let mut site = if is_socket { name.to_owned() } else { format!("{name}:{port}") };
    let usual = match credentials {
        Some(_) => TlsPolicy::Verified,
        None => TlsPolicy::Opportunistic,
    };
    // A socket is used for LMTP without TLS only.
    if lmtp && !is_socket {
        site.push_str(" (LMTP)");
    }
    if implicit_tls {
        site.push_str(" (implicit TLS)");
    }
    if tls != usual && !is_socket {
        site.push_str(&format!(" (TLS {})", tls.word()));
    }
    if let Some(credentials) = credentials {
        site.push_str(&format!(" ({})", credentials.user));
    }
    site
}

/// Makes the shard's queue and starts it. `slots` is shared by all shards.
pub fn start(shard: &Rc<Shard>, dialer: Rc<dyn Dialer>, slots: &Arc<SiteSlots>) {
    let relay = Relay::new(Rc::downgrade(shard), dialer);
    let queue = Queue::new(
        shard.executor.clone(),
        relay,
        shard.options.relay.queue.clone(),
        shard.partitions.clone(),
        slots.seat(shard.id),
    );
    // A second call changes nothing.
    if shard.relay.set(queue).is_ok() {
        shard.relay().start();
    }
}

impl Relay {
    pub(crate) fn new(shard: Weak<Shard>, dialer: Rc<dyn Dialer>) -> Relay {
        Relay {
            shard,
            dialer,
            next_source: Cell::new(0),
            sessions: Cell::new(0),
            miscounts: Rc::default(),
            starts: Starts::default(),
        }
    }

    fn now(&self) -> Timestamp {
        self.shard.upgrade().map_or(Timestamp::default(), |shard| shard.executor.now())
    }

    fn problem(&self, status: &str, reason: String) -> Problem {
        Problem { at: self.now(), status: status.to_owned(), reason, ..Problem::default() }
    }

    fn later(&self, status: &str, reason: String) -> Unreachable {
        Unreachable::Now(self.problem(status, reason))
    }

    fn trouble(&self, trouble: &Trouble) -> Unreachable {
        let problem = self.problem(trouble.status(), trouble.to_string());
        match trouble.is_permanent() {
            true => Unreachable::Ever(problem),
            false => Unreachable::Now(problem),
        }
    }

    pub(super) async fn find_way(&self, destination: &str) -> Result<RelayWay, Unreachable> {
        let way = |site: String, kind| Ok(RelayWay(Rc::new(Found { site, kind })));
        if destination == HERE {
            return way(SITE_HERE.to_owned(), Kind::Here);
        }
        let Some(shard) = self.shard.upgrade() else {
            return Err(self.later("4.3.2", "the server is stopping".to_owned()));
        };
        let domain = domain_of_destination(destination);
        let any_tls = destination.len() > domain.len();
        match shard.directory.next_hop(domain) {
            NextHop::Local => way(SITE_HERE.to_owned(), Kind::Here),
            NextHop::Discard => way(SITE_NOWHERE.to_owned(), Kind::Nowhere),
            NextHop::Reject(text) => {
                Err(Unreachable::Ever(self.problem(ROUTE_REJECTED, text.to_string())))
            }
            NextHop::Mx(tls) => {
                let port = shard.options.relay.port;
                let (exchange, site) = self.exchange(&shard, domain, tls, port, any_tls).await?;
                way(site, Kind::Hosts(Hosts::of_exchange(exchange, port, tls, any_tls, None)))
            }
            NextHop::Host(fixed) => {
                let (port, tls) = (fixed.port, fixed.tls);
                if fixed.mx {
                    let (exchange, name) =
                        self.exchange(&shard, &fixed.host, tls, port, any_tls).await?;
                    let site = fixed_site(&name, &fixed);
                    let hosts = Hosts::of_exchange(exchange, port, tls, any_tls, Some(fixed));
                    return way(site, Kind::Hosts(hosts));
                }
                let hosts = match fixed.socket() {
                    Some(_) => vec![this_host(&shard)],
                    None => vec![self.host(&shard, &fixed.host).await?],
                };
                let mut site = fixed_site(&fixed.host, &fixed);
                if any_tls && tls == TlsPolicy::Opportunistic {
                    site.push_str(ANY_TLS);
                }
                let fixed = Some(fixed);
                way(site, Kind::Hosts(Hosts { hosts, port, tls, any_tls, exchange: None, fixed }))
            }
        }
    }

    /// Whether names can be looked up.
    fn check_dns(&self, shard: &Shard) -> Result<(), Unreachable> {
        let reason = "this server asks no DNS servers and no route leads there: set dns.servers, or a \
                      route to a host (--smarthost of a demo)";
        match shard.options.relay.has_dns {
            true => Ok(()),
            false => Err(self.later("4.4.3", reason.to_owned())),
        }
    }

    /// The exchange of a domain, and the name of its site. Domains with the same hosts are one site
    /// only if their connections must meet the same demands, because they share them.
    async fn exchange(
        &self,
        shard: &Shard,
        domain: &str,
        tls: TlsPolicy,
        port: u16,
        any_tls: bool,
    ) -> Result<((String, Rc<Exchange>), String), Unreachable> {
        if domain.is_empty() {
            let problem = self.problem("5.1.3", "the address has no domain".to_owned());
            return Err(Unreachable::Ever(problem));
        }
        self.check_dns(shard)?;
        let found = shard.resolver.exchange(domain).await;
        let exchange = found.map_err(|trouble| self.trouble(&trouble))?;
        let site = &exchange.site;
        let site = match tls {
            TlsPolicy::Opportunistic if any_tls => format!("{site}{ANY_TLS}"),
            TlsPolicy::Opportunistic => {
                match shard.resolver.tls_scope(domain, &exchange, port).await {
                    TlsScope::Open => site.clone(),
                    TlsScope::Dane => format!("{site} (DANE)"),
                    TlsScope::Alone => format!("{site} ({domain})"),
                }
            }
            TlsPolicy::Never | TlsPolicy::Required | TlsPolicy::Verified => {
                format!("{site} (TLS {})", tls.word())
            }
        };
        Ok(((domain.to_owned(), exchange), site))
    }

    async fn host(&self, shard: &Shard, name: &str) -> Result<MailHost, Unreachable> {
        if name.parse::<IpAddr>().is_err() {
            self.check_dns(shard)?;
        }
        shard.resolver.host(name).await.map_err(|trouble| match self.trouble(&trouble) {
            // A fixed next hop that does not exist is our mistake, not the sender's.
            Unreachable::Ever(problem) => {
                let status = problem.status.replacen('5', "4", 1);
                Unreachable::Now(Problem { status, ..problem })
            }
            now => now,
        })
    }

    async fn connect(&self, hosts: &Hosts) -> Result<Box<dyn Session>, Unreachable> {
        let Some(shard) = self.shard.upgrade() else {
            return Err(self.later("4.3.2", "the server is stopping".to_owned()));
        };
        if let Some(path) = hosts.fixed.as_ref().and_then(|fixed| fixed.socket()) {
            return self.connect_path(shard, hosts, path).await;
        }
        let mut last = None;
        let addresses = hosts
            .hosts
            .iter()
            .flat_map(|host| host.addresses.iter().map(move |address| (host, *address)));
        let mut demanded: Option<(&str, Demand)> = None;
        for (host, address) in addresses.take(ADDRESSES_TRIED_MAX) {
            if demanded.as_ref().is_none_or(|(name, _)| *name != host.name) {
                demanded = match self.demand(&shard, hosts, host).await {
                    Ok(demand) => Some((&host.name, demand)),
                    Err(trouble) => {
                        if let Some(domain) = hosts.counted(&shard) {
                            let (under, result, reason) =
                                Under::of_trouble(&domain, host, &trouble);
                            let failure = Failure {
                                receiving_mx_hostname: Some(host.name.clone()),
                                failure_reason_code: Some(reason),
                                ..Failure::of(result)
                            };
                            under.count(&shard.tls_counts, self.now(), Some(failure));
                        }
                        let problem = self.problem(trouble.status(), trouble.to_string());
                        last = Some((host.name.clone(), problem));
                        continue;
                    }
                };
            }
            let Some((_, demand)) = &demanded else { continue };
            let target = self.target(&shard, hosts, address, demand);
            match self.dial(&shard, target, &host.name, demand).await {
                Ok((client, succeeded)) => {
                    let successes = succeeded
                        .then(|| demand.under.clone())
                        .flatten()
                        .map(|under| Successes::new(under, hosts.fixed.is_some()));
                    let name = host.name.clone();
                    let miscounts = self.miscounts.clone();
                    let session = RemoteSession::new(client, shard, name, successes, miscounts);
                    return Ok(Box::new(session));
                }
                Err(failed) => last = Some((host.name.clone(), self.failed(&failed))),
            }
        }
        let Some((host, mut problem)) = last else {
            return Err(self.later("4.4.4", "no host that takes its mail has an address".into()));
        };
        problem.host = Some(host);
        Err(Unreachable::Now(problem))
    }

    /// Connects to a socket of this host.
    async fn connect_path(
        &self,
        shard: Rc<Shard>,
        hosts: &Hosts,
        path: &Path,
    ) -> Result<Box<dyn Session>, Unreachable> {
        let name = shard.options.hostname.clone();
        let demand = Demand {
            under: None,
            tls: TlsPolicy::Never,
            verification: Verification::None,
            sni: path.display().to_string(),
            may_do_without: false,
        };
        let target = Target {
            path: Some(path.to_owned()),
            source: None,
            ..self.target(&shard, hosts, Ipv4Addr::UNSPECIFIED.into(), &demand)
        };
        match self.dial(&shard, target, &name, &demand).await {
            Ok((client, _)) => {
                let miscounts = self.miscounts.clone();
                Ok(Box::new(RemoteSession::new(client, shard, name, None, miscounts)))
            }
            Err(failed) => {
                Err(Unreachable::Now(Problem { host: Some(name), ..self.failed(&failed) }))
            }
        }
    }

    /// What the connection to a host must have: by the route, or else by DNS.
    pub(super) async fn demand(
        &self,
        shard: &Shard,
        hosts: &Hosts,
        host: &MailHost,
    ) -> Result<Demand, TlsTrouble> {
        let by_name = || Verification::Names(vec![host.name.clone()]);
        let fixed = |verification, tls| {
            let may_do_without = tls == TlsPolicy::Opportunistic;
            Demand { under: None, tls, verification, sni: host.name.clone(), may_do_without }
        };
        match hosts.tls {
            TlsPolicy::Verified => return Ok(fixed(by_name(), hosts.tls)),
            TlsPolicy::Never | TlsPolicy::Required => {
                return Ok(fixed(Verification::None, hosts.tls));
            }
            TlsPolicy::Opportunistic if hosts.any_tls => {
                return Ok(fixed(Verification::None, hosts.tls));
            }
            TlsPolicy::Opportunistic => {}
        }
        let demand = match &hosts.exchange {
            Some((domain, exchange)) => {
                shard.resolver.tls_of_exchange(domain, exchange, host, hosts.port).await?
            }
            None => shard.resolver.tls_of_host(host, hosts.port).await?,
        };
        let under = hosts.counted(shard).map(|domain| Under::of(&domain, host, &demand));
        Ok(match demand {
            TlsDemand::Opportunistic => {
                Demand { under, ..fixed(Verification::None, TlsPolicy::Opportunistic) }
            }
            TlsDemand::Dane { records, names } => Demand {
                under,
                sni: names.first().unwrap_or(&host.name).clone(),
                tls: TlsPolicy::Verified,
                verification: Verification::Dane { tlsa: records, names },
                may_do_without: false,
            },
            TlsDemand::Sts { name, testing, .. } => Demand {
                under,
                sni: name.clone(),
                tls: TlsPolicy::Verified,
                verification: Verification::Names(vec![name]),
                // RFC 8461 5: a policy that is being tried out refuses nothing.
                may_do_without: testing,
            },
        })
    }

    /// Connects; with less TLS, or none, if that is allowed and TLS fails. Also returns whether TLS
    /// is as demanded.
    async fn dial(
        &self,
        shard: &Shard,
        target: Target,
        host: &str,
        demand: &Demand,
    ) -> Result<(Client, bool), Failed> {
        let count = |failure: Option<Failure>| {
            let count = failure.is_some().then_some(demand.under.as_ref()).flatten();
            if let Some(under) = count {
                under.count(&shard.tls_counts, self.now(), failure);
            }
        };
        let options = &shard.options.relay.client;
        let connect = async |target: &Target| {
            let watcher = self.watch(target);
            let executor = &shard.executor;
            Client::connect_watched(executor, &*self.dialer, options, target, watcher).await
        };
        let is_about_tls = |failed: &Failed| matches!(failed.stage, Stage::Tls | Stage::StartTls);
        let failed = match connect(&target).await {
            Err(failed) if is_about_tls(&failed) => failed,
            Err(failed) => return Err(failed),
            Ok(client) => {
                let fault = demand.under.as_ref().and_then(|under| under.fault(host, &client));
                let succeeded = fault.is_none();
                count(fault);
                return Ok((client, succeeded));
            }
        };
        count(Under::failure(host, &failed));
        if !demand.may_do_without || target.credentials.is_some() {
            return Err(failed);
        }
        shard.metrics.count("relay_tls_fallbacks_total", 1);
        shard.tell(&Event::TlsFailed {
            host: &target.host,
            address: target.address.ip(),
            reason: &format!("{}: {}", failed.stage.name(), failed.what),
        });
        if target.tls != TlsUse::Opportunistic {
            let target = Target { tls: TlsUse::Opportunistic, ..target.clone() };
            match connect(&target).await {
                Err(failed) if is_about_tls(&failed) => {}
                settled => return settled.map(|client| (client, false)),
            }
        }
        connect(&Target { tls: TlsUse::Never, ..target }).await.map(|client| (client, false))
    }

    fn target(&self, shard: &Shard, hosts: &Hosts, address: IpAddr, demand: &Demand) -> Target {
        let options = &shard.options;
        let sources = &options.relay.sources;
        let fitting: SmallVec<[IpAddr; 4]> =
            sources.iter().copied().filter(|it| it.is_ipv4() == address.is_ipv4()).collect();
        let turn = self.next_source.get();
        self.next_source.set(turn.wrapping_add(1));
        let source = fitting.get(turn.checked_rem(fitting.len()).unwrap_or(0)).copied();
        let hello = match options.relay.hello.as_str() {
            "" => options.hostname.clone(),
            name => name.to_owned(),
        };
        let fixed = hosts.fixed.as_deref();
        let verification = demand.verification.clone();
        Target {
            address: SocketAddr::new(address, hosts.port),
            path: None,
            source,
            host: demand.sni.clone(),
            hello,
            lmtp: fixed.is_some_and(|fixed| fixed.lmtp),
            tls: match demand.tls {
                _ if fixed.is_some_and(|fixed| fixed.implicit_tls) => {
                    TlsUse::Implicit(verification)
                }
                TlsPolicy::Never => TlsUse::Never,
                TlsPolicy::Opportunistic => TlsUse::Opportunistic,
                TlsPolicy::Required | TlsPolicy::Verified => TlsUse::Required(verification),
            },
            credentials: fixed
                .and_then(|fixed| fixed.credentials.as_ref())
                .map(|it| Credentials { user: it.user.clone(), password: it.password.clone() }),
        }
    }

    /// Latencies of the session by stage, and its lines for those who trace it.
    fn watch(&self, target: &Target) -> Option<Rc<dyn Watcher>> {
        let number = self.sessions.get() + 1;
        self.sessions.set(number);
        let shard = self.shard.upgrade()?;
        let session = format!("{}-{number}", shard.id.0);
        Some(Rc::new(Watch::new(Rc::downgrade(&shard), session, target)))
    }

    fn failed(&self, failed: &Failed) -> Problem {
        let problem = match &failed.reply {
            Some(reply) => problem_of(reply, self.now()),
            None => {
                let what = format!("{}: {}", failed.stage.name(), failed.what);
                // RFC 3463 3.8: what is demanded is not offered; or it is, but not as demanded.
                let status = match (failed.stage, failed.tls) {
                    (Stage::StartTls, _) => "4.7.4",
                    (Stage::Tls, Some(_)) => "4.7.5",
                    _ => "4.4.1",
                };
                self.problem(status, what)
            }
        };
        Problem { times: times_of(&failed.times), ..problem }
    }
}

/// A reply as the reason of a problem.
pub(super) fn problem_of(reply: &Reply, now: Timestamp) -> Problem {
    Problem {
        at: now,
        status: status_of(reply),
        reason: format!("{} {}", reply.code, reply.text),
        host: None,
        is_reply: !reply.local,
        times: Times::default(),
    }
}

/// Stages of a session as steps of an attempt.
pub(super) fn times_of(stages: &[(Stage, Duration)]) -> Times {
    let mut times = Times::default();
    for (stage, took) in stages {
        let step = match stage {
            Stage::Connect => Step::Connect,
            Stage::Greeting => Step::Greeting,
            Stage::Hello => Step::Hello,
            Stage::StartTls => Step::StartTls,
            Stage::Tls => Step::Tls,
            Stage::Auth => Step::Auth,
            Stage::Mail => Step::Mail,
            Stage::Rcpt => Step::Rcpt,
            Stage::Data => Step::Data,
            Stage::Content => Step::Content,
            Stage::End => Step::End,
            Stage::Reset | Stage::Quit => continue,
        };
        times.add(step, *took);
    }
    times
}

/// The enhanced status of a reply, or what its code says (RFC 3463 2).
fn status_of(reply: &Reply) -> String {
    match &reply.enhanced {
        Some(code) if u16::from(code.class) == reply.code / 100 => {
            format!("{}.{}.{}", code.class, code.subject, code.detail)
        }
        _ => format!("{}.0.0", reply.code / 100),
    }
}

impl Carrier for Relay {
    type Way = RelayWay;

    fn find<'a>(&'a self, destination: &'a str) -> LocalFuture<'a, Result<RelayWay, Unreachable>> {
        Box::pin(self.find_way(destination))
    }

    fn open<'a>(
        &'a self,
        way: &'a RelayWay,
    ) -> LocalFuture<'a, Result<Box<dyn Session>, Unreachable>> {
        Box::pin(async move {
            match &way.0.kind {
                Kind::Hosts(hosts) => self.connect(hosts).await,
                Kind::Nowhere => Ok(Box::new(NowhereSession) as Box<dyn Session>),
                Kind::Here => match self.shard.upgrade() {
                    Some(shard) => Ok(Box::new(LocalSession::new(shard)) as Box<dyn Session>),
                    None => Err(self.later("4.3.2", "the server is stopping".to_owned())),
                },
            }
        })
    }

    fn report<'a>(
        &'a self,
        job: &'a Job<'a>,
        ends: &'a Ends,
    ) -> LocalFuture<'a, Result<Option<Report>, StoreError>> {
        Box::pin(async move {
            let Some(shard) = self.shard.upgrade() else { return Err(StoreError::Poisoned) };
            report::write(&shard, job, ends).await.map(Some)
        })
    }

    fn is_strained(&self) -> bool {
        self.shard.upgrade().is_some_and(|shard| shard.load.slows_relaying())
    }

    fn tell(&self, event: &QueueEvent<'_>) {
        let Some(shard) = self.shard.upgrade() else { return };
        match event {
            QueueEvent::Queued { id, envelope, octets } => {
                shard.metrics.count("relay_queued_total", 1);
                shard.tell(&Event::Enqueued {
                    trail: &envelope.trail,
                    id: &envelope.id,
                    queue: &id.to_string(),
                    origin: envelope.origin.name(),
                    from: &envelope.sender,
                    recipients: envelope.recipients.len() as u64,
                    octets: *octets,
                });
            }
            QueueEvent::Attempt { id, envelope, recipient, outcome } => {
                let mut secured = None;
                let (result, host, reply, status) = match outcome {
                    Outcome::Delivered { host, reply, tls, .. } => {
                        secured = tls.as_deref();
                        ("sent", Some(host.as_str()), reply.as_str(), "2.0.0")
                    }
                    Outcome::Deferred(problem) => {
                        ("deferred", problem.host.as_deref(), &*problem.reason, &*problem.status)
                    }
                    Outcome::Again => return,
                    Outcome::Failed(problem) => {
                        ("failed", problem.host.as_deref(), &*problem.reason, &*problem.status)
                    }
                };
                shard.metrics.count(
                    match outcome {
                        Outcome::Delivered { .. } => "relay_recipients_sent_total",
                        Outcome::Deferred(_) | Outcome::Again => "relay_recipients_deferred_total",
                        Outcome::Failed(_) => "relay_recipients_failed_total",
                    },
                    1,
                );
                shard.tell(&Event::Attempted {
                    trail: &envelope.trail,
                    id: &envelope.id,
                    queue: &id.to_string(),
                    to: &recipient.address,
                    result,
                    host,
                    tls: secured,
                    status,
                    reply,
                });
            }
            QueueEvent::Done { id, envelope } => {
                shard.metrics.count("relay_done_total", 1);
                let (trail, queue) = (envelope.trail.as_str(), &*id.to_string());
                shard.tell(&Event::LeftQueue { trail, id: &envelope.id, queue });
            }
            QueueEvent::Reported { id, report } => {
                shard.metrics.count("relay_reports_total", 1);
                let (queue, report) = (&*id.to_string(), &*report.to_string());
                shard.tell(&Event::Reported { queue, report });
            }
            QueueEvent::SiteDown { site, problem } => {
                shard.metrics.count("relay_sites_down_total", 1);
                shard.tell(&Event::SiteDown { site, reason: &problem.reason });
            }
            QueueEvent::Unreadable { id } => {
                shard.metrics.count("relay_unreadable_total", 1);
                shard.tell(&Event::QueueUnreadable { queue: &id.to_string() });
            }
        }
    }
}
