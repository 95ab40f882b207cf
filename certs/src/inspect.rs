//! What a client sees of a host: one handshake, looked at from outside.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;

use crate::bundle::BundleError;
use crate::chain;
use crate::client::{self, ClientError};

/// What a handshake has shown.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The address that answered.
    pub address: SocketAddr,
    /// DNS names and addresses of the certificate.
    pub names: Vec<String>,
    /// Who signed it.
    pub issuer: String,
    /// Its first moment.
    pub not_before: SystemTime,
    /// Its last moment.
    pub not_after: SystemTime,
    /// Certificates in the chain.
    pub chain_length: usize,
    /// `TLSv1_3`
    pub version: String,
    /// `h2`
    pub protocol: Option<String>,
    /// Why a client that trusts the given roots would not go on; none if it would.
    pub distrust: Option<String>,
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The name is none that a certificate can be for.
    #[error("{0:?} is no host name")]
    NotAName(String),
    /// Nobody there.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] std::io::Error),
    /// The handshake has failed.
    #[error("the handshake with {0} failed")]
    Handshake(String, #[source] std::io::Error),
    /// No answer in time.
    #[error("{0} did not answer within 10 s")]
    TimedOut(String),
    /// rustls cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] BundleError),
}

/// The roots of a PEM file.
///
/// # Errors
/// [`ClientError::Root`].
pub fn read_roots(path: &Path) -> Result<Option<RootCertStore>, ClientError> {
    client::read_roots(path).map(Some)
}

/// The roots of this system; none if there are none, and then only names and dates can be judged.
pub fn system_roots() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}

/// Does one handshake with `host` at `address` (`host:port`) and says what it saw. With `roots` the chain is verified by
/// them, else its dates and names only.
///
/// # Errors
/// See [`InspectError`]; a certificate that should not be trusted is no error but [`Inspected::distrust`].
pub async fn inspect(
    host: &str,
    address: &str,
    roots: Option<RootCertStore>,
) -> Result<Inspected, InspectError> {
    let handshake = tokio::time::timeout(TIME, handshake(host, address, roots));
    let timed_out = |_| InspectError::TimedOut(address.to_owned());
    handshake.await.map_err(timed_out)?
}

async fn handshake(
    host: &str,
    address: &str,
    roots: Option<RootCertStore>,
) -> Result<Inspected, InspectError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| InspectError::NotAName(host.to_owned()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let inner = match roots {
        Some(roots) => {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            builder.build().ok()
        }
        None => None,
    };
    let looker = Arc::new(Looker {
        inner,
        algorithms: provider.signature_verification_algorithms,
        distrust: Mutex::new(None),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(InspectError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(looker.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|source| InspectError::Connect(address.to_owned(), source))?;
    let failed = |source| InspectError::Handshake(address.to_owned(), source);
    let peer = tcp.peer_addr().map_err(failed)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name.clone(), tcp).await.map_err(failed)?;
    let (_, session) = stream.get_ref();
    let certificates = session.peer_certificates().unwrap_or_default();
    let leaf = chain::read_leaf(host, certificates)?;
    let distrust = looker
        .distrust
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let distrust = distrust.or_else(|| doubt(&leaf, &name, certificates, SystemTime::now()));
    let protocol = session.alpn_protocol();
    Ok(Inspected {
        address: peer,
        chain_length: certificates.len(),
        version: session
            .protocol_version()
            .map_or_else(String::new, |version| format!("{version:?}")),
        protocol: protocol.map(|protocol| String::from_utf8_lossy(protocol).into_owned()),
        names: leaf.names,
        issuer: leaf.issuer,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        distrust,
    })
}

/// What is wrong with a certificate whoever signed it.
fn doubt(
    leaf: &chain::Leaf,
    name: &ServerName<'_>,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Option<String> {
    if now > leaf.not_after {
        return Some(format!("it expired on {}", crate::text(leaf.not_after)));
    }
    if now < leaf.not_before {
        return Some(format!(
            "it is not valid before {}",
            crate::text(leaf.not_before)
        ));
    }
    let parsed = rustls::server::ParsedCertificate::try_from(chain.first()?).ok()?;
    rustls::client::verify_server_name(&parsed, name)
        .err()
        .map(|_| "it is for other names".to_owned())
}

/// Lets every certificate pass and remembers whether it should have.
#[derive(Debug)]
struct Looker {
    inner: Option<Arc<WebPkiServerVerifier>>,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
    distrust: Mutex<Option<String>>,
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(inner) = &self.inner
            && let Err(error) = inner.verify_server_cert(leaf, chain, name, ocsp, now)
        {
            *self.distrust.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

const TIME: Duration = Duration::from_secs(10);
