//! Assembles a server and runs it: data directory, users, certificates, listeners, shards, control
//! thread. `ringmail demo` and `ringmail serve` differ only in their settings.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod access;
pub mod data_dir;
pub mod examine;
pub mod operate;

mod blocks;
mod changes;
mod event_writer;
mod life;
mod listeners;
mod monitor;
mod probes;
mod sessions;
mod tls_reports;

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;

pub use self::listeners::probe_ports;

use self::{
    data_dir::{DataDirectory, Layout},
    event_writer::{EventWriter, Output},
    life::Plan,
    listeners::ShardListeners,
};
use crate::{
    config::{Said, Settings},
    control::{self, TlsReporter},
    directory::{DirectoryFiles, DirectoryOptions, DirectorySnapshot, PeerLimits, SharedDirectory},
    dkim::{KeyFolder, Keyring, SharedKeyring},
    events::{self, Event, EventSender},
    queue::{QueueOptions, SiteSlots},
    runtime::{
        clients::Clients,
        folder::Folder,
        host::{self, Demand},
        mesh::{self, MeshGate},
        privilege,
        shard::{self, ShardOptions},
        signal::{self, Signal, SignalThread},
        tls::TlsContexts,
        tls_client::Trust,
        worker::WorkerPool,
    },
    service::{Shard, signing::Signing},
    store::{Quotas, Shares, StoreOptions},
};

/// How long opening the partitions may take before the start is given up. The checkpoint interval
/// bounds the replay, so a longer time means a disk that does not answer.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Signatures that may wait for the thread that makes them; further ones are made by shards.
const SIGNATURES_MAX: usize = 256;

/// Runs until SIGTERM or SIGINT. Prints `ringmail: ready` once every port is listening.
/// `allow_plaintext_auth`: log-ins without TLS (the demo).
pub fn run(settings: Settings, allow_plaintext_auth: bool) -> Result<()> {
    if !settings.process.core_dumps {
        host::forbid_core_dumps().context("cannot turn core dumps off")?;
    }
    let demand = demand(&settings)?;
    let shard_count = demand.shards;
    let mut shard_options = settings.shard_options();
    let granted = host::probe(demand)?;
    let options = settings.event_options();
    let (events, queue) = events::queue(options.kinds);
    granted.warnings.iter().for_each(|warning| warn(&events, &warning.to_string()));
    shard_options.limits.connections_max = granted.connections_per_shard;
    absent_sources(&settings).iter().for_each(|text| warn(&events, text));
    let listeners = listeners::bind(&settings.listen, shard_count, settings.runtime.backlog)?;
    let admin = bind_admin(&settings)?;
    access::check(&settings)?;
    become_unprivileged(&settings, allow_plaintext_auth, &events)?;
    // Opened as the user that reopens it on SIGHUP.
    let output = Output::open(&options.target)
        .with_context(|| format!("events.to: {}: cannot open", options.target.name()))?;

    // Files that may be missing or wrong come first: a start that fails must not fix the number of
    // partitions.
    DirectorySnapshot::make_keys(&settings.directory_options().senders)?;
    let (state, warnings) = Reloadable::load(&settings, events.clone(), DirectorySnapshot::load)?;
    warnings.iter().for_each(|text| warn(&events, text));
    let state = Arc::new(state);
    let partitions = settings.partitions(shard_count);
    let data = Arc::new(DataDirectory::open(&settings.data_dir, partitions)?);
    if let Some(warning) = other_partitions(&settings, data.layout()) {
        warn(&events, &format!("{}: {warning}", data.path().display()));
    }
    if let Some(warning) = idle_shards(data.layout().partitions, shard_count) {
        warn(&events, &format!("{}: {warning}", data.path().display()));
    }
    let writer = EventWriter::start(queue, events.clone(), output, &state.directory);
    let writer = Arc::new(writer.context("cannot start the thread for events")?);
    events.tell(&Event::Start {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id().into(),
        shards: shard_count.into(),
        partitions: data.layout().partitions.into(),
        data_dir: &data.path().to_string_lossy(),
    });
    let sockets = Sockets { listeners, admin };
    let site = Site { data, state, events: events.clone(), writer: writer.clone() };
    let served = serve(&settings, allow_plaintext_auth, &shard_options, sockets, site);
    events.tell(&Event::Stop { clean: served.is_ok() });
    writer.end();
    served
}

/// Bound before privileges are dropped.
struct Sockets {
    /// One set per shard.
    listeners: Vec<ShardListeners>,
    admin: Vec<std::net::TcpListener>,
}

/// Data shared by shards and control thread.
struct Site {
    data: Arc<DataDirectory>,
    state: Arc<Reloadable>,
    events: EventSender,
    writer: Arc<EventWriter>,
}

/// Starts the shards and waits until they end.
fn serve(
    settings: &Settings,
    allow_plaintext_auth: bool,
    shard_options: &ShardOptions,
    sockets: Sockets,
    site: Site,
) -> Result<()> {
    let Site { data, state, events, writer } = site;
    let shard_count = u16::try_from(sockets.listeners.len())?;
    let worker_count =
        NonZero::new(settings.authentication.workers).unwrap_or(NonZero::<usize>::MIN);
    let workers = WorkerPool::start("password", worker_count, settings.authentication.queue)?;
    let signers = WorkerPool::start("signature", NonZero::<usize>::MIN, SIGNATURES_MAX)?;

    let mut dns_options = settings.dns_options();
    dns_options.sts.folder = Some(data.path().join("mta-sts"));
    let (names, dns) = control::dns(&dns_options)?;
    let (seats, gate) = mesh::build::<Shard>(shard_count);
    let reporter = settings.tls_report_options().map(|options| {
        if let Some(warning) = tls_reports::unsigned(&options, &state.keys) {
            warn(&events, &warning);
        }
        let mailer = Box::new(tls_reports::QueueMailer(gate.clone()));
        TlsReporter::new(options, data.path().to_owned(), &dns, mailer, events.clone())
    });
    dns.watch_policies(tls_reports::policy_watcher(reporter.clone(), events.clone()));

    let oauth = settings.oauth_options();
    let oauth = oauth.map(|options| {
        let unusable = control::unusable_token_files(&options);
        unusable.iter().for_each(|(setting, why)| {
            warn(&events, &format!("{}: {why}", settings.place(setting)));
        });
        let is_told = unusable.iter().any(|(setting, _)| *setting == "oauth.keys");
        control::oauth(options, &dns, events.clone(), is_told)
    });
    let (tokens, oauth) = oauth.unzip();

    let mut service = settings.service_options(allow_plaintext_auth);
    service.tokens = tokens;
    service.relay.client.trust = Arc::new(trust(settings, &events));

    let (ready_sender, ready) = mpsc::channel();
    let plan = Arc::new(Plan {
        service: Arc::new(service),
        queue: state.queue.clone(),
        sites: SiteSlots::new(),
        store: StoreOptions {
            shares: Arc::new(Shares::new(data.layout().partitions)),
            quotas: Arc::new(Quotas::new(
                data.layout().partitions,
                settings.quota_defaults().of_accounts(state.directory.clone()),
            )),
            ..settings.store_options()
        },
        shard_count,
        data,
        directory: state.directory.clone(),
        tls: state.tls.clone(),
        workers,
        signing: Signing::new(state.keys.clone(), signers),
        tls_counts: reporter.as_ref().map(|reporter| reporter.handover()),
        clients: Clients::new(settings.client_limits()),
        names,
        resolver: settings
            .resolver_options(own_addresses(&settings.listen.smtp, settings.queue.port)),
        proxies: settings.proxy_networks().into(),
        events: events.clone(),
        shutdown_timeout: settings.runtime.shutdown_timeout,
    });
    let starts: Vec<_> = sockets
        .listeners
        .into_iter()
        .zip(seats)
        .map(|(listeners, seat)| {
            let (plan, ready) = (plan.clone(), ready_sender.clone());
            move |context| life::live(plan, context, seat, listeners, ready)
        })
        .collect();
    drop(ready_sender);
    let threads = shard::start(shard_options, starts).context("cannot start the shards")?;
    wait_until_open(&ready, shard_count)?;
    let watched = monitor::Watched { dns, reporter: reporter.clone(), oauth, gate: gate.clone() };
    monitor::start(settings, sockets.admin, watched, state.clone(), events.clone())?;
    let _signals = watch_signals(gate, state, events.clone(), writer)?;
    announce()?;
    events.tell(&Event::Ready {});

    for life in threads.join() {
        life.context("a shard ended")??;
    }
    if let Some(reporter) = reporter {
        reporter.save();
    }
    Ok(())
}

/// The authorities that certificates of other servers are checked against.
fn trust(settings: &Settings, events: &EventSender) -> Trust {
    let (trust, problems) = match &settings.queue.ca_file {
        Some(path) => Trust::load(path),
        None => Trust::of_host(),
    };
    let what = match &settings.queue.ca_file {
        Some(path) => format!("queue.ca_file: {}", path.display()),
        None => "the host's certificate authorities".to_owned(),
    };
    // A host without any is usual in containers; it matters only to routes that verify.
    if settings.queue.ca_file.is_some() || !trust.is_empty() {
        problems.iter().for_each(|problem| warn(events, &format!("{what}: {problem}")));
    }
    trust
}

/// The addresses on which we would meet ourselves (RFC 5321 5.1): those where we take mail at the
/// port to which mail is sent.
fn own_addresses(listening: &[SocketAddr], port: u16) -> Vec<IpAddr> {
    let mail = listening.iter().filter(|address| address.port() == port);
    let mut own: Vec<IpAddr> = Vec::new();
    for address in mail {
        match address.ip().is_unspecified() {
            true => own.extend(
                host::addresses().into_iter().filter(|it| it.is_ipv4() == address.is_ipv4()),
            ),
            false => own.push(address.ip()),
        }
    }
    own
}

/// Warnings about addresses of `queue.sources` that this host does not have. They may come later,
/// as on the standby of a pair of hosts.
pub fn absent_sources(settings: &Settings) -> Vec<String> {
    let absent = settings.queue.sources.iter().filter(|it| !host::may_connect_from(**it));
    let told = |address: &IpAddr| {
        format!(
            "queue.sources: {address}: no interface of this host has this address: until one has it, \
             mail that is to leave from it waits; remove it, or give it to an interface"
        )
    };
    absent.map(told).collect()
}

/// Tells the user on the terminal, and the event log.
fn warn(events: &EventSender, text: &str) {
    // The event log has it too, if standard error cannot be written.
    let _ = writeln!(std::io::stderr(), "ringmail: {text}");
    events.tell(&Event::Warning { text });
}

/// The warning if the settings name another number of partitions than the directory has.
pub fn other_partitions(settings: &Settings, layout: Layout) -> Option<String> {
    let (wanted, there) = (settings.store.partitions, layout.partitions);
    (wanted != 0 && wanted != there).then(|| {
        format!(
            "has {there} partition(s), fixed when it was created: store.partitions = {wanted} has no \
             effect"
        )
    })
}

/// The warning if there are shards without a partition: they serve protocols but own no mailbox.
fn idle_shards(partitions: u16, shards: u16) -> Option<String> {
    let idle = shards.checked_sub(partitions).filter(|idle| *idle > 0)?;
    Some(format!(
        "{partitions} partition(s) (fixed when it was created) for {shards} shards: {idle} of them own no \
         mailboxes (tuning/partitions.md)"
    ))
}

/// Resources that the host must grant, checked before anything is changed.
pub fn demand(settings: &Settings) -> Result<Demand> {
    let shards = match settings.runtime.shards {
        0 => u16::try_from(shard::allowed_processors()?.len()).unwrap_or(u16::MAX),
        count => count,
    };
    let options = settings.shard_options();
    Ok(Demand {
        shards,
        io_memory: options.io_memory,
        connections_per_shard: options.limits.connections_max,
        store_files: data_dir::files_wanted(&settings.data_dir, settings.partitions(shards)),
    })
}

/// The files that SIGHUP and the control socket's `reload` read again.
pub struct Reloadable {
    files: DirectoryFiles,
    directory_options: DirectoryOptions,
    directory: Arc<SharedDirectory>,
    key_folder: KeyFolder,
    keys: Arc<SharedKeyring>,
    tls: Option<TlsContexts>,
    tls_files: Option<crate::config::TlsFiles>,
    /// Of the queue for other servers; shards look at it now and then.
    queue: Arc<ArcSwap<QueueOptions>>,
    /// The configuration file; a demo has none.
    source: Option<PathBuf>,
    /// The server's own: settings that only a restart changes.
    data_dir: PathBuf,
    fixed: Said,
    /// What the file said of other settings when it was read last.
    reloaded: ArcSwap<Said>,
    events: EventSender,
}

/// Reads the directory's files: [`DirectorySnapshot::load`] or [`DirectorySnapshot::check`].
type Read = fn(
    &DirectoryFiles,
    &DirectoryOptions,
) -> Result<(DirectorySnapshot, Vec<String>), crate::directory::DirectoryError>;

impl Reloadable {
    /// Also returns the warnings about the files.
    fn load(
        settings: &Settings,
        events: EventSender,
        read: Read,
    ) -> Result<(Reloadable, Vec<String>)> {
        let files = settings.directory_files();
        let directory_options = settings.directory_options();
        let limits = PeerLimits::of_queue(settings.authentication.queue);
        let (snapshot, mut warnings) = read(&files, &directory_options)?;
        warnings.extend(settings.unknown_accounts(&snapshot).into_iter().map(|it| it.1));
        let key_folder = KeyFolder::of(&settings.data_dir);
        let keys = SharedKeyring::new(Keyring::load(&key_folder)?);
        let tls_files = settings.tls.clone();
        let tls = match &tls_files {
            Some(files) => Some(TlsContexts::new(files.load()?)?),
            None => None,
        };
        let reloadable = Reloadable {
            files,
            directory_options,
            directory: SharedDirectory::guarded(snapshot, limits, settings.guard_options()),
            key_folder,
            keys,
            tls,
            tls_files,
            queue: Arc::new(ArcSwap::from_pointee(settings.queue_options())),
            source: settings.source.clone(),
            data_dir: settings.data_dir.clone(),
            fixed: settings.fixed.clone(),
            reloaded: ArcSwap::from_pointee(settings.reloaded.clone()),
            events,
        };
        Ok((reloadable, warnings))
    }

    /// Reads users, aliases, groups, routes and what they name, the queue's settings, keys and
    /// certificates again; on an error the old ones stay in force. Returns the changed settings
    /// that take effect only after a restart.
    pub fn reload(&self) -> Result<Vec<&'static str>> {
        let reloaded = self.read_again();
        match &reloaded {
            Ok(Reread { before, in_force, pending }) => {
                let settings = changes::SettingsChanged { in_force, pending };
                changes::tell(&self.events, before, &self.directory.snapshot(), &settings);
            }
            Err(error) => {
                self.events.tell(&Event::ReloadFailed { reason: &format!("{error:#}") });
            }
        }
        reloaded.map(|reread| reread.pending)
    }

    /// The configuration file as it is now. `None` for a demo, or if only root may read the file:
    /// then what it says stays as it is.
    fn settings_again(&self) -> Result<Option<Settings>> {
        let Some(path) = &self.source else { return Ok(None) };
        match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                let text = format!(
                    "{}: not read again, only the files that it names: {error}; the server's user \
                     must be able to read it",
                    path.display()
                );
                self.events.tell(&Event::Warning { text: &text });
                Ok(None)
            }
            _ => Ok(Some(Settings::load(path)?)),
        }
    }

    fn read_again(&self) -> Result<Reread> {
        let mut settings = self.settings_again()?;
        let (mut pending, mut in_force) = (Vec::new(), Vec::new());
        if let Some(settings) = &mut settings {
            pending = self.fixed.changed(&settings.fixed);
            in_force = self.reloaded.load().changed(&settings.reloaded);
            // Accounts of another data directory are numbered in another way.
            settings.data_dir = self.data_dir.clone();
        }
        let (files, options) = match &settings {
            Some(settings) => (settings.directory_files(), settings.directory_options()),
            None => (self.files.clone(), self.directory_options.clone()),
        };
        let (snapshot, mut warnings) = DirectorySnapshot::load(&files, &options)?;
        if let Some(settings) = &settings {
            let unknown = settings.unknown_accounts(&snapshot);
            warnings.extend(unknown.into_iter().map(|(_, text)| text));
        }
        let keys = Keyring::load(&self.key_folder)?;
        if let (Some(tls), Some(files)) = (&self.tls, &self.tls_files) {
            tls.replace(files.load()?)?;
        }
        self.keys.replace(keys);
        if let Some(settings) = &settings {
            self.queue.store(Arc::new(settings.queue_options()));
            self.reloaded.store(Arc::new(settings.reloaded.clone()));
        }
        for text in &warnings {
            self.events.tell(&Event::Warning { text });
        }
        Ok(Reread { before: self.directory.replace(snapshot), in_force, pending })
    }
}

/// What a reload found.
struct Reread {
    before: Arc<DirectorySnapshot>,
    /// Settings that changed.
    in_force: Vec<&'static str>,
    /// The same of those that need a restart.
    pending: Vec<&'static str>,
}

fn bind_admin(settings: &Settings) -> Result<Vec<std::net::TcpListener>> {
    settings
        .listen
        .admin
        .iter()
        .map(|address| {
            let listener = std::net::TcpListener::bind(address)
                .with_context(|| format!("{address}: cannot listen for admin HTTP"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .collect()
}

/// Root binds the ports and hands over the data directory; everything after runs as `user`, or,
/// without one, as the directory's owner.
fn become_unprivileged(settings: &Settings, demo: bool, events: &EventSender) -> Result<()> {
    if !privilege::is_root() {
        return Ok(());
    }
    let path = &settings.data_dir;
    try_files(settings, events)?;
    let Some(user) = &settings.user else {
        let owner = Folder::make(path, None)
            .with_context(|| format!("{}: cannot create", path.display()))?
            .owner();
        if !owner.uid.is_root() {
            let path = path.display();
            warn(events, &format!("{path}: belongs to user {}: running as that user", owner.uid));
            privilege::become_owner(owner)?;
        } else if !demo {
            warn(events, "running as root permanently: set `user` in the configuration");
        }
        return Ok(());
    };
    let owner = privilege::identity(user, settings.group.as_deref())?;
    Folder::make(path, Some(owner))
        .and_then(|mut folder| folder.give(owner))
        .with_context(|| format!("{}: cannot hand over", path.display()))?;
    privilege::drop_to(user, settings.group.as_deref())?;
    Ok(())
}

/// Reads users and certificate as the final user before the data directory is made. In one that is
/// there, they are read when it has been handed over, since some may be inside.
fn try_files(settings: &Settings, events: &EventSender) -> Result<()> {
    if settings.data_dir.symlink_metadata().is_ok() {
        return Ok(());
    }
    let read = DirectorySnapshot::check;
    let load = || Reloadable::load(settings, events.clone(), read).map(drop);
    match &settings.user {
        Some(user) => {
            privilege::act_as(privilege::identity(user, settings.group.as_deref())?, load)?
        }
        None => load(),
    }
}

/// Waits until every shard has reported that its partitions are open, or why they are not.
fn wait_until_open(ready: &mpsc::Receiver<Result<()>>, shard_count: u16) -> Result<()> {
    for _ in 0..shard_count {
        match ready.recv_timeout(START_TIMEOUT) {
            Ok(outcome) => outcome?,
            Err(_) => bail!("a shard did not start within {} s", START_TIMEOUT.as_secs()),
        }
    }
    Ok(())
}

fn watch_signals(
    gate: MeshGate<Shard>,
    state: Arc<Reloadable>,
    events: EventSender,
    writer: Arc<EventWriter>,
) -> Result<SignalThread> {
    signal::start(move |signal| match signal {
        Signal::Terminate => {
            events.tell(&Event::Stopping {});
            life::begin_shutdown(&gate, &events);
        }
        Signal::Reload => {
            writer.reopen();
            // `reload` reports the result itself.
            let _ = state.reload();
        }
    })
    .context("cannot start the signal thread")
}

/// The line that scripts wait for.
fn announce() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ringmail: ready").and_then(|()| out.flush()).context("standard output")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::directory::{Destination, UsersFile};

    #[test]
    fn shards_without_a_partition_are_told_of() {
        assert_eq!(idle_shards(4, 2), None);
        assert_eq!(idle_shards(2, 2), None);
        assert!(idle_shards(1, 4).unwrap().contains("for 4 shards: 3 of them"));
    }

    #[test]
    fn our_addresses_are_those_at_the_port_to_which_mail_is_sent() {
        let listening: Vec<SocketAddr> = ["127.0.0.2:25", "127.0.0.3:2525", "0.0.0.0:2526"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let own = |port| own_addresses(&listening, port);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(own(25), [address("127.0.0.2")]);
        assert_eq!(own(2525), [address("127.0.0.3")]);
        let all = own(2526);
        assert!(all.contains(&address("127.0.0.1")) && all.iter().all(IpAddr::is_ipv4), "{all:?}");
        assert_eq!(own(465), [] as [IpAddr; 0]);
    }

    #[test]
    fn sources_that_are_not_there_are_told_of() {
        let set = ["queue.sources=[\"127.0.0.7\", \"192.0.2.7\", \"2001:db8::7\"]".to_owned()];
        let settings = Settings::demo(Path::new("d"), 1000, 1, None, &set).unwrap();
        let told = absent_sources(&settings);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("queue.sources: 192.0.2.7: no interface"), "{told:?}");
    }

    #[test]
    fn another_number_of_partitions_is_told_of() {
        let demo = |partitions| {
            let settings = Settings::demo(Path::new("d"), 1000, 1, partitions, &[]).unwrap();
            other_partitions(&settings, Layout { format: 1, partitions: 4 })
        };
        assert_eq!((demo(None), demo(Some(4))), (None, None));
        let told = demo(Some(8)).unwrap();
        assert!(
            told.starts_with("has 4 partition(s)") && told.contains("partitions = 8"),
            "{told}"
        );
    }

    #[test]
    fn a_users_file_that_cannot_be_read_is_not_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file").join("users");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let aliases = folder.path().join("aliases");
        let groups = folder.path().join("groups");
        let (aliases_named, groups_named) = (false, false);
        let files = DirectoryFiles { users: path, aliases, aliases_named, groups, groups_named };
        let error = DirectorySnapshot::load(&files, &DirectoryOptions::default()).err().unwrap();
        assert!(error.to_string().contains("Not a directory"), "{error:#}");
    }

    #[test]
    fn a_reload_with_a_mistake_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::demo(folder.path(), 1000, 1, None, &[]).unwrap();
        let mut settings = Settings { tls: None, ..settings };
        settings.addresses.srs_domain = Some("srs.demo.test".to_owned());
        let aliases = folder.path().join("aliases");
        UsersFile::ensure_demo(&folder.path().join("users"), "demo.test", 0).unwrap();
        std::fs::write(&aliases, "sales: alice\n").unwrap();
        DirectorySnapshot::make_keys(&settings.directory_options().senders).unwrap();
        let (events, _queue) = events::queue(settings.event_options().kinds);
        let (state, warnings) =
            Reloadable::load(&settings, events, DirectorySnapshot::load).unwrap();
        assert!(warnings.is_empty());
        let resolve = |address| state.directory.snapshot().resolve(address);
        let alice = resolve("alice@demo.test");
        assert_eq!(resolve("sales@demo.test"), alice);
        std::fs::write(&aliases, "office: alice\nsales: sales\n").unwrap();
        let error = state.reload().unwrap_err().to_string();
        assert!(error.contains("aliases:2: sales@demo.test leads back to itself"), "{error}");
        assert_eq!(resolve("sales@demo.test"), alice);
        assert_eq!(resolve("office@demo.test"), Destination::UnknownUser);
        std::fs::write(&aliases, "office: alice\n").unwrap();
        assert_eq!(state.reload().unwrap(), [] as [&str; 0]);
        assert_eq!(resolve("office@demo.test"), alice);
        assert_eq!(resolve("sales@demo.test"), Destination::UnknownUser);
        // The same with groups; the other files are not taken alone.
        let groups = folder.path().join("groups");
        let groups_of = |name: &str| state.directory.snapshot().groups_of(name).join(" ");
        std::fs::write(&groups, "staff: $board\nboard: alice\n").unwrap();
        assert_eq!(state.reload().unwrap(), [] as [&str; 0]);
        assert_eq!(groups_of("alice@demo.test"), "board staff");
        std::fs::write(&groups, "staff: bob\nboard: $board\n").unwrap();
        std::fs::write(&aliases, "sales: alice\n").unwrap();
        let error = state.reload().unwrap_err().to_string();
        assert!(error.contains("groups:2: $board is a member of itself"), "{error}");
        assert_eq!(
            (&*groups_of("alice@demo.test"), &*groups_of("bob@demo.test")),
            ("board staff", "")
        );
        assert_eq!(resolve("sales@demo.test"), Destination::UnknownUser);
        std::fs::write(&groups, "staff: bob\n").unwrap();
        assert_eq!(state.reload().unwrap(), [] as [&str; 0]);
        assert_eq!((&*groups_of("alice@demo.test"), &*groups_of("bob@demo.test")), ("", "staff"));
        assert_eq!(resolve("sales@demo.test"), alice);
    }

    /// Also a second time: the server still runs with what it read at its start.
    #[test]
    fn a_reload_names_what_needs_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("t.toml"), folder.path().join("other"));
        let write = |data_dir: &str, more: &str| {
            let text = format!(
                "hostname = \"mx.demo.test\"\ndomains = [\"demo.test\"]\ndata_dir = \"{data_dir}\"\n\
                 listen = {{ submissions = [], pop3s = [], imaps = [] }}\n{more}\n"
            );
            std::fs::write(&path, text).unwrap();
        };
        UsersFile::ensure_demo(&folder.path().join("users"), "demo.test", 0).unwrap();
        std::fs::create_dir(&other).unwrap();
        write(".", "");
        let (events, queue) = events::queue(events::Kind::ALL.into_iter().collect());
        let settings = Settings::load(&path).unwrap();
        let (state, _) = Reloadable::load(&settings, events, DirectorySnapshot::load).unwrap();
        let alice = state.directory.snapshot().resolve("alice@demo.test");
        write("other", "queue = { expire = \"1d\", port = 26 }\nstore.reserve = \"9MiB\"");
        for _ in 0..2 {
            assert_eq!(state.reload().unwrap(), ["data_dir", "store.reserve", "queue.port"]);
        }
        assert_eq!(state.queue.load().expire, Duration::from_secs(24 * 3600));
        assert_eq!(state.directory.snapshot().resolve("alice@demo.test"), alice);
        let mut lines = Vec::new();
        while let Some(chunk) = queue.next(Duration::ZERO) {
            lines.extend(chunk.lines);
        }
        let lines = String::from_utf8(lines).unwrap();
        let told = "\"needs_restart\":\"data_dir, store.reserve, queue.port\"}";
        assert_eq!(lines.matches(told).count(), 2, "{lines}");
        // What is in force is told when it changes.
        let told = "\"settings\":\"queue.expire\",";
        assert_eq!(lines.matches(told).count(), 1, "{lines}");
        write(".", "");
        assert_eq!(state.reload().unwrap(), [] as [&str; 0]);
    }
}
