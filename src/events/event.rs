//! All events. [`Event`], the names and fields of its lines and the list in docs/operations.md
//! (`tests/documentation.rs`) are generated from or checked against the table below.

use std::net::IpAddr;

use super::line::Line;
use crate::{
    metrics::Protocol,
    model::{AccountId, MailboxId, Network, PartitionId, Timestamp, Trail, Uid},
};

/// The kind of an event; each kind is turned on and off by a setting `events.<name>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The server itself: starts, ends, warnings. Always on.
    Server,
    Connections,
    Logins,
    Messages,
    Deliveries,
    Administration,
    Storage,
    Limits,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Server,
        Kind::Connections,
        Kind::Logins,
        Kind::Messages,
        Kind::Deliveries,
        Kind::Administration,
        Kind::Storage,
        Kind::Limits,
    ];

    /// The name of the setting; `server` has none.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Server => "server",
            Kind::Connections => "connections",
            Kind::Logins => "logins",
            Kind::Messages => "messages",
            Kind::Deliveries => "deliveries",
            Kind::Administration => "administration",
            Kind::Storage => "storage",
            Kind::Limits => "limits",
        }
    }

    /// Whether events of this kind are frequent and therefore go to the writer in batches.
    pub(super) fn is_frequent(self) -> bool {
        matches!(self, Kind::Connections | Kind::Logins | Kind::Messages | Kind::Deliveries)
    }
}

/// The kinds that are on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kinds(u8);

impl Kinds {
    pub const NONE: Kinds = Kinds(0);

    #[must_use]
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind as u8)
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Kinds {
        kinds.into_iter().fold(Kinds::NONE, Kinds::with)
    }
}

/// A limit that clients met, for [`Event::Limit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// `runtime.connections_per_shard`.
    ConnectionsPerShard,
    /// From `limits`: connections, unauthenticated ones, or new ones, of an address or network.
    ConnectionsOfClient,
    StrangersOfClient,
    NewConnectionsOfClient,
    /// `runtime.buffers_per_shard`: connections closed to free memory.
    Buffers,
    /// `intake.memory_per_shard`: messages refused.
    MessageMemory,
    /// `runtime.lag_max`: mail put off.
    Lag,
    /// `authentication.queue`: log-ins refused.
    AuthenticationQueue,
    /// `imap.sessions_per_account`.
    SessionsOfAccount,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Limit::ConnectionsPerShard => "connections_per_shard",
            Limit::ConnectionsOfClient => "connections_of_client",
            Limit::StrangersOfClient => "strangers_of_client",
            Limit::NewConnectionsOfClient => "new_connections_of_client",
            Limit::Buffers => "buffers_per_shard",
            Limit::MessageMemory => "message_memory_per_shard",
            Limit::Lag => "lag",
            Limit::AuthenticationQueue => "authentication_queue",
            Limit::SessionsOfAccount => "sessions_of_account",
        }
    }
}

/// One row of the table of events.
#[derive(Debug)]
pub struct EventRow {
    /// The value of the field `event`.
    pub name: &'static str,
    pub kind: Kind,
    /// In the order of the line. A field without a value is left out.
    pub fields: &'static [&'static str],
}

macro_rules! events {
    ($(
        $(#[doc = $doc:literal])*
        $kind:ident / $name:literal / $event:ident { $($field:ident: $type:ty,)* }
    )*) => {
        /// Something that happened. It borrows its values and is rendered at once.
        #[derive(Clone, Copy, Debug)]
        pub enum Event<'a> {
            $( $(#[doc = $doc])* $event { $($field: $type,)* }, )*
        }

        /// Every event, in the order of docs/operations.md.
        pub const EVENTS: &[EventRow] = &[
            $( EventRow { name: $name, kind: Kind::$kind, fields: &[$(stringify!($field)),*] }, )*
        ];

        impl Event<'_> {
            pub fn kind(&self) -> Kind {
                match self {
                    $( Event::$event { .. } => Kind::$kind, )*
                }
            }

            /// Appends the event as a line.
            pub(super) fn append_to(&self, out: &mut Vec<u8>, time: Timestamp, shard: Option<u16>) {
                match self {
                    $( Event::$event { $($field,)* } => {
                        let mut line = Line::begin(out, time, $name);
                        line.field("shard", &shard.map(u64::from));
                        $( line.field(stringify!($field), $field); )*
                        line.end();
                    } )*
                }
            }
        }
    };
}

events! {
    /// The server started; its partitions are not open yet.
    Server / "start" / Start {
        version: &'a str, pid: u64, shards: u64, partitions: u64, data_dir: &'a str,
    }
    /// Every port is listening.
    Server / "ready" / Ready {}
    /// A message to the operator, in words.
    Server / "warning" / Warning { text: &'a str, }
    /// SIGTERM or SIGINT came: commands in progress are being finished.
    Server / "stopping" / Stopping {}
    /// All shards ended; `clean` if all partitions were closed.
    Server / "stop" / Stop { clean: bool, }
    /// Events that did not fit in the queue or could not be written since the last such line.
    Server / "dropped" / Dropped { count: u64, }
    /// The file was reopened on SIGHUP.
    Server / "reopened" / Reopened {}

    /// A connection from a network of `listen.proxy_networks` did not begin with a valid PROXY
    /// header, and was closed.
    Server / "proxy_refused" / ProxyRefused {
        trail: Trail, protocol: Protocol, peer: IpAddr, reason: &'a str,
    }

    /// A client connected.
    Connections / "connected" / Connected {
        trail: Trail, protocol: Protocol, peer: IpAddr, local: IpAddr, tls: bool,
    }
    /// The client disconnected, or was disconnected.
    Connections / "disconnected" / Disconnected { trail: Trail, protocol: Protocol, peer: IpAddr, }

    /// A trusted peer, `by`, told by PROXY or XCLIENT for which client it acts: from now on `peer`
    /// is that client. `local` and `port` are where it connected to, if that was told.
    Connections / "proxied" / Proxied {
        trail: Trail, protocol: Protocol, by: IpAddr, peer: IpAddr, local: Option<IpAddr>,
        port: Option<u64>,
    }

    /// A password was right, or a trusted peer said so by XCLIENT.
    Logins / "login" / LogIn {
        trail: Trail, protocol: Protocol, peer: IpAddr, tls: bool, account: AccountId,
        address: &'a str, app_password: Option<&'a str>,
        master: Option<&'a str>,
    }
    /// A log-in was refused. `name` is what the client sent, and may be anything.
    Logins / "login_refused" / LogInRefused {
        trail: Trail, protocol: Protocol, peer: IpAddr, tls: bool, name: &'a str,
        reason: &'static str, means: &'static str, detail: Option<&'a str>,
    }
    /// A client showed a certificate that does not count, and the TLS handshake failed.
    Logins / "certificate_refused" / CertificateRefused {
        trail: Trail, protocol: Protocol, peer: IpAddr, reason: &'a str,
    }
    /// From now on log-ins are delayed: to an account from a network, or, without `name`, all from
    /// a network.
    Logins / "login_held_back" / LogInHeldBack {
        name: Option<&'a str>, network: Network, failures: u64, milliseconds: Option<u64>,
    }
    /// Further `login_held_back` events that came too fast to be listed.
    Logins / "logins_held_back" / LogInsHeldBack { count: u64, }

    /// A message was accepted, and the client has the reply.
    Messages / "message" / Message {
        trail: Trail, id: &'a str, protocol: Protocol, peer: IpAddr, client: &'a str, tls: bool,
        from: &'a str, to: Option<&'a str>, recipients: u64, octets: u64,
        account: Option<AccountId>,
    }
    /// A message was refused after its content.
    Messages / "message_refused" / MessageRefused {
        trail: Trail, protocol: Protocol, peer: IpAddr, client: &'a str, tls: bool, from: &'a str,
        to: Option<&'a str>, recipients: u64, octets: u64, account: Option<AccountId>,
        reply: &'a str,
    }
    /// A recipient was refused.
    Messages / "recipient_refused" / RecipientRefused {
        trail: Trail, protocol: Protocol, peer: IpAddr, client: &'a str, from: &'a str, to: &'a str,
        reply: &'a str,
    }
    /// APPEND put a message into a mailbox.
    Messages / "appended" / Appended {
        trail: Trail, account: AccountId, mailbox: MailboxId, uid: Uid, octets: u64,
    }

    /// A message is in a mailbox, durably.
    Deliveries / "delivered" / Delivered {
        trail: Option<Trail>, delivery: Option<u128>, partition: PartitionId, account: AccountId,
        mailbox: MailboxId, uid: Uid, octets: u64,
    }
    /// A partition did not store a message for an account; the client gets an error, or the queue
    /// retries.
    Deliveries / "delivery_failed" / DeliveryFailed {
        trail: Option<Trail>, delivery: Option<u128>, partition: PartitionId, account: AccountId,
        reason: &'static str,
    }
    /// Some accounts did not get a message that was accepted: it waits in the queue of a partition.
    Deliveries / "queued" / Queued {
        trail: Option<Trail>, delivery: u128, partition: PartitionId, accounts: &'a [AccountId],
        count: u64,
    }
    /// All of these accounts have the message.
    Deliveries / "dequeued" / Dequeued { delivery: u128, partition: PartitionId, }
    /// Accounts that will not get a message before the next start tries again.
    Deliveries / "given_up" / GivenUp {
        delivery: u128, partition: PartitionId, accounts: &'a [AccountId], count: u64,
        reason: &'static str,
    }

    /// A message is in the queue for other servers, durably. `queue` is its name there.
    Deliveries / "enqueued" / Enqueued {
        trail: &'a str, id: &'a str, queue: &'a str, origin: &'static str, from: &'a str,
        recipients: u64, octets: u64,
    }
    /// An attempt to deliver a queued message to a recipient ended: `sent`, `deferred` or `failed`.
    Deliveries / "attempt" / Attempted {
        trail: &'a str, id: &'a str, queue: &'a str, to: &'a str, result: &'static str,
        host: Option<&'a str>, tls: Option<&'a str>, status: &'a str, reply: &'a str,
    }
    /// TLS with another host failed, and what is known of it allows to go on with any certificate,
    /// or without TLS.
    Deliveries / "tls_failed" / TlsFailed { host: &'a str, address: IpAddr, reason: &'a str, }
    /// All recipients of a queued message are done with.
    Deliveries / "left_queue" / LeftQueue { trail: &'a str, id: &'a str, queue: &'a str, }
    /// A report about a queued message was put into the queue, as `report`.
    Deliveries / "reported" / Reported { queue: &'a str, report: &'a str, }
    /// No connection to a site could be opened.
    Deliveries / "site_down" / SiteDown { site: &'a str, reason: &'a str, }
    /// Another MTA-STS policy than before is in force for a domain.
    Deliveries / "sts_policy_changed" / StsPolicyChanged {
        domain: &'a str, id: &'a str, before: &'static str, mode: &'static str,
    }
    /// The MTA-STS policy that a domain announces could not be fetched. `kept`: one from before is
    /// in force.
    Deliveries / "sts_policy_failed" / StsPolicyFailed {
        domain: &'a str, id: &'a str, reason: &'a str, kept: bool,
    }
    /// A report on TLS to a domain (RFC 8460): `queued` as mail, `sent` by HTTPS, `deferred` or
    /// `dropped`.
    Deliveries / "tls_report" / TlsReport {
        domain: &'a str, report: &'a str, to: Option<&'a str>, result: &'static str,
        reason: Option<&'a str>, successes: u64, failures: u64,
    }
    /// The envelope of a queued message cannot be read: it stays and is not tried.
    Storage / "queue_unreadable" / QueueUnreadable { queue: &'a str, }

    /// A request on the control socket, by `ringmail user`, `queue` and others. `uid` and `pid` are
    /// those of the caller.
    Administration / "control" / Control { request: &'a str, uid: Option<u64>, pid: Option<u64>, }
    /// The configuration, users and certificates were read again. `settings`: those that changed,
    /// and `needs_restart` those of them that a reload leaves as they are.
    Administration / "reloaded" / Reloaded {
        users: u64, added: u64, removed: u64, renamed: u64, changed: u64, aliases: u64, groups: u64,
        settings: Option<&'a str>, needs_restart: Option<&'a str>,
    }
    /// Reading them again failed; the old ones stay in force.
    Administration / "reload_failed" / ReloadFailed { reason: &'a str, }
    /// A reload added an account.
    Administration / "user_added" / UserAdded { account: AccountId, address: &'a str, }
    Administration / "user_removed" / UserRemoved { account: AccountId, address: &'a str, }
    /// A reload gave an account another address; `before`: the one that it had.
    Administration / "user_renamed" / UserRenamed {
        account: AccountId, address: &'a str, before: &'a str,
    }
    /// A reload changed an account's password, keys or application passwords.
    Administration / "user_changed" / UserChanged { account: AccountId, address: &'a str, }
    /// The access list of a mailbox was changed, by `cause`: `user`, over IMAP; `operator`, with
    /// the uid of the caller; `account_removed`. Without `account` the mailbox is a public one.
    Administration / "access_changed" / AccessChanged {
        trail: Option<Trail>, cause: &'static str, user: Option<&'a str>, operator: Option<u64>,
        account: Option<AccountId>, mailbox: MailboxId, name: &'a str, identifier: &'a str,
        before: &'a str, after: &'a str,
    }
    /// Whose `\Seen` is in a mailbox was changed, by `ringmail acl`: `personal`, each user's own,
    /// or `shared`. Without `account` the mailbox is a public one.
    Administration / "seen_changed" / SeenChanged {
        operator: Option<u64>, account: Option<AccountId>, mailbox: MailboxId, name: &'a str,
        before: &'static str, after: &'static str,
    }
    /// The limits of an account were set, or taken away, as by SETQUOTA. Without `account` they are
    /// those of the public mailboxes.
    Administration / "quota_changed" / QuotaChanged {
        trail: Option<Trail>, cause: &'static str, user: Option<&'a str>, operator: Option<u64>,
        account: Option<AccountId>, before: &'a str, after: &'a str,
    }
    /// An account that got mail uses `quota.warn_at` of its quota or more. Told again once it has
    /// had less in between, and after a start.
    Limits / "quota_nearly_full" / QuotaNearlyFull {
        account: AccountId, percent: u64, octets: u64, octets_max: u64, messages: u64,
        messages_max: u64,
    }
    /// A public mailbox was created.
    Administration / "public_mailbox_created" / PublicMailboxCreated {
        trail: Option<Trail>, cause: &'static str, user: Option<&'a str>, operator: Option<u64>,
        name: &'a str,
    }
    /// A public mailbox was deleted, with its messages.
    Administration / "public_mailbox_deleted" / PublicMailboxDeleted {
        trail: Option<Trail>, cause: &'static str, user: Option<&'a str>, operator: Option<u64>,
        name: &'a str,
    }
    /// A public mailbox got a new name, and those below it with it.
    Administration / "public_mailbox_renamed" / PublicMailboxRenamed {
        trail: Option<Trail>, cause: &'static str, user: Option<&'a str>, operator: Option<u64>,
        name: &'a str, before: &'a str,
    }
    /// `verify` finished a partition.
    Administration / "verified" / Verified { partition: PartitionId, repair: bool, findings: u64, }

    /// Octets on disk are not as they were written.
    Storage / "damage" / Damage {
        partition: PartitionId, segment: &'a str, offset: u64, account: Option<AccountId>,
        what: &'a str,
    }
    /// A partition takes no new mail; reading and deleting go on.
    Storage / "partition_refuses_mail" / PartitionRefusesMail {
        partition: PartitionId, reason: &'a str,
    }
    /// The partition takes mail again.
    Storage / "partition_takes_mail" / PartitionTakesMail { partition: PartitionId, }

    /// Clients met a limit `count` times within a second; `peer` is the last such client.
    Limits / "limit" / LimitMet { limit: &'static str, count: u64, peer: Option<IpAddr>, }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<&str> = EVENTS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), EVENTS.len());
        for row in EVENTS {
            let fields: BTreeSet<&str> = row.fields.iter().copied().collect();
            assert_eq!(fields.len(), row.fields.len(), "{}", row.name);
            assert!(!["time", "event", "shard"].iter().any(|name| fields.contains(name)));
        }
    }

    #[test]
    fn kinds() {
        for kind in Kind::ALL {
            let kinds: Kinds = Kind::ALL.into_iter().filter(|other| *other != kind).collect();
            assert!(Kind::ALL.into_iter().all(|other| kinds.has(other) == (other != kind)));
        }
    }

    #[test]
    fn an_event_is_a_line_of_its_fields() {
        let mut out = Vec::new();
        let event = Event::LogInRefused {
            trail: Trail { run: 1, shard: 0, connection: 2, message: 0 },
            protocol: Protocol::Imap,
            peer: IpAddr::from([192, 0, 2, 7]),
            tls: true,
            name: "a\r\nb",
            reason: "wrong",
            means: "token",
            detail: Some("it has expired"),
        };
        event.append_to(&mut out, Timestamp(0), Some(3));
        let text = String::from_utf8(out).unwrap();
        let expected = concat!(
            r#"{"time":"1970-01-01T00:00:00.000000Z","event":"login_refused","shard":3,"trail":"1-0-2","#,
            r#""protocol":"imap","peer":"192.0.2.7","tls":true,"name":"a\r\nb","reason":"wrong","#,
            r#""means":"token","detail":"it has expired"}"#,
            "\n"
        );
        assert_eq!(text, expected);
        assert_eq!(event.kind(), Kind::Logins);
    }
}
