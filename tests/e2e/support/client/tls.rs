//! TLS as a client offers it, and what came of the offer. Every certificate is accepted and recorded.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::within;

/// What a client offers. Handshakes of one offer share its session tickets.
#[derive(Clone)]
pub struct Offer {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

/// What was agreed on.
#[derive(Debug)]
pub struct Agreed {
    pub version: Option<ProtocolVersion>,
    pub alpn: Option<String>,
    pub group: Option<NamedGroup>,
    pub is_resumed: bool,
    /// The leaf, DER.
    pub certificate: Vec<u8>,
}

// === impl Offer ===

impl Offer {
    /// HTTP/1.1 for a name.
    pub fn h1(name: &str) -> Offer {
        Offer::of(name, &[b"http/1.1"], rustls::ALL_VERSIONS)
    }

    /// HTTP/2 for a name.
    pub fn h2(name: &str) -> Offer {
        Offer::of(name, &[b"h2"], rustls::ALL_VERSIONS)
    }

    /// Anything.
    pub fn of(name: &str, alpn: &[&[u8]], versions: &[&'static SupportedProtocolVersion]) -> Offer {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Offer {
            name: ServerName::try_from(name.to_owned()).unwrap(),
            config: Arc::new(config),
        }
    }

    /// The same without a server name.
    pub fn without_name(mut self) -> Offer {
        Arc::make_mut(&mut self.config).enable_sni = false;
        self
    }
}

/// One handshake.
pub async fn connect(address: SocketAddr, offer: &Offer) -> io::Result<TlsStream<TcpStream>> {
    let stream = within("connect", TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    connect_over(stream, offer).await
}

/// One handshake over a connection that is there already.
pub async fn connect_over(stream: TcpStream, offer: &Offer) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::clone(&offer.config));
    within(
        "TLS handshake",
        connector.connect(offer.name.clone(), stream),
    )
    .await
}

/// What a handshake has led to.
pub fn agreed(stream: &TlsStream<TcpStream>) -> Agreed {
    let (_, session) = stream.get_ref();
    let certificates = session.peer_certificates().unwrap_or_default();
    Agreed {
        version: session.protocol_version(),
        alpn: session
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned()),
        group: session
            .negotiated_key_exchange_group()
            .map(|group| group.name()),
        is_resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        certificate: certificates
            .first()
            .map(|leaf| leaf.to_vec())
            .unwrap_or_default(),
    }
}

/// Accepts every certificate; signatures are checked all the same.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
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
