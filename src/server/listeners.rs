//! Which sockets are opened, and for which service.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    config::Listen,
    metrics::Protocol,
    model::MailClass,
    runtime::{acceptor::BoundListener, connection::TlsMode, tls::TlsContexts},
};

/// The protocol of a port and whether it starts with TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Service {
    Smtp,
    Submission,
    Submissions,
    Lmtp,
    Pop3,
    Pop3s,
    Imap,
    Imaps,
}

impl Service {
    /// Of its connections, before anybody logs in.
    pub(super) fn class(self) -> MailClass {
        match self {
            Service::Smtp => MailClass::Inbound,
            Service::Lmtp => MailClass::Local,
            _ => MailClass::Submission,
        }
    }

    /// The label in metrics and events.
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Service::Smtp => Protocol::Smtp,
            Service::Submission | Service::Submissions => Protocol::Submission,
            Service::Lmtp => Protocol::Lmtp,
            Service::Pop3 | Service::Pop3s => Protocol::Pop3,
            Service::Imap | Service::Imaps => Protocol::Imap,
        }
    }

    /// TLS from the first byte, or on request if there is a certificate.
    pub(super) fn tls_mode(self, tls: Option<&TlsContexts>) -> TlsMode {
        let implicit = matches!(self, Service::Submissions | Service::Pop3s | Service::Imaps);
        let context = tls.map(|tls| match self {
            Service::Smtp | Service::Lmtp => &tls.peers,
            _ => &tls.users,
        });
        match context {
            None => TlsMode::Off,
            Some(context) if implicit => TlsMode::Implicit(context.clone()),
            Some(context) => TlsMode::Upgrade(context.clone()),
        }
    }
}

/// One shard's sockets.
pub(super) type ShardListeners = Vec<(Service, BoundListener)>;

/// Opens every address once per shard: the kernel spreads connections over them (SO_REUSEPORT).
/// Called before privileges are dropped, so low ports work.
pub(super) fn bind(listen: &Listen, shards: u16, backlog: u32) -> Result<Vec<ShardListeners>> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    let all: Vec<_> = addresses(listen).map(|(_, address)| address).collect();
    probe_ports(&all, PORT_PATIENCE)?;
    (0..shards)
        .map(|_| {
            addresses(listen)
                .map(|(service, address)| {
                    let listener = BoundListener::bind(address, backlog)
                        .with_context(|| cannot_listen(service, address))?;
                    Ok((service, listener))
                })
                .collect()
        })
        .collect()
}

fn addresses(listen: &Listen) -> impl Iterator<Item = (Service, SocketAddr)> {
    let of = |service: Service, addresses: &[SocketAddr]| {
        addresses.iter().map(move |&address| (service, address)).collect::<Vec<_>>()
    };
    [
        of(Service::Smtp, &listen.smtp),
        of(Service::Submission, &listen.submission),
        of(Service::Submissions, &listen.submissions),
        of(Service::Lmtp, &listen.lmtp),
        of(Service::Pop3, &listen.pop3),
        of(Service::Pop3s, &listen.pop3s),
        of(Service::Imap, &listen.imap),
        of(Service::Imaps, &listen.imaps),
    ]
    .into_iter()
    .flatten()
}

/// How long a start waits for ports in use: the kernel dismantles a killed process's rings in the
/// background, once their last writes have ended, and until then they hold its listening sockets.
const PORT_PATIENCE: Duration = Duration::from_secs(5);

/// An error for the first address that another program listens on for longer than `patience`.
pub fn probe_ports(addresses: &[SocketAddr], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    addresses.iter().try_for_each(|&address| {
        wait_until_free(address, deadline).with_context(|| {
            format!("{address}: cannot listen (another server on this port? no permission for it?)")
        })
    })
}

fn wait_until_free(address: SocketAddr, deadline: Instant) -> io::Result<()> {
    loop {
        match BoundListener::refuse_if_taken(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            answer => return answer,
        }
    }
}

fn cannot_listen(service: Service, address: SocketAddr) -> String {
    format!("{address}: cannot listen for {service:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_comes_free_is_waited_for() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let held = BoundListener::bind(address, 1).unwrap();
        let address = held.local().unwrap();
        assert_eq!(
            wait_until_free(address, Instant::now()).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        let holder = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        wait_until_free(address, Instant::now() + Duration::from_secs(60)).unwrap();
        holder.join().unwrap();
    }
}
