//! TLS on a connection: from its first octet, from STARTTLS or STLS on, or as the client of another
//! server.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use super::{
    super::{
        channel_binding::{Bound, ChannelBinding},
        client_certificate::{self, CertificateName},
        tls::TlsContext,
        tls_client::{ClientTls, TlsFacts},
        tls_session::TlsSession,
    },
    Connection, ConnectionError,
};

/// How a listener's connections use TLS.
#[derive(Clone)]
pub enum TlsMode {
    /// Plain, for ever.
    Off,
    /// Plain at first; `start_tls` may follow (STARTTLS, STLS).
    Upgrade(Arc<TlsContext>),
    /// TLS from the first byte (the "s" ports).
    Implicit(Arc<TlsContext>),
}

impl Connection {
    pub(super) fn set_tls_mode(&mut self, tls: &TlsMode) -> Result<(), ConnectionError> {
        match tls {
            TlsMode::Off => {}
            TlsMode::Upgrade(context) => self.upgrade = Some(context.clone()),
            TlsMode::Implicit(context) => {
                self.begin_tls(context)?;
            }
        }
        Ok(())
    }

    /// For a connection that was accepted plain from a proxy, once the proxy's header is consumed:
    /// `client`, if it named one, is the peer from now on, and TLS is as `tls` says. With implicit
    /// TLS the octets behind the header belong to the handshake.
    pub async fn enter(
        &mut self,
        client: Option<SocketAddr>,
        tls: &TlsMode,
    ) -> Result<(), ConnectionError> {
        self.peer = client.unwrap_or(self.peer);
        self.set_tls_mode(tls)?;
        if self.layers.is_empty() || self.input().is_empty() {
            return Ok(());
        }
        let mut received = self.input().to_vec();
        self.consume(usize::MAX);
        let opened = self.layers.open(&mut received, &mut self.input, &mut self.sealed);
        if opened.is_err() {
            poll_fn(|context| {
                self.send_alert(context);
                Poll::Ready(())
            })
            .await;
        }
        opened
    }

    fn begin_tls(&mut self, context: &TlsContext) -> Result<(), ConnectionError> {
        let (bound, config) = context.begin();
        let session = TlsSession::server(bound, config)?;
        self.layers.push(Box::new(session), self.seat.buffer());
        Ok(())
    }

    /// Begins TLS on a connection that we made; what was received before is discarded. An
    /// error of the certificate can be classified: [`TlsFailure::of`].
    ///
    /// [`TlsFailure::of`]: super::super::tls_client::TlsFailure::of
    pub async fn start_tls_as_client(
        &mut self,
        tls: &ClientTls,
        timeout: Duration,
    ) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        // RFC 3207 4.2: nothing that came in plain text counts any more.
        self.consume(usize::MAX);
        self.layers.push(Box::new(TlsSession::client(tls)?), self.seat.buffer());
        // We speak first.
        self.layers.open(&mut [], &mut self.input, &mut self.sealed)?;
        self.handshake(timeout).await
    }

    /// Whether STARTTLS or STLS can be offered: the connection is plain and not compressed, and a
    /// certificate is configured.
    pub fn can_start_tls(&self) -> bool {
        self.upgrade.is_some() && !self.is_deflated
    }

    /// Discards unread plaintext (RFC 3207 4.2: nothing is carried over), then does the TLS
    /// handshake.
    pub async fn start_tls(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.flush(timeout).await?;
        let Some(context) = self.upgrade.take_if(|_| !self.is_deflated) else {
            return Err(ConnectionError::Io(io::ErrorKind::Unsupported.into()));
        };
        self.consume(usize::MAX);
        self.begin_tls(&context)?;
        self.handshake(timeout).await
    }

    /// Finishes the TLS handshake if one is in progress.
    pub async fn handshake(&mut self, timeout: Duration) -> Result<(), ConnectionError> {
        self.wait(timeout, Self::poll_handshake).await
    }

    pub(super) fn poll_handshake(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), ConnectionError>> {
        loop {
            ready!(self.poll_send_sealed(context))?;
            if self.layers.are_settled() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fruitless(context));
            ready!(self.poll_receive(context))?;
        }
    }

    pub fn is_tls(&self) -> bool {
        self.layers.are_private()
    }

    /// The names in the client's certificate, if it has shown one that is valid at `now`, since
    /// 1970.
    pub fn certificate_names(&self, which: CertificateName, now: Duration) -> Vec<String> {
        let certificate = self.layers.peer_certificate();
        certificate.map(|it| client_certificate::names(it, which, now)).unwrap_or_default()
    }

    /// Whether [`Connection::bound_to`] has anything.
    pub fn is_bound(&self) -> bool {
        self.layers.bound().is_some_and(Bound::is_bound)
    }

    /// What the connection is bound to; `None` before and without TLS, and if TLS has no such
    /// binding.
    pub fn bound_to(&self, what: ChannelBinding) -> Option<Vec<u8>> {
        self.layers.bound()?.to(what)
    }

    /// For the Received header, e.g. "TLSv1.3 TLS13_AES_256_GCM_SHA384"; `None` when plain.
    pub fn tls_description(&self) -> Option<String> {
        self.tls_facts().map(|facts| format!("{} {}", facts.version, facts.cipher))
    }

    /// Version, cipher and how the peer was verified; `None` when plain.
    pub fn tls_facts(&self) -> Option<TlsFacts> {
        self.layers.facts()
    }
}
