//! A buffered connection, plain or TLS.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::arguments::Tls;

/// Longest line that a server may send.
const LINE_MAX: usize = 1 << 20;

/// Where to connect and how. Shared by all connections of a thread.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Tls,
    pub timeout: Duration,
    connector: TlsConnector,
}

impl Target {
    pub fn new(address: &str, tls: Tls, timeout: Duration) -> Result<Target> {
        let resolved = address
            .to_socket_addrs()
            .context("not HOST:PORT, or no such host")?
            .next()
            .context("no address")?;
        let provider = Arc::new(default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Target { address: resolved, tls, timeout, connector })
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// Between the two, during the STARTTLS handshake.
    None,
}

/// One connection with an input buffer.
pub struct Wire {
    stream: Stream,
    target: Target,
    input: Vec<u8>,
    consumed: usize,
}

impl Wire {
    /// Connects; with implicit TLS the handshake is part of it.
    pub async fn connect(target: &Target) -> Result<Wire> {
        let stream = timeout(target.timeout, TcpStream::connect(target.address))
            .await
            .context("connect timed out")?
            .context("connect")?;
        stream.set_nodelay(true)?;
        let mut wire = Wire {
            stream: Stream::Plain(stream),
            target: target.clone(),
            input: Vec::new(),
            consumed: 0,
        };
        if target.tls == Tls::Implicit {
            wire.start_tls().await?;
        }
        Ok(wire)
    }

    pub async fn start_tls(&mut self) -> Result<()> {
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::None) else {
            bail!("TLS twice");
        };
        let name = ServerName::from(self.target.address.ip());
        let handshake = self.target.connector.connect(name, stream);
        let stream =
            timeout(self.target.timeout, handshake).await.context("TLS handshake timed out")??;
        self.stream = Stream::Tls(Box::new(stream));
        Ok(())
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let write = async {
            match &mut self.stream {
                Stream::Plain(stream) => stream.write_all(bytes).await,
                Stream::Tls(stream) => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
                Stream::None => Err(std::io::ErrorKind::NotConnected.into()),
            }
        };
        timeout(self.target.timeout, write).await.context("send timed out")?.context("send")
    }

    /// The next line, without CRLF.
    pub async fn line(&mut self) -> Result<&[u8]> {
        let mut searched = self.consumed;
        loop {
            if let Some(at) = self.input[searched..].iter().position(|&byte| byte == b'\n') {
                let start = self.consumed;
                let end = searched + at;
                self.consumed = end + 1;
                let line = &self.input[start..end];
                return Ok(line.strip_suffix(b"\r").unwrap_or(line));
            }
            if self.input.len() - self.consumed > LINE_MAX {
                bail!("a line of more than {LINE_MAX} octets");
            }
            let added = self.fill().await?;
            searched = self.input.len() - added;
        }
    }

    /// Reads and discards `count` octets.
    pub async fn skip(&mut self, mut count: usize) -> Result<()> {
        loop {
            let here = (self.input.len() - self.consumed).min(count);
            self.consumed += here;
            count -= here;
            if count == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Discards consumed input and reads more; returns how many bytes were read.
    async fn fill(&mut self) -> Result<usize> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let before = self.input.len();
        self.input.reserve(16 * 1024);
        let read = async {
            match &mut self.stream {
                Stream::Plain(stream) => stream.read_buf(&mut self.input).await,
                Stream::Tls(stream) => stream.read_buf(&mut self.input).await,
                Stream::None => Err(std::io::ErrorKind::NotConnected.into()),
            }
        };
        let count = timeout(self.target.timeout, read)
            .await
            .context("the server did not answer in time")?
            .context("receive")?;
        if count == 0 {
            bail!("the server closed the connection");
        }
        Ok(self.input.len() - before)
    }
}

/// Load tests use self-signed certificates; the signatures are still checked, since real clients do
/// that work.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines and literals arrive in pieces of every size.
    #[test]
    fn lines_in_pieces() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let text = b"one\r\ntwo {3}\r\nabc\r\n\r\n";
            for piece in 1..=text.len() {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap().to_string();
                let target = Target::new(&address, Tls::None, Duration::from_secs(5)).unwrap();
                let server = async {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    for part in text.chunks(piece) {
                        stream.write_all(part).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    stream
                };
                let client = async {
                    let mut wire = Wire::connect(&target).await.unwrap();
                    assert_eq!(wire.line().await.unwrap(), b"one");
                    assert_eq!(wire.line().await.unwrap(), b"two {3}");
                    wire.skip(3).await.unwrap();
                    assert_eq!(wire.line().await.unwrap(), b"");
                    assert_eq!(wire.line().await.unwrap(), b"");
                };
                tokio::join!(server, client);
            }
        });
    }
}
