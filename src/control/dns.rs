//! The DNS client of the process: queries of all shards, sent to the configured servers by
//! `hickory`, on the control thread.
//!
//! A [`DnsQueue`] takes questions from any thread, up to a limit; [`DnsWorker`] answers them. What
//! hickory does: messages, UDP with retransmission, TCP after a truncated answer, and, if wanted,
//! DNSSEC validation. What this module does: the choice of the server ([`Pools`]: the one that
//! answered last, the others if it fails or refuses), aliases (CNAME) across answers, and the
//! distinction between "there is no such record" and "nobody knows".
//!
//! Answers are cached by the shards (`resolver`), not here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures_lite::stream::{self, Stream};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, DnsHandle, NetError, NoRecords, dnssec::DnssecDnsHandle,
        runtime::TokioRuntimeProvider, xfer::FirstAnswer,
    },
    proto::{
        dnssec::{Proof, TrustAnchors, rdata::DNSSECRData},
        op::{DnsRequest, DnsRequestOptions, DnsResponse, Query, ResponseCode},
        rr::{Name as WireName, RData, Record, RecordType},
    },
    system_conf,
};
use tokio::sync::{Semaphore, mpsc};

use super::sts::{Keeper, PolicyWatcher, StsOptions};
use crate::{
    model::Tlsa,
    resolver::{Failure, Found, Kind, Mx, Name, NameServers, Question, Records, Reply},
    runtime::{
        LocalFuture,
        worker::{self, Answer},
    },
};

/// Aliases (CNAME) in a row that are followed.
const ALIASES_MAX: usize = 10;

/// Records of one answer that are read.
const RECORDS_MAX: usize = 256;

/// Queries that are sent at once; more wait in the queue.
const UNDER_WAY_MAX: usize = 256;

/// How long a negative answer without a time to live is cached (RFC 2308 5 would not cache it at
/// all).
const AGE_WITHOUT_SOA: Duration = Duration::from_secs(5);

/// Which servers are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Servers {
    /// Those of /etc/resolv.conf.
    Host,
    /// Possibly none.
    These(Vec<SocketAddr>),
}

/// Servers and how they are asked; `config` fills them.
#[derive(Clone, Debug)]
pub struct DnsOptions {
    pub servers: Servers,
    /// Whether a server's word is enough that an answer is authentic (the AD bit, RFC 4035 3.2.3):
    /// only for a validating server on this host or behind a safe path.
    pub trust_ad: bool,
    /// Whether answers are validated here (RFC 4035 4).
    pub validate: bool,
    /// DNSKEY records in the form of a zone file; the root's built-in keys if `None`.
    pub trust_anchor: Option<PathBuf>,
    /// How long a server has for one try.
    pub timeout: Duration,
    /// How often all servers are tried.
    pub attempts: usize,
    /// Questions of all shards that may wait.
    pub queue: usize,
    /// MTA-STS policies, which are asked for in the same way.
    pub sts: StsOptions,
}

impl Default for DnsOptions {
    fn default() -> DnsOptions {
        DnsOptions {
            servers: Servers::Host,
            trust_ad: false,
            validate: false,
            trust_anchor: None,
            timeout: Duration::from_secs(3),
            attempts: 2,
            queue: 4096,
            sts: StsOptions::default(),
        }
    }
}

impl DnsOptions {
    /// Whether a worker can start with them. Reads a file: not on a shard.
    ///
    /// # Errors
    /// The trust anchor cannot be used.
    pub fn check(&self) -> Result<(), TrustAnchorError> {
        if self.validate { anchors(self.trust_anchor.as_deref()).map(drop) } else { Ok(()) }
    }
}

/// The trust anchor cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: no DNSKEY records can be read: {what}", path.display())]
pub struct TrustAnchorError {
    path: PathBuf,
    what: String,
}

struct Job {
    question: Question,
    answer: Answer<Reply>,
}

/// Takes questions from the shards.
pub struct DnsQueue {
    jobs: mpsc::Sender<Job>,
}

impl NameServers for DnsQueue {
    fn ask(&self, question: Question) -> Option<LocalFuture<'static, Reply>> {
        let (answer, awaited) = worker::answer();
        self.jobs.try_send(Job { question, answer }).ok()?;
        Some(Box::pin(async move { awaited.await.unwrap_or(Reply::Failed(Failure::Unreachable)) }))
    }
}

/// The other end of a [`DnsQueue`]: runs on the control thread.
pub struct DnsWorker {
    jobs: mpsc::Receiver<Job>,
    client: Arc<Client>,
}

/// A queue and its worker, which answers nothing before it [runs](DnsWorker::run).
///
/// # Errors
/// The trust anchor cannot be read. Servers that cannot be determined (/etc/resolv.conf) are not an
/// error: each query fails with [`Failure::NoServers`].
pub fn dns(options: &DnsOptions) -> Result<(Arc<DnsQueue>, DnsWorker), TrustAnchorError> {
    let (sender, jobs) = mpsc::channel(options.queue.max(1));
    let client = Arc::new(Client::new(options)?);
    Ok((Arc::new(DnsQueue { jobs: sender }), DnsWorker { jobs, client }))
}

/// Asks on the control thread itself. Cheap to clone.
#[derive(Clone)]
pub(super) struct DnsAsker(Arc<Client>);

impl DnsAsker {
    pub(super) async fn ask(&self, name: Name, kind: Kind) -> Reply {
        self.0.reply(Question { name, kind }).await
    }

    /// The addresses of a host that has some.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let name = Name::parse(host).map_err(|error| error.to_string())?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut failed = None;
        for kind in [Kind::Aaaa, Kind::A] {
            match self.ask(name.clone(), kind).await {
                Reply::Found(Found { records: Records::Addresses(found), .. }) => {
                    addresses.extend(found);
                }
                Reply::Failed(failure) => failed = Some(failure),
                Reply::Found(_) | Reply::Nothing { .. } => {}
            }
        }
        if addresses.is_empty() {
            let why = failed.map(|it| format!(": {it}")).unwrap_or_default();
            return Err(format!("{host}: no address{why}"));
        }
        Ok(addresses)
    }
}

impl DnsWorker {
    pub(super) fn asker(&self) -> DnsAsker {
        DnsAsker(self.client.clone())
    }

    /// From now on `watcher` is told about MTA-STS policies.
    pub fn watch_policies(&self, watcher: PolicyWatcher) {
        self.client.policies.watch(watcher);
    }

    /// Runs on a thread of its own, in a program that has no control thread.
    pub fn start(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("dns".to_owned()).spawn(move || {
            runtime.block_on(self.run());
        })?;
        Ok(())
    }

    /// Answers questions until the last queue is dropped.
    pub async fn run(mut self) {
        let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        while let Some(Job { question, answer }) = self.jobs.recv().await {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            if !answer.is_awaited() {
                continue;
            }
            let client = self.client.clone();
            tokio::spawn(async move {
                answer.give(client.reply(question).await);
                drop(place);
            });
        }
    }
}

/// Asks the servers.
struct Client {
    policies: Arc<Keeper>,
    asker: Asker,
    trust_ad: bool,
    edns: DnsRequestOptions,
}

enum Asker {
    NoServers,
    Plain(Pools),
    Validating(Box<DnssecDnsHandle<Pools>>),
}

impl Client {
    fn new(options: &DnsOptions) -> Result<Client, TrustAnchorError> {
        let mut edns = DnsRequestOptions::default();
        edns.use_edns = true;
        edns.edns_set_dnssec_ok = options.validate;
        let servers = Pools::new(options);
        let asker = match servers {
            None => Asker::NoServers,
            Some(servers) if options.validate => {
                let anchors = anchors(options.trust_anchor.as_deref())?;
                let handle = DnssecDnsHandle::with_trust_anchor(servers, Arc::new(anchors));
                Asker::Validating(Box::new(handle))
            }
            Some(servers) => Asker::Plain(servers),
        };
        let policies = Arc::new(Keeper::new(options.sts.clone()));
        Ok(Client { policies, asker, trust_ad: options.trust_ad && !options.validate, edns })
    }

    async fn reply(&self, question: Question) -> Reply {
        let Question { name, kind } = question;
        match kind {
            Kind::Sts => self.policy(&name).await,
            _ => self.look_up(name, kind).await,
        }
    }

    async fn policy(&self, domain: &Name) -> Reply {
        let records = match domain.below("_mta-sts") {
            Ok(name) => match self.look_up(name, Kind::Txt).await {
                Reply::Found(Found { records: Records::Text(records), .. }) => records,
                _ => Vec::new(),
            },
            Err(_) => Vec::new(),
        };
        let addresses = async {
            let mut addresses = Vec::new();
            let Ok(host) = domain.below("mta-sts") else { return addresses };
            for kind in [Kind::Aaaa, Kind::A] {
                if let Reply::Found(Found { records: Records::Addresses(records), .. }) =
                    self.look_up(host.clone(), kind).await
                {
                    addresses.extend(records);
                }
            }
            addresses
        };
        self.policies.policy(domain, &records, addresses).await
    }

    /// The answer, with aliases followed.
    async fn look_up(&self, mut name: Name, kind: Kind) -> Reply {
        let (mut authentic, mut age) = (true, Duration::MAX);
        for _ in 0..=ALIASES_MAX {
            let step = match self.send(&name, kind).await {
                Ok(response) => self.read(&response, &name, kind),
                Err(NetError::Dns(DnsError::Nsec { response, .. }))
                    if is_of_wildcard(&response) =>
                {
                    self.read(&response, &name, kind)
                }
                Err(error) => Step::End(Reply::from(&error)),
            };
            match step {
                Step::End(Reply::Found(found)) => {
                    return Reply::Found(Found {
                        authentic: authentic && found.authentic,
                        age: age.min(found.age),
                        ..found
                    });
                }
                Step::End(Reply::Nothing { exists, age: its }) => {
                    return Reply::Nothing { exists, age: age.min(its) };
                }
                Step::End(failed) => return failed,
                Step::Alias { target, authentic: its, age: alias_age } => {
                    authentic &= its;
                    age = age.min(alias_age);
                    name = target;
                }
            }
        }
        Reply::Failed(Failure::TooManyAliases)
    }

    async fn send(&self, name: &Name, kind: Kind) -> Result<DnsResponse, NetError> {
        let wire = WireName::from_ascii(format!("{name}.")).map_err(NetError::from)?;
        let query = Query::query(wire, record_type(kind));
        let mut request = DnsRequest::from_query(query, self.edns);
        // Asks whether the answer is authentic (RFC 6840 5.7).
        request.metadata.authentic_data = self.trust_ad;
        match &self.asker {
            Asker::NoServers => Err(NetError::NoConnections),
            Asker::Plain(servers) => servers.send(request).first_answer().await,
            Asker::Validating(handle) => handle.send(request).first_answer().await,
        }
    }

    /// What `response` says of `name`.
    fn read(&self, response: &DnsResponse, name: &Name, kind: Kind) -> Step {
        let answers = response.answers.get(..RECORDS_MAX).unwrap_or(&response.answers);
        let mut read = Read { validating: self.is_validating(), ..Read::new(name) };
        if self.is_validating() && answers.iter().any(|record| record.proof == Proof::Bogus) {
            return Step::End(Reply::Failed(Failure::Bogus));
        }
        if kind != Kind::Cname && !read.follow(answers) {
            return Step::End(Reply::Failed(Failure::TooManyAliases));
        }
        let Some(records) = read.records(answers, kind) else {
            return Step::End(Reply::Failed(Failure::Bogus));
        };
        let authentic = match self.is_validating() {
            true => read.authentic,
            false => self.trust_ad && response.metadata.authentic_data,
        };
        if !records.is_empty() {
            let Read { name, age, .. } = read;
            return Step::End(Reply::Found(Found { records, name, authentic, age }));
        }
        let is_alias = read.name != *name;
        let negative = response.negative_ttl();
        if response.response_code == ResponseCode::NXDomain {
            return Step::End(Reply::Nothing { exists: false, age: negative_age(negative) });
        }
        if is_alias && negative.is_none() {
            // The server does not know where the alias leads.
            return Step::Alias { target: read.name, authentic, age: read.age };
        }
        let refers = response.authorities.iter().any(|it| it.record_type() == RecordType::NS);
        if negative.is_none() && refers && !response.metadata.authoritative {
            return Step::End(Reply::Failed(Failure::Referral));
        }
        Step::End(Reply::Nothing { exists: true, age: negative_age(negative) })
    }

    fn is_validating(&self) -> bool {
        matches!(self.asker, Asker::Validating(_))
    }
}

/// Whether a response that hickory takes as bogus is a good answer from a wildcard: it does not
/// know the proof in which the NSEC record of the wildcard itself covers the name (RFC 4035 5.3.4).
/// All signatures have been checked before; what is left is that no closer name exists.
fn is_of_wildcard(response: &DnsResponse) -> bool {
    let signatures = response.answers.iter().filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => Some((&record.name, rrsig.input())),
        _ => None,
    });
    let is_proven = |name: &WireName, labels: u8| {
        let closer = name.trim_to(usize::from(labels) + 1);
        response.authorities.iter().any(|record| match &record.data {
            RData::DNSSEC(DNSSECRData::NSEC(nsec)) if record.proof == Proof::Secure => {
                let next = nsec.next_domain_name();
                // The last record of a zone leads back to its first name.
                let is_last = *next <= record.name && next.zone_of(name);
                let types = nsec.type_set();
                // It says nothing about names below a delegation (RFC 6840 4.1).
                let is_cut = types.contains(RecordType::NS) && !types.contains(RecordType::SOA);
                let is_above = record.name.zone_of(&closer);
                record.name < closer
                    && (closer < *next || is_last)
                    && !closer.zone_of(next)
                    && !(is_above && (is_cut || types.contains(RecordType::DNAME)))
            }
            _ => false,
        })
    };
    let mut wildcards = 0;
    for (name, rrsig) in signatures {
        if rrsig.num_labels < name.num_labels() {
            wildcards += 1;
            if !is_proven(name, rrsig.num_labels) {
                return false;
            }
        }
    }
    let signed = |record: &Record| {
        record.proof == Proof::Secure || record.record_type() == RecordType::RRSIG
    };
    wildcards > 0 && response.answers.iter().all(signed)
}

/// What one response says.
enum Step {
    End(Reply),
    /// It ends at another name, which must be asked for.
    Alias {
        target: Name,
        authentic: bool,
        age: Duration,
    },
}

/// The way through the records of an answer.
struct Read {
    /// The name that the aliases so far lead to.
    name: Name,
    wire: WireName,
    validating: bool,
    /// All records used so far are authentic.
    authentic: bool,
    age: Duration,
}

impl Read {
    fn new(name: &Name) -> Read {
        let wire = WireName::from_ascii(format!("{name}.")).unwrap_or_default();
        let (authentic, age) = (true, Duration::MAX);
        Read { name: name.clone(), wire, validating: false, authentic, age }
    }

    /// Follows the aliases within the answer; false if they do not end or lead to what is no name.
    fn follow(&mut self, answers: &[Record]) -> bool {
        for _ in 0..=ALIASES_MAX {
            let alias = answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == self.wire => Some((record, &target.0)),
                _ => None,
            });
            let Some((record, target)) = alias else { return true };
            let Some(name) = host_name(target) else { return false };
            self.take(record);
            self.name = name;
            self.wire = target.clone();
        }
        false
    }

    /// The records of `kind`; `None` if one of them is neither authentic nor known to be of a zone
    /// without signatures.
    fn records(&mut self, answers: &[Record], kind: Kind) -> Option<Records> {
        let wanted = record_type(kind);
        let mut records = match kind {
            Kind::Mx => Records::Mx(Vec::new()),
            Kind::A | Kind::Aaaa => Records::Addresses(Vec::new()),
            Kind::Tlsa => Records::Tlsa(Vec::new()),
            Kind::Txt | Kind::Sts => Records::Text(Vec::new()),
            Kind::Cname => Records::Cname(Vec::new()),
        };
        for record in answers {
            if record.record_type() != wanted || record.name != self.wire {
                continue;
            }
            if self.validating && !matches!(record.proof, Proof::Secure | Proof::Insecure) {
                return None;
            }
            self.take(record);
            match (&mut records, &record.data) {
                (Records::Mx(records), RData::MX(mx)) => records.push(Mx {
                    preference: mx.preference,
                    host: host_name(&mx.exchange),
                    is_root: mx.exchange.is_root(),
                }),
                (Records::Addresses(records), RData::A(address)) => {
                    records.push(IpAddr::V4(address.0));
                }
                (Records::Addresses(records), RData::AAAA(address)) => {
                    records.push(IpAddr::V6(address.0));
                }
                (Records::Tlsa(records), RData::TLSA(tlsa)) => records.push(Tlsa {
                    usage: tlsa.cert_usage.into(),
                    selector: tlsa.selector.into(),
                    matching: tlsa.matching.into(),
                    data: tlsa.cert_data.as_slice().into(),
                }),
                (Records::Text(records), RData::TXT(text)) => {
                    let whole = text.txt_data.concat();
                    records.push(String::from_utf8_lossy(&whole).into_owned());
                }
                (Records::Cname(records), RData::CNAME(target)) => {
                    records.extend(host_name(&target.0));
                }
                _ => {}
            }
        }
        Some(records)
    }

    fn take(&mut self, record: &Record) {
        self.authentic &= record.proof == Proof::Secure;
        self.age = self.age.min(Duration::from_secs(record.ttl.into()));
    }
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::Mx => RecordType::MX,
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
        Kind::Tlsa => RecordType::TLSA,
        // The record that announces a policy.
        Kind::Txt | Kind::Sts => RecordType::TXT,
        Kind::Cname => RecordType::CNAME,
    }
}

/// `None` for the root, and for names that no host has.
fn host_name(wire: &WireName) -> Option<Name> {
    Name::parse(&wire.to_ascii()).ok()
}

fn negative_age(ttl: Option<u32>) -> Duration {
    ttl.map_or(AGE_WITHOUT_SOA, |seconds| Duration::from_secs(seconds.into()))
}

impl From<&NetError> for Reply {
    fn from(error: &NetError) -> Reply {
        Reply::Failed(match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => return negative(none),
            NetError::Dns(DnsError::ResponseCode(code)) => match *code {
                ResponseCode::ServFail => Failure::ServerFailed,
                ResponseCode::Refused => Failure::Refused,
                other => Failure::Code(other.into()),
            },
            NetError::Dns(DnsError::DnssecBogus) => Failure::Bogus,
            NetError::Dns(DnsError::Nsec { response, proof, .. }) => {
                // Known to be unsigned, so there is nothing to prove.
                if *proof == Proof::Insecure {
                    let exists = response.response_code != ResponseCode::NXDomain;
                    let age = negative_age(response.negative_ttl());
                    return Reply::Nothing { exists, age };
                }
                Failure::Bogus
            }
            NetError::Timeout => Failure::TimedOut,
            NetError::NoConnections => Failure::NoServers,
            NetError::Busy => Failure::Busy,
            _ => Failure::Unreachable,
        })
    }
}

fn negative(none: &NoRecords) -> Reply {
    let exists = none.response_code != ResponseCode::NXDomain;
    if exists && none.soa.is_none() && none.ns.is_some() {
        return Reply::Failed(Failure::Referral);
    }
    Reply::Nothing { exists, age: negative_age(none.negative_ttl) }
}

fn anchors(path: Option<&Path>) -> Result<TrustAnchors, TrustAnchorError> {
    let Some(path) = path else { return Ok(TrustAnchors::default()) };
    TrustAnchors::from_file(path)
        .map_err(|error| TrustAnchorError { path: path.to_owned(), what: error.to_string() })
}

/// The configured servers: each question goes to the one that answered last, and to the others if
/// that one fails. hickory's own pool would take the first reply of several servers, also if it is
/// a refusal.
#[derive(Clone)]
struct Pools(Arc<Pool>);

struct Pool {
    /// A pool of one server each.
    servers: Vec<NameServerPool<TokioRuntimeProvider>>,
    /// The one to ask first.
    first: AtomicUsize,
    attempts: usize,
}

impl Pools {
    /// `None` if there are none.
    fn new(options: &DnsOptions) -> Option<Pools> {
        let servers: Vec<NameServerConfig> = match &options.servers {
            Servers::Host => {
                let (config, _) = system_conf::read_system_conf().ok()?;
                config.name_servers().to_vec()
            }
            Servers::These(addresses) => addresses.iter().map(|it| server(*it)).collect(),
        };
        if servers.is_empty() {
            return None;
        }
        let mut resolving = ResolverOpts::default();
        resolving.timeout = options.timeout;
        // Retries are made here.
        resolving.attempts = 0;
        let pool = |server| {
            let tls = TlsConfig::new().ok()?;
            let context = Arc::new(PoolContext::new(resolving.clone(), tls));
            let provider = TokioRuntimeProvider::default();
            Some(NameServerPool::from_config([server], context, provider))
        };
        let servers = servers.into_iter().filter_map(pool).collect();
        let attempts = options.attempts.max(1);
        Some(Pools(Arc::new(Pool { servers, first: AtomicUsize::new(0), attempts })))
    }

    async fn ask(self, request: DnsRequest) -> Result<DnsResponse, NetError> {
        let Pool { servers, first, attempts } = &*self.0;
        let mut worst = NetError::NoConnections;
        for _ in 0..*attempts {
            let start = first.load(Ordering::Relaxed);
            for offset in 0..servers.len() {
                let at = (start + offset) % servers.len();
                let Some(server) = servers.get(at) else { continue };
                let answer = match server.send(request.clone()).first_answer().await {
                    // Old servers, and some firewalls, do not take EDNS (RFC 6891 6.2.2).
                    Err(error) if dislikes_edns(&error) => {
                        let mut plain = request.clone();
                        plain.edns = None;
                        server.send(plain).first_answer().await
                    }
                    answer => answer,
                };
                match answer {
                    Err(error) if !is_final(&error) => worst = error,
                    answer => {
                        first.store(at, Ordering::Relaxed);
                        return answer;
                    }
                }
            }
        }
        Err(worst)
    }
}

/// An answer, if a negative one: another server would say the same.
fn is_final(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            !matches!(negative(none), Reply::Failed(_))
        }
        _ => false,
    }
}

fn dislikes_edns(error: &NetError) -> bool {
    use ResponseCode::{BADVERS, FormErr, NotImp};
    matches!(error, NetError::Dns(DnsError::ResponseCode(FormErr | NotImp | BADVERS)))
}

impl DnsHandle for Pools {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        Box::pin(stream::once_future(self.clone().ask(request)))
    }
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connection = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections =
        vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}
