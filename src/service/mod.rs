//! What is wanted: one session loop per protocol, over store, directory and runtime.

use std::{
    cell::{Cell, OnceCell},
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use budget::MessageBudget;

use crate::{
    directory::{Directory, Tokens},
    events::{Event, ShardEvents},
    metrics::ShardMetrics,
    model::{AccountId, PartitionId, ShardId},
    queue::{Queue, QueueOptions, SiteSlots},
    resolver::Resolver,
    runtime::{
        client_certificate::CertificateName,
        connect::Sockets,
        executor::{Executor, Priority},
        latest::Teller,
        mesh::Mesh,
    },
    store::{Partition, Quotas, Shares, StoreError},
};

pub mod access;
pub mod authentication;
pub mod budget;
pub mod channel;
pub mod delivery;
pub mod handover;
pub mod imap;
pub mod intake;
pub mod load;
pub mod pop3;
pub mod quota;
pub mod relay;
mod signed_text;
pub mod signing;
pub mod smtp;
pub mod transfer;

/// The state for all sessions on one shard. Shard-local; sessions hold it by `Rc`.
pub struct Shard {
    pub id: ShardId,
    pub options: Arc<ServiceOptions>,
    pub executor: Rc<dyn Executor>,
    pub mesh: Mesh<Shard>,
    pub directory: Directory,
    pub metrics: Rc<ShardMetrics>,
    /// Events for the operator.
    pub events: ShardEvents,
    /// How busy it is.
    pub load: load::Load,
    /// Memory of messages being received.
    pub messages: Rc<MessageBudget>,
    /// By partition number; `None` if another shard is the owner.
    pub partitions: Vec<Option<Partition>>,
    /// Owner shard of each partition.
    pub owners: Vec<ShardId>,
    pub deliveries: delivery::Deliveries,
    /// Moves to and from other partitions.
    pub transfers: transfer::Transfers,
    /// Mail for other servers; set when the shard starts ([`relay::start`]).
    pub relay: OnceCell<Queue<relay::Relay>>,
    /// What becomes of the TLS of sessions with other servers.
    pub tls_counts: relay::TlsCounts,
    /// Policy decisions on clients and mail.
    pub policy: Rc<dyn smtp::Policy>,
    pub imap_seats: imap::AccountSeats,
    /// Tells sessions that accounts or groups may have changed ([`access::follow_accounts`]): how
    /// often they did.
    pub reloads: Teller<u64>,
    /// Mailboxes of other shards that sessions have selected.
    pub leases: imap::Leases,
    /// Accounts of other shards that sessions follow.
    pub follows: imap::Follows,
    /// The keys of our domains.
    pub signing: signing::Signing,
    /// What is shared with whom, on all shards.
    pub shares: Arc<Shares>,
    /// The limits of all accounts, on all shards.
    pub quotas: Arc<Quotas>,
    /// Accounts here whose mail is near its limits, as the operator was told.
    pub nearly_full: quota::NearlyFull,
    /// Other mail servers, by the DNS.
    pub resolver: Resolver,
    /// Sessions end at their next command boundary once this is set.
    pub shutting_down: Cell<bool>,
}

impl Shard {
    pub fn partition_of(&self, account: AccountId) -> PartitionId {
        account.partition(self.partitions.len() as u16)
    }

    pub fn owner_of(&self, account: AccountId) -> ShardId {
        self.owners[usize::from(self.partition_of(account).0)]
    }

    /// The account's partition if this shard owns it.
    pub fn local_partition(&self, account: AccountId) -> Option<&Partition> {
        self.partitions[usize::from(self.partition_of(account).0)].as_ref()
    }

    /// The queue for other servers. Before [`relay::start`] it is one that sends nothing.
    pub fn relay(&self) -> &Queue<relay::Relay> {
        self.relay.get_or_init(|| {
            let relay = relay::Relay::new(Weak::new(), Rc::new(Sockets));
            let partitions = self.partitions.clone();
            let seat = SiteSlots::new().seat(self.id);
            Queue::new(self.executor.clone(), relay, QueueOptions::default(), partitions, seat)
        })
    }

    /// Reports an event to the operator; never waits.
    pub fn tell(&self, event: &Event<'_>) {
        if self.events.wants(event.kind()) {
            self.events.tell(event, self.executor.now());
        }
    }

    /// Runs `work`, which reads from `partition`, for a client that waits no longer than the disk
    /// may take to answer. After that it continues without the client, and the next reader finds
    /// its results in memory.
    ///
    /// # Errors
    /// `NotAnswering`, and those of `work`.
    async fn in_time<T, E, W>(&self, partition: &Partition, work: W) -> Result<T, E>
    where
        T: 'static,
        E: From<StoreError> + 'static,
        W: Future<Output = Result<T, E>> + 'static,
    {
        let mut work = Box::pin(work);
        let wait = async {
            self.executor.sleep(partition.disk_timeout()).await;
            None
        };
        let done = futures_lite::future::or(async { Some(work.as_mut().await) }, wait).await;
        done.unwrap_or_else(|| {
            self.executor.spawn(Priority::Foreground, Box::pin(async move { drop(work.await) }));
            Err(StoreError::NotAnswering.into())
        })
    }
}

/// Settings shared by all services; each protocol's own settings are in its folder.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// Our name in greetings and Received headers.
    pub hostname: String,
    /// AUTH and LOGIN without TLS: true in demo only.
    pub allow_plaintext_auth: bool,
    /// LMTP clients must log in.
    pub lmtp_auth: bool,
    /// What names an account in the certificate of a client.
    pub certificate_name: CertificateName,
    /// Who judges bearer tokens, if any are taken.
    pub tokens: Option<Arc<Tokens>>,
    pub smtp: smtp::SmtpOptions,
    pub pop3: pop3::Pop3Options,
    pub imap: imap::ImapOptions,
    pub intake: intake::IntakeOptions,
    pub quota: quota::QuotaOptions,
    pub relay: relay::RelayOptions,
    /// How far behind a shard may be before it puts mail off; zero: as far as it likes.
    pub lag_max: Duration,
    /// How long a peer may take to read our output.
    pub write_timeout: Duration,
    pub tls_handshake_timeout: Duration,
}

impl Default for ServiceOptions {
    fn default() -> ServiceOptions {
        ServiceOptions {
            hostname: "localhost".to_owned(),
            allow_plaintext_auth: false,
            lmtp_auth: false,
            certificate_name: CertificateName::default(),
            tokens: None,
            smtp: Default::default(),
            pop3: Default::default(),
            imap: Default::default(),
            intake: Default::default(),
            quota: Default::default(),
            relay: Default::default(),
            lag_max: Duration::from_secs(1),
            write_timeout: Duration::from_secs(300),
            tls_handshake_timeout: Duration::from_secs(30),
        }
    }
}
