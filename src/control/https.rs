//! HTTPS requests to other servers: MTA-STS policies are fetched, TLS reports posted. One request a
//! connection; certificates are always verified, and redirections never followed.
//!
//! On the control thread.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use axum::http::{Request, Response};
use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Whom it trusts.
pub(super) struct Https {
    /// PEM; the host's if `None`.
    authorities: Option<PathBuf>,
    connector: OnceLock<TlsConnector>,
}

impl Https {
    pub(super) fn new(authorities: Option<PathBuf>) -> Https {
        Https { authorities, connector: OnceLock::new() }
    }

    /// Connects to one of `sockets`, whose certificate must be for `host`.
    pub(super) async fn connect(
        &self,
        host: &str,
        sockets: &[SocketAddr],
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tcp = TcpStream::connect(sockets).await?;
        self.connector().connect(name, tcp).await
    }

    fn connector(&self) -> &TlsConnector {
        self.connector.get_or_init(|| {
            let found = match &self.authorities {
                Some(path) => rustls_native_certs::load_certs_from_paths(Some(path), None),
                None => rustls_native_certs::load_native_certs(),
            };
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(found.certs);
            let config = ClientConfig::builder().with_root_certificates(roots);
            TlsConnector::from(Arc::new(config.with_no_client_auth()))
        })
    }
}

/// Whether a certificate was the reason.
pub(super) fn is_about_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Sends `request` and returns the answer, whose body has not been read.
pub(super) async fn exchange<B>(
    stream: TlsStream<TcpStream>,
    request: Request<B>,
) -> Result<Response<Incoming>, hyper::Error>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender.
    tokio::spawn(connection);
    sender.send_request(request).await
}
