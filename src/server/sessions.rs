//! What a listener's connections become: a session of their protocol, its handover to the shard
//! that owns the account, or a refusal. A session counts as a connection of its shard, and after a
//! handover as one of the owner's (`service/channel.rs`).

use std::{net::IpAddr, rc::Rc};

use super::listeners::Service;
use crate::{
    events::{Event, Kind, Limit},
    metrics::Protocol,
    model::Trail,
    protocol::proxy::{self, Header},
    runtime::{
        LocalFuture,
        acceptor::{Admission, Entrance},
        clients::Excess,
        connection::{Connection, ConnectionError},
    },
    service::{
        Shard,
        handover::hand_over,
        imap::{self, ImapHandover},
        pop3::{self, Pop3Handover},
        smtp::{self, ListenerKind},
    },
};

/// Creates the session of each connection that a listener of `service` accepts.
pub(super) fn sessions(
    shard: Rc<Shard>,
    service: Service,
    entrance: Rc<Entrance>,
) -> Rc<dyn Fn(Connection, Admission) -> LocalFuture<'static, ()>> {
    Rc::new(move |mut connection, admission| {
        let shard = shard.clone();
        connection.set_trail(shard.events.next_trail());
        match admission {
            Admission::Proxied => Box::pin(proxied(connection, shard, service, entrance.clone())),
            _ => admitted(connection, shard, service, admission),
        }
    })
}

/// The session of a connection that is admitted or not.
fn admitted(
    connection: Connection,
    shard: Rc<Shard>,
    service: Service,
    admission: Admission,
) -> LocalFuture<'static, ()> {
    if admission != Admission::Admitted {
        return Box::pin(refuse(connection, shard, service, admission));
    }
    match service {
        Service::Smtp => Box::pin(smtp_session(connection, shard, ListenerKind::Smtp)),
        Service::Submission => Box::pin(smtp_session(connection, shard, ListenerKind::Submission)),
        Service::Submissions => {
            Box::pin(smtp_session(connection, shard, ListenerKind::Submissions))
        }
        Service::Lmtp => Box::pin(smtp_session(connection, shard, ListenerKind::Lmtp)),
        Service::Pop3 | Service::Pop3s => Box::pin(pop3_session(connection, shard)),
        Service::Imap | Service::Imaps => Box::pin(imap_session(connection, shard)),
    }
}

/// The session of a proxy's connection. As small as [`smtp_session`]: what reads the header is gone
/// when the session begins.
fn proxied(
    connection: Connection,
    shard: Rc<Shard>,
    service: Service,
    entrance: Rc<Entrance>,
) -> impl Future<Output = ()> {
    let entering = Box::pin(enter(connection, shard, service, entrance));
    async move {
        let session = entering.await;
        if let Some(session) = session {
            session.await;
        }
    }
}

/// Reads the header of a proxy, in the clear, and begins the session of the client that it names.
/// Without a valid header the connection is closed without a reply, since it is not known which
/// protocol the peer speaks.
async fn enter(
    mut connection: Connection,
    shard: Rc<Shard>,
    service: Service,
    entrance: Rc<Entrance>,
) -> Option<LocalFuture<'static, ()>> {
    let client = match read_header(&mut connection, &shard).await {
        Ok(Header::Proxied { client, destination }) => {
            shard.tell(&Event::Proxied {
                trail: connection.trail(),
                protocol: service.protocol(),
                by: connection.peer().ip(),
                peer: client.ip(),
                local: Some(destination.ip()),
                port: Some(destination.port().into()),
            });
            Some(client)
        }
        Ok(Header::Local) => None,
        Err(reason) => {
            if let Some(reason) = reason {
                shard.tell(&Event::ProxyRefused {
                    trail: connection.trail(),
                    protocol: service.protocol(),
                    peer: connection.peer().ip(),
                    reason: &reason,
                });
            }
            return None;
        }
    };
    let admission = entrance.admit_proxied(&mut connection, client).await.ok()?;
    Some(admitted(connection, shard, service, admission))
}

/// Takes the header off the input. The error is for the operator; `None` if a proxy only
/// checked whether the port is open.
async fn read_header(connection: &mut Connection, shard: &Shard) -> Result<Header, Option<String>> {
    let deadline = shard.executor.moment().after(shard.options.tls_handshake_timeout);
    // No more than a header is read before it is known whether it is one.
    connection.set_read_max(proxy::HEADER_MAX);
    loop {
        match proxy::parse(connection.input()) {
            Ok(Some((length, header))) => {
                connection.consume(length);
                connection.set_read_max(usize::MAX);
                return Ok(header);
            }
            Ok(None) => {}
            Err(error) => return Err(Some(error.to_string())),
        }
        let left = deadline.since(shard.executor.moment());
        match connection.fill(left).await {
            Ok(()) => {}
            Err(ConnectionError::Closed) if connection.input().is_empty() => return Err(None),
            Err(ConnectionError::ShuttingDown) => return Err(None),
            Err(error) => return Err(Some(error.to_string())),
        }
    }
}

/// The reply to a client that is not served.
fn refusal(service: Service, admission: Admission) -> &'static [u8] {
    let client = matches!(admission, Admission::ClientRefused(_));
    match service {
        Service::Smtp | Service::Submission | Service::Submissions | Service::Lmtp if client => {
            b"421 4.7.0 Too many connections from your network, try again later\r\n"
        }
        Service::Smtp | Service::Submission | Service::Submissions | Service::Lmtp => {
            b"421 4.3.2 Too many connections, try again later\r\n"
        }
        Service::Pop3 | Service::Pop3s if client => {
            b"-ERR [SYS/TEMP] Too many connections from your network\r\n"
        }
        Service::Pop3 | Service::Pop3s => b"-ERR [SYS/TEMP] Too many connections\r\n",
        Service::Imap | Service::Imaps if client => {
            b"* BYE [UNAVAILABLE] Too many connections from your network\r\n"
        }
        Service::Imap | Service::Imaps => b"* BYE [UNAVAILABLE] Too many connections\r\n",
    }
}

fn limit_of(admission: Admission) -> Limit {
    match admission {
        Admission::ClientRefused(Excess::Connections) => Limit::ConnectionsOfClient,
        Admission::ClientRefused(Excess::Strangers) => Limit::StrangersOfClient,
        Admission::ClientRefused(Excess::NewConnections) => Limit::NewConnectionsOfClient,
        Admission::Refused | Admission::Admitted | Admission::Proxied => Limit::ConnectionsPerShard,
    }
}

/// The shard or the client has reached its limit of connections: replies in the protocol and
/// closes.
async fn refuse(
    mut connection: Connection,
    shard: Rc<Shard>,
    service: Service,
    admission: Admission,
) {
    // All refusals are counted in one place (`life`), since many get no reply.
    let limit = limit_of(admission);
    shard.events.limits_met(limit, 0, Some(connection.peer().ip()));
    let words = refusal(service, admission);
    connection.output().extend_from_slice(words);
    // A peer that does not accept one line gets none.
    let _ = connection.flush(shard.options.tls_handshake_timeout).await;
    connection.close().await;
}

/// Reports that a client connected and disconnected, if wanted; otherwise an idle session has no
/// memory for it.
struct Presence {
    shard: Rc<Shard>,
    trail: Trail,
    protocol: Protocol,
    peer: IpAddr,
}

impl Presence {
    /// For a connection that was just accepted.
    fn begin(shard: &Rc<Shard>, connection: &Connection, protocol: Protocol) -> Option<Box<Self>> {
        let presence = Presence::go_on(shard, connection, protocol)?;
        let Presence { trail, protocol, peer, .. } = *presence;
        let (local, tls) = (connection.local().ip(), connection.is_tls());
        shard.tell(&Event::Connected { trail, protocol, peer, local, tls });
        Some(presence)
    }

    /// For a connection that another shard accepted.
    fn go_on(shard: &Rc<Shard>, connection: &Connection, protocol: Protocol) -> Option<Box<Self>> {
        let wanted = shard.events.wants(Kind::Connections);
        let (shard, trail, peer) = (shard.clone(), connection.trail(), connection.peer().ip());
        wanted.then(|| Box::new(Presence { shard, trail, protocol, peer }))
    }

    fn end(presence: Option<Box<Self>>) {
        if let Some(presence) = presence {
            let Presence { shard, trail, protocol, peer } = *presence;
            shard.tell(&Event::Disconnected { trail, protocol, peer });
        }
    }
}

/// This is not an async function, which would hold the connection twice, and it is boxed, since
/// otherwise the task that awaits it would hold the session twice. Many sessions are idle for
/// hours.
fn smtp_session(
    connection: Connection,
    shard: Rc<Shard>,
    kind: ListenerKind,
) -> impl Future<Output = ()> {
    let presence = Presence::begin(&shard, &connection, kind.protocol());
    let session = Box::pin(smtp::run(connection, shard, kind));
    async move {
        session.await;
        Presence::end(presence);
    }
}

/// As small as [`smtp_session`]; the handover too takes memory only while it lasts.
fn pop3_session(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = ()> {
    let presence = Presence::begin(&shard, &connection, Protocol::Pop3);
    let session = Box::pin(pop3::run(connection, shard.clone()));
    async move {
        Box::pin(pop3_hand_over(session.await, shard, presence)).await;
    }
}

/// A log-in that the owner refused ([IN-USE]) may be followed by one to an account elsewhere: the
/// connection then moves again.
async fn pop3_hand_over(outcome: pop3::Outcome, shard: Rc<Shard>, presence: Option<Box<Presence>>) {
    let pop3::Outcome::HandOver(connection, state) = outcome else {
        return Presence::end(presence);
    };
    let owner = shard.owner_of(state.identity.account);
    let resume = |connection, owner: Rc<Shard>, state: Pop3Handover| -> LocalFuture<'static, ()> {
        let presence = Presence::go_on(&owner, &connection, Protocol::Pop3);
        let session = Box::pin(pop3::resume(connection, owner.clone(), state));
        Box::pin(async move {
            Box::pin(pop3_hand_over(session.await, owner, presence)).await;
        })
    };
    if let Err((connection, _)) = hand_over(&shard, owner, connection, state, resume).await {
        say(connection, &shard, b"-ERR [SYS/TEMP] Server busy, try again later\r\n").await;
        Presence::end(presence);
    }
}

/// As small as [`smtp_session`], for the same reason.
fn imap_session(connection: Connection, shard: Rc<Shard>) -> impl Future<Output = ()> {
    let presence = Presence::begin(&shard, &connection, Protocol::Imap);
    let session = Box::pin(imap::run(connection, shard.clone()));
    async move {
        Box::pin(imap_hand_over(session.await, shard, presence)).await;
    }
}

async fn imap_hand_over(outcome: imap::Outcome, shard: Rc<Shard>, presence: Option<Box<Presence>>) {
    let imap::Outcome::HandOver(connection, state) = outcome else {
        return Presence::end(presence);
    };
    let owner = shard.owner_of(state.identity.account);
    let resume = |connection, owner: Rc<Shard>, state: ImapHandover| -> LocalFuture<'static, ()> {
        let presence = Presence::go_on(&owner, &connection, Protocol::Imap);
        let session = Box::pin(imap::resume(connection, owner.clone(), state));
        Box::pin(async move {
            Box::pin(imap_hand_over(session.await, owner, presence)).await;
        })
    };
    if let Err((connection, state)) = hand_over(&shard, owner, connection, state, resume).await {
        let words = format!(
            "{} NO [UNAVAILABLE] Server busy, try again later\r\n* BYE Try again later\r\n",
            state.tag
        );
        say(connection, &shard, words.as_bytes()).await;
        Presence::end(presence);
    }
}

async fn say(mut connection: Connection, shard: &Shard, words: &[u8]) {
    connection.output().extend_from_slice(words);
    let _ = connection.flush(shard.options.write_timeout).await;
    connection.close().await;
}
