//! The structure of the file (`Settings`) and its checks. Defaults come from each module's Options;
//! numbers here are those that belong to no such module: what the server itself starts with.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use serde::Deserialize;

use super::{
    ConfigProblem, ConfigProblems,
    addresses::{AddressesSection, RouteTable},
    problem::line_of,
    queue::{QueueSection, SiteTable},
    schema::{self, PARTITIONS_MAX, Said, item_lines, server_address, value_lines},
    sections::{
        AuthenticationSection, BodyCompression, DnsSection, DomainQuota, EventsSection,
        HttpsSection, ImapSection, IntakeSection, LimitsSection, LiteralsSection, MtaStsSection,
        OauthSection, OverQuota, Pop3Section, ProcessSection, QuotaSection, RuntimeSection,
        SmtpSection, StoreSection, TlsReportSection, Utf8Section, https_url,
    },
};
use crate::{
    control::{
        DnsOptions, HttpsOptions, Introspection, KeySource, OauthOptions, Servers, StsOptions,
        TlsReportOptions,
    },
    directory::{GuardOptions, TokenOptions},
    events::{EventOptions, EventTarget, Kind},
    model::{Network, QuotaLimits},
    protocol::{imap, smtp},
    queue::QueueOptions,
    resolver::{Name, Own, ResolverOptions},
    runtime::{
        clients::{ClientLimits, ClientShare},
        resources::ResourceLimits,
        shard::ShardOptions,
        tls::{CertificateError, TlsCertificates},
    },
    service::{
        ServiceOptions,
        imap::ImapOptions,
        intake::IntakeOptions,
        pop3::Pop3Options,
        quota::{QuotaDefaults, QuotaOptions},
        relay::RelayOptions,
        smtp::SmtpOptions,
    },
    store::{Compression, HoldingLimits, StoreOptions},
};

/// Connections that each shard of a demo serves: two shards stay below the 20,000 descriptors that
/// a plain shell may have.
const DEMO_CONNECTIONS: usize = 9_000;

/// Settings and sections that a demo sets itself and that `--set` may not change.
const DEMO_OWN: &[&str] =
    &["hostname", "domains", "data_dir", "users_file", "listen", "tls", "user", "group"];

/// The domain of `ringmail demo`.
pub const DEMO_DOMAIN: &str = "demo.test";

/// A whole configuration file. `docs/ringmail.example.toml` shows every key with its default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The file they are from.
    #[serde(skip)]
    pub source: Option<PathBuf>,
    /// What it says of settings that a reload leaves as they are.
    #[serde(skip)]
    pub fixed: Said,
    /// The same of those that a reload changes.
    #[serde(skip)]
    pub reloaded: Said,
    /// The line of each `section.key` that the file sets.
    #[serde(skip)]
    pub value_lines: BTreeMap<String, usize>,
    /// Of `imap.administrators`, in the order of the list.
    #[serde(skip)]
    pub administrator_lines: Vec<usize>,
    /// Of `imap.submitters`.
    #[serde(skip)]
    pub submitter_lines: Vec<usize>,
    /// Of `authentication.masters`.
    #[serde(skip)]
    pub master_lines: Vec<usize>,
    /// Our name in greetings and Received headers.
    pub hostname: String,
    /// Domains whose mail is kept here.
    pub domains: Vec<String>,
    /// Holds the mail, the users file and the control socket.
    pub data_dir: PathBuf,
    /// `<data_dir>/users` unless set.
    #[serde(default)]
    pub users_file: Option<PathBuf>,
    /// `<data_dir>/aliases` unless set.
    #[serde(default)]
    pub aliases_file: Option<PathBuf>,
    /// `<data_dir>/groups` unless set.
    #[serde(default)]
    pub groups_file: Option<PathBuf>,
    /// User (and group) to switch to permanently once the ports are bound; only read when root.
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub listen: Listen,
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    #[serde(default)]
    pub process: ProcessSection,
    #[serde(default)]
    pub runtime: RuntimeSection,
    #[serde(default)]
    pub limits: LimitsSection,
    #[serde(default)]
    pub store: StoreSection,
    #[serde(default)]
    pub intake: IntakeSection,
    #[serde(default)]
    pub smtp: SmtpSection,
    #[serde(default)]
    pub pop3: Pop3Section,
    #[serde(default)]
    pub imap: ImapSection,
    #[serde(default)]
    pub quota: QuotaSection,
    /// Quotas of the accounts of some domains.
    #[serde(default)]
    pub domain_quota: Vec<DomainQuota>,
    #[serde(default)]
    pub authentication: AuthenticationSection,
    #[serde(default)]
    pub oauth: OauthSection,
    #[serde(default)]
    pub dns: DnsSection,
    #[serde(default)]
    pub addresses: AddressesSection,
    /// Where mail for other domains goes.
    #[serde(default)]
    pub route: Vec<RouteTable>,
    #[serde(default)]
    pub queue: QueueSection,
    /// Limits of single sites.
    #[serde(default)]
    pub site: Vec<SiteTable>,
    #[serde(default)]
    pub https: HttpsSection,
    #[serde(default)]
    pub mta_sts: MtaStsSection,
    #[serde(default)]
    pub tlsrpt: TlsReportSection,
    #[serde(default)]
    pub events: EventsSection,
}

/// Addresses per service, e.g. `["0.0.0.0:25", "[::]:25"]`; an empty list turns a service off.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    pub smtp: Vec<SocketAddr>,
    pub submission: Vec<SocketAddr>,
    pub submissions: Vec<SocketAddr>,
    pub lmtp: Vec<SocketAddr>,
    pub pop3: Vec<SocketAddr>,
    pub pop3s: Vec<SocketAddr>,
    pub imap: Vec<SocketAddr>,
    pub imaps: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
    /// Networks whose connections begin with a PROXY header, on every service but admin.
    pub proxy_networks: Vec<String>,
}

impl Default for Listen {
    fn default() -> Listen {
        let any = |port| vec![SocketAddr::from(([0, 0, 0, 0], port))];
        let local = |port| vec![SocketAddr::from(([127, 0, 0, 1], port))];
        Listen {
            smtp: any(25),
            submission: any(587),
            submissions: any(465),
            lmtp: local(24),
            pop3: any(110),
            pop3s: any(995),
            imap: any(143),
            imaps: any(993),
            admin: local(8080),
            proxy_networks: Vec::new(),
        }
    }
}

/// One address of a service.
#[derive(Clone, Copy)]
struct Listed {
    setting: &'static str,
    /// In the setting's list.
    index: usize,
    address: SocketAddr,
}

impl Listed {
    /// Whether connections to one of the two may reach the other, which is another service.
    fn collides_with(&self, other: &Listed) -> bool {
        let (one, two) = (self.address, other.address);
        // A listener on an IPv6 address takes IPv6 connections only (`runtime/acceptor.rs`).
        let overlap = one.is_ipv4() == two.is_ipv4()
            && (one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified());
        // The kernel chooses a free port for 0.
        self.setting != other.setting && one.port() != 0 && one.port() == two.port() && overlap
    }
}

/// Addresses of two services, in the order of the settings.
struct Collision {
    first: Listed,
    second: Listed,
}

impl Collision {
    /// At one that is in the file, if possible the second.
    fn problem(self, path: &Path, text: &str) -> ConfigProblem {
        let at = |listed: Listed| schema::item_span(text, listed.setting, listed.index);
        let (here, other) = match at(self.second) {
            Some(_) => (self.second, self.first),
            None => (self.first, self.second),
        };
        let place = match at(other) {
            Some(span) => format!("line {}", line_of(text, span.start)),
            None => "the default".to_owned(),
        };
        let Listed { setting, address, .. } = other;
        let what = format!(
            "{} is also taken by {setting} = {address} ({place}); give each service an address or \
             port of its own",
            here.address
        );
        ConfigProblem::at(path, text, at(here), Some(here.setting), what)
    }
}

impl Listen {
    /// Every service on 127.0.0.1 at `base` + its standard port; admin at `base` + 80.
    pub fn loopback(base: u16) -> Option<Listen> {
        let at = |port: u16| {
            base.checked_add(port).map(|port| vec![SocketAddr::from(([127, 0, 0, 1], port))])
        };
        Some(Listen {
            smtp: at(25)?,
            submission: at(587)?,
            submissions: at(465)?,
            lmtp: at(24)?,
            pop3: at(110)?,
            pop3s: at(995)?,
            imap: at(143)?,
            imaps: at(993)?,
            admin: at(80)?,
            proxy_networks: Vec::new(),
        })
    }

    /// By the setting's name: its key, and the addresses.
    fn services(&self) -> [(&'static str, &[SocketAddr]); 9] {
        [
            ("listen.smtp", &self.smtp),
            ("listen.submission", &self.submission),
            ("listen.submissions", &self.submissions),
            ("listen.lmtp", &self.lmtp),
            ("listen.pop3", &self.pop3),
            ("listen.pop3s", &self.pop3s),
            ("listen.imap", &self.imap),
            ("listen.imaps", &self.imaps),
            ("listen.admin", &self.admin),
        ]
    }

    /// Two services that would get each other's connections. The kernel does not refuse this: all
    /// listeners share their port with those of other shards (SO_REUSEPORT).
    fn collisions(&self) -> Vec<Collision> {
        let services = self.services();
        let all = services.iter().flat_map(|(setting, addresses)| {
            let number = addresses.iter().enumerate();
            number.map(move |(index, address)| Listed { setting, index, address: *address })
        });
        let mut seen: Vec<Listed> = Vec::new();
        let mut found = Vec::new();
        for second in all {
            let first = seen.iter().find(|first| first.collides_with(&second));
            found.extend(first.map(|first| Collision { first: *first, second }));
            seen.push(second);
        }
        found
    }

    /// Whether a service with implicit TLS is configured.
    fn wants_implicit_tls(&self) -> bool {
        !(self.submissions.is_empty() && self.pop3s.is_empty() && self.imaps.is_empty())
    }
}

/// PEM files; read again on SIGHUP.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Leaf first, then intermediates.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities whose certificates clients may log in with.
    pub client_authorities: Option<PathBuf>,
}

impl TlsFiles {
    /// The settings of the files that an error of [`TlsFiles::load`] is about.
    pub fn settings_of(&self, error: &CertificateError) -> Vec<&'static str> {
        let named = [
            ("tls.certificate", Some(&self.certificate)),
            ("tls.key", Some(&self.key)),
            ("tls.client_authorities", self.client_authorities.as_ref()),
        ];
        let of_path = |path: &Path| {
            let named = named.iter().filter(|(_, it)| it.is_some_and(|it| it == path));
            named.map(|(name, _)| *name).collect::<Vec<_>>()
        };
        match error.path().map(of_path) {
            Some(named) if !named.is_empty() => named,
            _ => vec!["tls.certificate", "tls.key"],
        }
    }

    /// Reads them.
    ///
    /// # Errors
    /// Of the first that cannot be used.
    pub fn load(&self) -> Result<TlsCertificates, CertificateError> {
        TlsCertificates::load(&self.certificate, &self.key, self.client_authorities.as_deref())
    }
}

impl Settings {
    /// File, line and name of the setting `section.key`, for messages.
    pub fn place(&self, setting: &str) -> String {
        let file = self.source.as_deref().unwrap_or(Path::new("--set")).display();
        match self.value_lines.get(setting) {
            Some(line) => format!("{file}:{line}: {setting}"),
            None => format!("{file}: {setting}"),
        }
    }

    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Settings, ConfigProblems> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigProblem::file(path, format!("cannot read: {error}")))?;
        let settings = Settings::parse(path, &text)?;
        Ok(Settings { source: Some(path.to_owned()), ..settings })
    }

    /// Checks `text`; `path` is only for messages and relative paths.
    ///
    /// # Errors
    /// All settings that are wrong by themselves; if there are none, all that do not fit others.
    pub fn parse(path: &Path, text: &str) -> Result<Settings, ConfigProblems> {
        schema::check(path, text)?;
        let mut settings: Settings = toml::from_str(text).map_err(|error| {
            ConfigProblem::at(path, text, error.span(), None, error.message().trim_end())
        })?;
        ConfigProblems::of(settings.check(path, text))?;
        settings.fixed = Said::of(text, false);
        settings.reloaded = Said::of(text, true);
        settings.value_lines = value_lines(text);
        settings.administrator_lines = item_lines(text, "imap.administrators");
        settings.submitter_lines = item_lines(text, "imap.submitters");
        settings.master_lines = item_lines(text, "authentication.masters");
        settings.resolve_paths(path);
        Ok(settings)
    }

    /// Checks settings that depend on each other.
    fn check(&self, path: &Path, text: &str) -> Vec<ConfigProblem> {
        let mut problems = self.check_addresses(path, text);
        if self.tls.is_none() && self.listen.wants_implicit_tls() {
            problems.push(ConfigProblem::file(
                path,
                "listen: submissions, pop3s and imaps need a certificate: add a [tls] section with \
                 certificate and key, or set these three to []",
            ));
        }
        let collisions = self.listen.collisions();
        problems.extend(collisions.into_iter().map(|pair| pair.problem(path, text)));
        problems
    }

    /// Relative paths count from the configuration file's folder, not from where we were started.
    fn resolve_paths(&mut self, path: &Path) {
        let named = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let base = named.unwrap_or(Path::new("."));
        self.data_dir = base.join(&self.data_dir);
        if let Some(users) = &mut self.users_file {
            *users = base.join(&*users);
        }
        self.resolve_address_paths(base);
        if let EventTarget::File(file) = EventTarget::named(&self.events.to) {
            self.events.to = base.join(file).to_string_lossy().into_owned();
        }
        let paths = [
            &mut self.dns.trust_anchor,
            &mut self.queue.ca_file,
            &mut self.mta_sts.ca_file,
            &mut self.oauth.ca_file,
            &mut self.oauth.client_secret_file,
            &mut self.tlsrpt.ca_file,
        ];
        for path in paths.into_iter().flatten() {
            *path = base.join(&*path);
        }
        if let Some(keys) = &mut self.oauth.keys
            && https_url(keys).is_none()
        {
            *keys = base.join(&*keys).to_string_lossy().into_owned();
        }
        if let Some(tls) = &mut self.tls {
            tls.certificate = base.join(&tls.certificate);
            tls.key = base.join(&tls.key);
            tls.client_authorities = tls.client_authorities.take().map(|path| base.join(path));
        }
    }

    /// Defaults with `overrides`, lines `section.key=value` (`--set`); a value that is not TOML by
    /// itself is taken as a string.
    ///
    /// # Errors
    /// An override that would be invalid in a configuration file.
    pub fn of_overrides(overrides: &[String]) -> Result<Settings, ConfigProblems> {
        let mut text: String = overrides.iter().map(|line| as_toml(line) + "\n").collect();
        text.push_str(&format!(
            "hostname = \"mail.{DEMO_DOMAIN}\"\ndomains = [\"{DEMO_DOMAIN}\"]\ndata_dir = \".\"\n\
             tls = {{ certificate = \".\", key = \".\" }}\n"
        ));
        Settings::parse(Path::new("--set"), &text)
    }

    /// The settings of `ringmail demo`: everything on 127.0.0.1, ports from `port_base`, the domain
    /// demo.test. `overrides`: as of [`Settings::of_overrides`].
    ///
    /// # Errors
    /// A port past 65535; an override that would be invalid in a configuration file, or of a
    /// setting that the demo sets itself.
    pub fn demo(
        data_dir: &Path,
        port_base: u16,
        shards: u16,
        partitions: Option<u16>,
        overrides: &[String],
    ) -> Result<Settings, ConfigProblems> {
        let listen = Listen::loopback(port_base).ok_or_else(|| {
            let what = format!("{port_base}: port {port_base} + 995 would pass 65535");
            ConfigProblem::file("--port-base", what)
        })?;
        for line in overrides {
            let name = line.split(['=', '.']).next().unwrap_or_default();
            let name = name.trim_matches([' ', '\t', '"', '\'']);
            let key = line.split('=').next().unwrap_or_default().trim();
            if DEMO_OWN.contains(&name) && key != "listen.proxy_networks" {
                let what = format!("{line}: the demo sets {name} itself (see --dir, --port-base)");
                return Err(ConfigProblem::file("--set", what).into());
            }
        }
        let is_set = |name: &str| {
            let names = overrides.iter().filter_map(|line| line.split_once('='));
            names.into_iter().any(|(key, _)| key.trim() == name)
        };
        let mut settings = Settings::of_overrides(overrides)?;
        settings.dns.demo = true;
        settings.data_dir = data_dir.to_owned();
        settings.listen = Listen { proxy_networks: settings.listen.proxy_networks, ..listen };
        settings.tls = Some(TlsFiles {
            certificate: data_dir.join("certificate.pem"),
            key: data_dir.join("key.pem"),
            client_authorities: None,
        });
        let runtime = &mut settings.runtime;
        if shards > 0 {
            runtime.shards = shards;
        }
        if !is_set("runtime.connections_per_shard") {
            runtime.connections_per_shard = DEMO_CONNECTIONS;
        }
        // Load tests have thousands of clients and few accounts.
        if !is_set("imap.sessions_per_account") {
            settings.imap.sessions_per_account = DEMO_CONNECTIONS as u32;
        }
        // By which its clients, and those who test it, know it.
        if !is_set("imap.url_hosts") {
            let names = [DEMO_DOMAIN, "localhost", "127.0.0.1"];
            settings.imap.url_hosts = names.map(str::to_owned).to_vec();
        }
        // Keeps events off the terminal in which a demo runs.
        if !is_set("events.to") {
            settings.events.to = data_dir.join("events.log").to_string_lossy().into_owned();
        }
        if let Some(partitions) = partitions {
            settings.store.partitions = partitions;
        }
        Ok(settings)
    }

    /// Partitions that a new data directory gets on a machine with `shards` shards.
    pub fn partitions(&self, shards: u16) -> u16 {
        match self.store.partitions {
            0 => shards.clamp(1, PARTITIONS_MAX),
            partitions => partitions,
        }
    }

    pub fn shard_options(&self) -> ShardOptions {
        let runtime = &self.runtime;
        ShardOptions {
            limits: ResourceLimits {
                buffer_bytes_max: bytes(runtime.buffers_per_shard),
                connections_max: runtime.connections_per_shard,
            },
            spin_before_park: Some(runtime.spin_before_park).filter(|spin| !spin.is_zero()),
            commit_gather: runtime.commit_gather,
            ..ShardOptions::default()
        }
    }

    /// Networks whose connections begin with a PROXY header.
    pub fn proxy_networks(&self) -> Vec<Network> {
        networks(&self.listen.proxy_networks)
    }

    /// The limits of one client.
    pub fn client_limits(&self) -> ClientLimits {
        let limits = &self.limits;
        ClientLimits {
            address: ClientShare {
                connections: limits.connections_per_address,
                strangers: limits.strangers_per_address,
                new_per_second: limits.new_per_address,
            },
            network: ClientShare {
                connections: limits.connections_per_network,
                strangers: limits.strangers_per_network,
                new_per_second: limits.new_per_network,
            },
            // `check` accepts only networks.
            allow: limits.allow.iter().filter_map(|text| text.parse().ok()).collect(),
        }
    }

    /// The same for every partition except for its number.
    pub fn store_options(&self) -> StoreOptions {
        let store = &self.store;
        StoreOptions {
            segment_size: store.segment_size.as_u64(),
            checkpoint_interval: store.checkpoint_interval.as_u64(),
            account_budget: bytes(store.account_budget),
            card_budget: bytes(store.card_budget),
            write_buffer: bytes(store.write_buffer),
            garbage_share: store.garbage_share,
            compaction_rate: store.compaction_rate.as_u64(),
            reserve: store.reserve.as_u64(),
            free_space_min: store.free_space_min.as_u64(),
            disk_timeout: store.disk_timeout,
            compression: (store.compression == BodyCompression::Zstd).then(|| Compression {
                level: store.compression_level,
                body_min: bytes(store.compression_min),
            }),
            mailboxes_per_account: store.mailboxes_per_account,
            holding: HoldingLimits {
                messages: store.messages_per_account,
                octets: store.octets_per_account.as_u64(),
            },
            ..StoreOptions::default()
        }
    }

    /// The limits of accounts for which nothing was set.
    pub fn quota_defaults(&self) -> QuotaDefaults {
        let limits = |storage: ByteSize, messages: u64| QuotaLimits {
            octets: Some(storage.as_u64()).filter(|octets| *octets > 0),
            messages: Some(messages).filter(|messages| *messages > 0),
        };
        let mut domains = BTreeMap::new();
        for table in &self.domain_quota {
            let storage = table.storage.unwrap_or(self.quota.storage);
            let messages = table.messages.unwrap_or(self.quota.messages);
            for domain in &table.domains {
                domains.entry(domain.to_lowercase()).or_insert(limits(storage, messages));
            }
        }
        QuotaDefaults { all: limits(self.quota.storage, self.quota.messages), domains }
    }

    /// `allow_plaintext_auth`: log-ins without TLS, which only the demo accepts.
    pub fn service_options(&self, allow_plaintext_auth: bool) -> ServiceOptions {
        let defaults = ImapOptions::default();
        ServiceOptions {
            hostname: self.hostname.clone(),
            allow_plaintext_auth,
            lmtp_auth: self.authentication.lmtp,
            certificate_name: self.authentication.certificate_name.into(),
            // The issuer is asked by the control thread.
            tokens: None,
            smtp: self.smtp_options(),
            pop3: Pop3Options { idle_timeout: self.pop3.idle_timeout, ..Pop3Options::default() },
            imap: ImapOptions {
                idle_timeout: self.imap.idle_timeout,
                sessions_per_account: self.imap.sessions_per_account,
                administrators: self.imap.administrators.clone(),
                submitters: self.imap.submitters.clone(),
                url_hosts: self.imap.url_hosts.clone(),
                message_limit: self.imap.message_limit,
                save_limit: self.imap.save_limit,
                append_messages_max: self.imap.append_messages_max,
                append_octets_max: self.imap.append_octets_max.as_u64(),
                capabilities: self.imap_capabilities(),
                limits: imap::Limits {
                    message: self.imap.append_size_max.as_u64(),
                    ..defaults.limits
                },
                ..defaults
            },
            intake: self.intake_options(),
            quota: QuotaOptions {
                warn_at: self.quota.warn_at,
                defers: self.quota.over == OverQuota::Defer,
            },
            relay: self.relay_options(),
            lag_max: self.runtime.lag_max,
            write_timeout: self.runtime.write_timeout,
            tls_handshake_timeout: self.runtime.tls_handshake_timeout,
        }
    }

    fn imap_capabilities(&self) -> imap::Capabilities {
        let mut capabilities = ImapOptions::default().capabilities;
        if self.imap.literals == LiteralsSection::Minus {
            capabilities = capabilities.without(imap::Capability::LiteralPlus);
        }
        if self.imap.utf8 == Utf8Section::Only {
            capabilities = capabilities.without(imap::Capability::Utf8Accept);
        }
        if !self.imap.unauthenticate {
            capabilities = capabilities.without(imap::Capability::Unauthenticate);
        }
        capabilities
    }

    fn intake_options(&self) -> IntakeOptions {
        let IntakeSection { memory_per_shard, silence, rate_min, deadline } = self.intake;
        let memory = usize::try_from(memory_per_shard.as_u64()).unwrap_or(usize::MAX);
        IntakeOptions { memory, silence, rate_min: rate_min.as_u64(), deadline }
    }

    fn smtp_options(&self) -> SmtpOptions {
        let defaults = SmtpOptions::default();
        SmtpOptions {
            limits: smtp::Limits {
                message_size_max: self.smtp.message_size_max.as_u64(),
                recipients_max: self.smtp.recipients_max,
                hops_max: self.smtp.received_headers_max,
                bare_newline: self.smtp.bare_newline.into(),
                extensions: smtp::Extensions {
                    dsn: true,
                    require_tls: true,
                    deliver_by: Some(0),
                    mt_priority: true,
                    future_release: Some(self.queue.hold_max()),
                    limits: true,
                },
                vrfy: self.smtp.vrfy.into(),
                expn: self.smtp.expn.into(),
                etrn: self.smtp.etrn.into(),
                ..defaults.limits
            },
            xclient: networks(&self.smtp.xclient_networks).into(),
            xforward: networks(&self.smtp.xforward_networks).into(),
            ..defaults
        }
    }

    /// How fast passwords may be guessed.
    pub fn guard_options(&self) -> GuardOptions {
        let section = &self.authentication;
        let trusted = section.trusted_networks.iter();
        GuardOptions {
            free_failures: section.free_failures,
            delay_max: section.backoff_max,
            network_failures: section.network_failures,
            failure_delay: section.failure_delay,
            // Checked when the file was read.
            trusted: trusted.filter_map(|text| text.parse().ok()).collect(),
        }
    }

    fn relay_options(&self) -> RelayOptions {
        let has_dns = !self.dns.demo || !self.dns.servers.is_empty();
        self.queue.options(&self.site, has_dns)
    }

    /// The settings of the queue that a reload changes.
    pub fn queue_options(&self) -> QueueOptions {
        self.relay_options().queue
    }

    /// How DNS servers are asked, for all shards together.
    pub fn dns_options(&self) -> DnsOptions {
        let section = &self.dns;
        DnsOptions {
            servers: match section.servers.as_slice() {
                [] if !section.demo => Servers::Host,
                // Checked when the file was read.
                named => Servers::These(named.iter().filter_map(|it| server_address(it)).collect()),
            },
            trust_ad: section.trust_ad,
            validate: section.validate,
            trust_anchor: section.trust_anchor.clone(),
            timeout: section.timeout,
            attempts: section.attempts,
            sts: StsOptions {
                folder: None,
                https: self.https_options(&self.mta_sts.ca_file),
                server: self.mta_sts.server,
            },
            ..DnsOptions::default()
        }
    }

    fn https_options(&self, authorities: &Option<PathBuf>) -> HttpsOptions {
        HttpsOptions {
            authorities: authorities.clone(),
            local_networks: networks(&self.https.local_networks),
        }
    }

    /// How bearer tokens are judged; `None` if none are taken.
    pub fn oauth_options(&self) -> Option<OauthOptions> {
        let section = &self.oauth;
        let keys = section.keys.as_ref().map(|text| match https_url(text) {
            Some(url) => KeySource::Url(url),
            None => KeySource::File(PathBuf::from(text)),
        });
        // Checked when the file was read.
        let introspection = section.introspection.as_deref().and_then(https_url);
        let introspection = introspection.map(|url| Introspection {
            url,
            client_id: section.client_id.clone(),
            client_secret_file: section.client_secret_file.clone(),
        });
        if keys.is_none() && introspection.is_none() {
            return None;
        }
        Some(OauthOptions {
            tokens: TokenOptions {
                issuer: section.issuer.clone(),
                audience: section.audience.clone(),
                claim: section.claim.clone(),
                has_keys: keys.is_some(),
                introspects: introspection.is_some(),
            },
            keys,
            introspection,
            cache: section.cache,
            https: self.https_options(&section.ca_file),
        })
    }

    /// How reports on TLS are made; `None` if they are off.
    pub fn tls_report_options(&self) -> Option<TlsReportOptions> {
        let section = &self.tlsrpt;
        let domain = self.domains.first().unwrap_or(&self.hostname);
        let from = section.from.clone().unwrap_or_else(|| format!("postmaster@{domain}"));
        section.enabled.then(|| TlsReportOptions {
            organization: section.organization.clone().unwrap_or_else(|| self.hostname.clone()),
            contact: section.contact.clone().unwrap_or_else(|| from.clone()),
            from,
            https: self.https_options(&section.ca_file),
            delay: section.delay,
        })
    }

    /// A shard's resolver. `addresses` are ours, at the port to which mail is sent.
    pub fn resolver_options(&self, addresses: Vec<IpAddr>) -> ResolverOptions {
        let section = &self.dns;
        let names = Name::parse(&self.hostname).into_iter().collect();
        ResolverOptions {
            own: Own { names, addresses },
            ipv6: section.ipv6,
            entries: section.cache_entries,
            queue: section.queue,
            deadline: section.deadline,
            age_max: section.cache_age_max,
            age_unknown_max: section.cache_age_unknown_max,
            stale: section.stale_age,
            sts: self.mta_sts.check,
        }
    }

    /// Which events are written, and where.
    pub fn event_options(&self) -> EventOptions {
        let on = |kind: &Kind| match kind {
            Kind::Server => true,
            Kind::Connections => self.events.connections,
            Kind::Logins => self.events.logins,
            Kind::Messages => self.events.messages,
            Kind::Deliveries => self.events.deliveries,
            Kind::Administration => self.events.administration,
            Kind::Storage => self.events.storage,
            Kind::Limits => self.events.limits,
        };
        let kinds = Kind::ALL.into_iter().filter(on).collect();
        EventOptions { target: EventTarget::named(&self.events.to), kinds }
    }

    /// The path of the users file.
    pub fn users_path(&self) -> PathBuf {
        self.users_file.clone().unwrap_or_else(|| self.data_dir.join("users"))
    }
}

/// The texts were checked when the file was read.
fn networks(texts: &[String]) -> Vec<Network> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

/// `store.segment_size=1MiB` as a line of TOML: the value in quotes unless it is one as it stands.
fn as_toml(line: &str) -> String {
    let Some((key, value)) = line.split_once('=') else { return line.to_owned() };
    let plain = format!("{key} = {value}");
    match plain.parse::<toml::Table>() {
        Ok(_) => plain,
        Err(_) => format!("{key} = {value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "hostname = \"mx.example.org\"\ndomains = [\"example.org\"]\n\
                        data_dir = \"mail\"\n";
    const NO_TLS: &str = "[listen]\nsubmissions = []\npop3s = []\nimaps = []\n";

    #[test]
    fn demo_takes_settings() {
        let demo = |port_base, set: &[&str]| {
            let set: Vec<String> = set.iter().map(|line| (*line).to_owned()).collect();
            Settings::demo(Path::new("d"), port_base, 0, Some(2), &set)
        };
        let settings = demo(2000, &["store.segment_size=1MiB", "runtime.shards=3"]).unwrap();
        assert_eq!(settings.store_options().segment_size, 1 << 20);
        assert_eq!((settings.runtime.shards, settings.store.partitions), (3, 2));
        assert_eq!(settings.data_dir, Path::new("d"));
        assert_eq!(settings.event_options().target, EventTarget::File("d/events.log".into()));
        let settings = demo(2000, &["events.to=stderr", "events.logins=false"]).unwrap();
        let EventOptions { target, kinds } = settings.event_options();
        assert_eq!(target, EventTarget::Stderr);
        assert!(!kinds.has(Kind::Logins) && kinds.has(Kind::Messages) && kinds.has(Kind::Server));
        let settings = demo(2000, &["store.segment_size=1MiB", "runtime.shards=3"]).unwrap();
        // A demo's own value yields to an explicit one, even if that is the product's default.
        let connections = |settings: Settings| {
            (settings.runtime.connections_per_shard, settings.imap.sessions_per_account)
        };
        assert_eq!(connections(settings), (9_000, 9_000));
        let asked = ["runtime.connections_per_shard=100000", "imap.sessions_per_account=1000"];
        assert_eq!(connections(demo(2000, &asked).unwrap()), (100_000, 1_000));
        let url_hosts = |set: &[&str]| demo(2000, set).unwrap().imap.url_hosts;
        assert_eq!(url_hosts(&[]), ["demo.test", "localhost", "127.0.0.1"]);
        assert_eq!(url_hosts(&["imap.url_hosts=[\"a.test\"]"]), ["a.test"]);
        for (port_base, set, expected) in [
            (65_000, "", "--port-base: 65000: port 65000 + 995 would pass 65535"),
            (2000, "store.segment=1", "--set:1: store.segment: no such setting"),
            (
                2000,
                "store.segment_size=1KiB",
                "--set:1: store.segment_size: found \"1KiB\"; expected a size",
            ),
            (2000, "nonsense", "--set:1"),
            (2000, "authentication.queue=0", "--set:1: authentication.queue: found 0; expected"),
            (2000, "listen.smtp=[]", "--set: listen.smtp=[]: the demo sets listen itself"),
            (2000, "data_dir=x", "--set: data_dir=x: the demo sets data_dir itself"),
        ] {
            let problem = demo(port_base, &[set]).unwrap_err().to_string();
            assert!(problem.starts_with(expected), "{set}: {problem}");
        }
    }

    #[test]
    fn capabilities_that_can_be_turned_off() {
        use imap::Capability::{LiteralPlus, Unauthenticate, Utf8Accept};
        for (line, capability) in [
            ("literals = \"minus\"", LiteralPlus),
            ("utf8 = \"only\"", Utf8Accept),
            ("unauthenticate = false", Unauthenticate),
        ] {
            let of = |line: &str| {
                let text = format!("{BASE}{NO_TLS}[imap]\n{line}\n");
                let settings = Settings::parse(Path::new("t.toml"), &text).unwrap();
                settings.service_options(false).imap.capabilities
            };
            assert!(of("").contains(capability) && !of(line).contains(capability), "{line}");
        }
    }

    #[test]
    fn implicit_tls_needs_a_certificate() {
        let problem = Settings::parse(Path::new("t.toml"), BASE).unwrap_err().to_string();
        assert!(problem.contains("[tls]"), "{problem}");
    }

    #[test]
    fn paths_count_from_the_file() {
        let text = format!("{BASE}{NO_TLS}");
        let settings = Settings::parse(Path::new("/etc/ringmail/t.toml"), &text).unwrap();
        assert_eq!(settings.users_path(), Path::new("/etc/ringmail/mail/users"));
        // A configuration file named without a folder is in the working directory, and relative
        // paths must still open.
        let text = format!("users_file = \"users\"\n{text}");
        let settings = Settings::parse(Path::new("t.toml"), &text).unwrap();
        assert_eq!(settings.users_path().parent(), Some(Path::new(".")));
    }

    /// The example shows optional settings as comments: everything else must equal the defaults.
    #[test]
    fn the_example_file_is_valid_and_shows_the_defaults() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ringmail.example.toml");
        let example = Settings::load(&path).unwrap_or_else(|problem| panic!("{problem}"));
        let text = format!("{BASE}[tls]\ncertificate = \"c\"\nkey = \"k\"\n");
        let mut defaults = Settings::parse(&path, &text).unwrap();
        let Settings { source, fixed, reloaded, value_lines, .. } = example;
        assert_eq!(reloaded.changed(&defaults.reloaded), ["domains"]);
        let Settings { hostname, domains, data_dir, tls, .. } = example;
        assert_eq!(
            fixed.changed(&defaults.fixed),
            ["hostname", "data_dir", "tls.certificate", "tls.key"]
        );
        defaults = Settings { source, fixed, reloaded, value_lines, ..defaults };
        defaults = Settings { hostname, domains, data_dir, tls, ..defaults };
        let example = Settings::load(&path).unwrap();
        assert_eq!(format!("{example:#?}"), format!("{defaults:#?}"));
    }
}
