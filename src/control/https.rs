//! HTTPS requests to other servers: MTA-STS policies are fetched, TLS reports posted. One request a
//! connection; certificates are always verified, and redirections never followed.
//!
//! The addresses are named by the DNS of strangers. So they must be of the Internet, or in networks
//! that the operator names: otherwise whoever has a domain could make this server talk to hosts
//! that only it can reach.
//!
//! On the control thread.

use std::{
    io,
    net::{IpAddr, SocketAddr},
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

use crate::model::{Network, is_global};

/// Whom requests go to; `config` fills it.
#[derive(Clone, Default, Debug)]
pub struct HttpsOptions {
    /// Authorities to trust, PEM; the host's if `None`.
    pub authorities: Option<PathBuf>,
    /// Networks that are reached although they are not of the Internet.
    pub local_networks: Vec<Network>,
}

/// Makes connections.
pub(super) struct Https {
    options: HttpsOptions,
    connector: OnceLock<TlsConnector>,
}

impl Https {
    pub(super) fn new(options: HttpsOptions) -> Https {
        Https { options, connector: OnceLock::new() }
    }

    /// Connects to one of the `addresses` that DNS has for `host`; the certificate must be for it.
    ///
    /// # Errors
    /// Also if all of them may not be reached.
    pub(super) async fn connect(
        &self,
        host: &str,
        addresses: &[IpAddr],
        port: u16,
    ) -> io::Result<TlsStream<TcpStream>> {
        let allowed = addresses.iter().filter(|it| self.may_reach(**it));
        let sockets: Vec<SocketAddr> = allowed.map(|it| SocketAddr::new(*it, port)).collect();
        if let (true, Some(address)) = (sockets.is_empty(), addresses.first()) {
            let what = format!("{address} is no address of the Internet (https.local_networks)");
            return Err(io::Error::other(what));
        }
        self.connect_to(host, &sockets).await
    }

    fn may_reach(&self, address: IpAddr) -> bool {
        let (address, own) = (address.to_canonical(), Network::exact(address));
        is_global(address) || self.options.local_networks.iter().any(|it| it.contains(&own))
    }

    /// Connects to one of `sockets`, which the operator names.
    pub(super) async fn connect_to(
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
            let found = match &self.options.authorities {
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A private address is not even connected to, unless a network has it.
    #[test]
    fn strangers_do_not_lead_into_our_network() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let came = |networks: &[&str], addresses: &[&str]| {
            let local_networks = networks.iter().map(|it| it.parse().unwrap()).collect();
            let https = Https::new(HttpsOptions { authorities: None, local_networks });
            let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
            let wait = std::time::Duration::from_millis(300);
            let connected = runtime.block_on(async {
                let connecting = https.connect("web.test", &addresses, port);
                tokio::time::timeout(wait, connecting).await
            });
            let said = connected.ok().and_then(Result::err).map(|error| error.to_string());
            (listener.accept().is_ok(), said)
        };
        let (any, said) = came(&[], &["127.0.0.1", "::ffff:127.0.0.1"]);
        let expected = "127.0.0.1 is no address of the Internet (https.local_networks)";
        assert_eq!((any, said.as_deref()), (false, Some(expected)));
        assert!(!came(&["10.0.0.0/8", "::1"], &["127.0.0.1"]).0);
        assert!(came(&["10.0.0.0/8", "127.0.0.0/8"], &["127.0.0.1"]).0);
        assert!(came(&["127.0.0.1"], &["192.168.0.1", "::ffff:127.0.0.1"]).0);
    }
}
