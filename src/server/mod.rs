//! Puts a server together and runs it: data directory, users, certificates, listeners, shards,
//! control thread. `ringmail demo` and `ringmail serve` differ only in the settings they bring.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod data_dir;
pub mod examine;

mod blocks;
mod life;
mod listeners;
mod monitor;
mod sessions;

use std::{
    io::Write,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use anyhow::{Context, Result, bail};

pub use self::listeners::probe_ports;

use self::{data_dir::DataDirectory, life::Plan};
use crate::{
    config::Settings,
    directory::{DirectorySnapshot, PeerLimits, SharedDirectory, UsersFile},
    runtime::{
        clients::Clients,
        folder::Folder,
        host::{self, Demand},
        mesh::{self, MeshGate},
        privilege, shard,
        signal::{self, Signal, SignalThread},
        tls::{Certificate, TlsContext},
        worker::WorkerPool,
    },
    service::Shard,
};

/// How long opening the partitions may take before the start is given up: replay is bounded by
/// the checkpoint interval, so longer means a disk that does not answer.
const START_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs until SIGTERM or SIGINT. Prints `ringmail: ready` once every port listens.
/// `allow_plaintext_auth`: log-ins without TLS (the demo).
pub fn run(settings: Settings, allow_plaintext_auth: bool) -> Result<()> {
    if !settings.process.core_dumps {
        host::forbid_core_dumps().context("cannot turn core dumps off")?;
    }
    let demand = demand(&settings)?;
    let shard_count = demand.shards;
    let mut shard_options = settings.shard_options();
    let granted = host::probe(demand)?;
    granted.warnings.iter().for_each(|warning| eprintln!("ringmail: {warning}"));
    shard_options.limits.connections_max = granted.connections_per_shard;
    let listeners = listeners::bind(&settings.listen, shard_count, settings.runtime.backlog)?;
    let admin = bind_admin(&settings)?;
    become_unprivileged(&settings, allow_plaintext_auth)?;

    let partitions = settings.partitions(shard_count);
    let data = Arc::new(DataDirectory::open(&settings.data_dir, partitions)?);
    if let Some(warning) = idle_shards(data.layout().partitions, shard_count) {
        eprintln!("ringmail: {}: {warning}", data.path().display());
    }
    let state = Arc::new(Reloadable::load(&settings)?);
    let worker_count =
        NonZero::new(settings.authentication.workers).unwrap_or(NonZero::<usize>::MIN);
    let workers = WorkerPool::start("password", worker_count, settings.authentication.queue)?;

    let (ready_sender, ready) = mpsc::channel();
    let (seats, gate) = mesh::build::<Shard>(shard_count);
    let plan = Arc::new(Plan {
        service: Arc::new(settings.service_options(allow_plaintext_auth)),
        store: settings.store_options(),
        shard_count,
        data: data.clone(),
        directory: state.directory.clone(),
        tls: state.tls.clone(),
        workers,
        clients: Clients::new(settings.client_limits()),
        shutdown_timeout: settings.runtime.shutdown_timeout,
    });
    let starts: Vec<_> = listeners
        .into_iter()
        .zip(seats)
        .map(|(listeners, seat)| {
            let (plan, ready) = (plan.clone(), ready_sender.clone());
            move |context| life::live(plan, context, seat, listeners, ready)
        })
        .collect();
    drop(ready_sender);
    let threads = shard::start(&shard_options, starts).context("cannot start the shards")?;
    wait_until_open(&ready, shard_count)?;
    monitor::start(&settings, admin, gate.clone(), state.clone())?;
    blocks::start_telling(&state.directory).context("cannot start the thread for events")?;
    let _signals = watch_signals(gate, state)?;
    announce()?;

    for life in threads.join() {
        life.context("a shard ended")??;
    }
    Ok(())
}

/// What to say when there are shards without a partition: they speak protocols and own no mailbox.
fn idle_shards(partitions: u16, shards: u16) -> Option<String> {
    let idle = shards.checked_sub(partitions).filter(|idle| *idle > 0)?;
    Some(format!(
        "{partitions} partition(s), fixed when it was made, for {shards} shards: {idle} of them own no \
         mailboxes (tuning/partitions.md)"
    ))
}

/// What the host must grant, before anything is touched.
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

/// What SIGHUP and the control socket's `reload` read again.
pub struct Reloadable {
    users_path: PathBuf,
    directory_options: crate::directory::DirectoryOptions,
    directory: Arc<SharedDirectory>,
    tls: Option<Arc<TlsContext>>,
    tls_files: Option<crate::config::TlsFiles>,
}

impl Reloadable {
    fn load(settings: &Settings) -> Result<Reloadable> {
        let users_path = settings.users_path();
        let directory_options = settings.directory_options();
        let limits = PeerLimits {
            waiting_max: settings.authentication.queue,
            waiting_per_peer_max: settings.authentication.queue.div_ceil(4).max(1),
        };
        let snapshot = read_users(&users_path, &directory_options)?;
        let tls_files = settings.tls.clone();
        let tls = match &tls_files {
            Some(files) => {
                Some(TlsContext::new(Certificate::load(&files.certificate, &files.key)?)?)
            }
            None => None,
        };
        Ok(Reloadable {
            users_path,
            directory_options,
            directory: SharedDirectory::guarded(snapshot, limits, settings.guard_options()),
            tls,
            tls_files,
        })
    }

    /// Users and certificates as they are on disk now; on error the old ones stay in force.
    pub fn reload(&self) -> Result<()> {
        let snapshot = read_users(&self.users_path, &self.directory_options)?;
        if let (Some(tls), Some(files)) = (&self.tls, &self.tls_files) {
            tls.replace(Certificate::load(&files.certificate, &files.key)?)?;
        }
        self.directory.replace(snapshot);
        Ok(())
    }
}

/// An absent users file is an empty one: accounts come with `ringmail user add`.
fn read_users(
    path: &Path,
    options: &crate::directory::DirectoryOptions,
) -> Result<DirectorySnapshot> {
    let file = match UsersFile::load(path) {
        // Only this: with no accounts for another reason all mail would be refused for good.
        Err(error) if error.is_absence() => UsersFile::new(),
        file => file?,
    };
    DirectorySnapshot::new(&file, options)
        .with_context(|| format!("{}: no account for postmaster", path.display()))
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
fn become_unprivileged(settings: &Settings, demo: bool) -> Result<()> {
    if !privilege::is_root() {
        return Ok(());
    }
    let path = &settings.data_dir;
    let Some(user) = &settings.user else {
        let owner = Folder::make(path, None)
            .with_context(|| format!("{}: cannot create", path.display()))?
            .owner();
        if !owner.uid.is_root() {
            eprintln!(
                "ringmail: {}: belongs to user {}: running as that",
                path.display(),
                owner.uid
            );
            privilege::become_owner(owner)?;
        } else if !demo {
            eprintln!("ringmail: running as root for good: set `user` in the configuration");
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

/// Every shard says that its partitions are open, or why they are not.
fn wait_until_open(ready: &mpsc::Receiver<Result<()>>, shard_count: u16) -> Result<()> {
    for _ in 0..shard_count {
        match ready.recv_timeout(START_TIMEOUT) {
            Ok(outcome) => outcome?,
            Err(_) => bail!("a shard did not start within {} s", START_TIMEOUT.as_secs()),
        }
    }
    Ok(())
}

fn watch_signals(gate: MeshGate<Shard>, state: Arc<Reloadable>) -> Result<SignalThread> {
    signal::start(move |signal| match signal {
        Signal::Terminate => {
            eprintln!("ringmail: finishing what is in flight");
            life::begin_shutdown(&gate);
        }
        Signal::Reload => match state.reload() {
            Ok(()) => eprintln!("ringmail: users and certificates read again"),
            Err(error) => eprintln!("ringmail: reload: {error:#}; the old ones stay"),
        },
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
    use super::*;

    #[test]
    fn shards_without_a_partition_are_told_of() {
        assert_eq!(idle_shards(4, 2), None);
        assert_eq!(idle_shards(2, 2), None);
        assert!(idle_shards(1, 4).unwrap().contains("for 4 shards: 3 of them"));
    }

    #[test]
    fn a_users_file_that_cannot_be_read_is_not_an_absent_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file").join("users");
        std::fs::write(folder.path().join("file"), "").unwrap();
        let options = crate::directory::DirectoryOptions::default();
        let error = read_users(&path, &options).err().unwrap();
        assert!(error.to_string().contains("Not a directory"), "{error:#}");
    }
}
