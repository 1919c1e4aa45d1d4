//! Which sockets are opened, and whom they serve.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    config::Listen,
    runtime::{acceptor::BoundListener, connection::TlsMode, tls::TlsContext},
};

/// A port's protocol and how it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
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
    /// TLS from the first byte, or on request where there is a certificate.
    pub fn tls_mode(self, tls: Option<&Arc<TlsContext>>) -> TlsMode {
        let implicit = matches!(self, Service::Submissions | Service::Pop3s | Service::Imaps);
        match tls {
            None => TlsMode::Off,
            Some(context) if implicit => TlsMode::Implicit(context.clone()),
            Some(context) => TlsMode::Upgrade(context.clone()),
        }
    }
}

/// One shard's sockets.
pub type ShardListeners = Vec<(Service, BoundListener)>;

/// Opens every address once a shard: the kernel spreads connections over them (SO_REUSEPORT).
/// Done before privileges are dropped, so low ports work.
pub fn bind(listen: &Listen, shards: u16, backlog: u32) -> Result<Vec<ShardListeners>> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    (0..shards)
        .map(|shard| {
            addresses(listen)
                .map(|(service, address)| {
                    // SO_REUSEPORT would let a second server of the same user in beside us.
                    if shard == 0 {
                        refuse_if_taken(address)?;
                    }
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

/// An error for the first address that another program listens on.
pub fn probe_ports(addresses: &[SocketAddr]) -> Result<()> {
    addresses.iter().try_for_each(|&address| refuse_if_taken(address))
}

/// A socket without SO_REUSEPORT cannot be bound beside one with it.
fn refuse_if_taken(address: SocketAddr) -> Result<()> {
    let probe = || -> std::io::Result<()> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    probe().with_context(|| {
        format!("{address}: cannot listen (another server on this port? no permission for it?)")
    })
}

fn cannot_listen(service: Service, address: SocketAddr) -> String {
    format!("{address}: cannot listen for {service:?}")
}
