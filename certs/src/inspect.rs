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

/// The roots of this system; none if there are none, and then nobody can say whether a client trusts a certificate.
pub fn system_roots() -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    (!roots.is_empty()).then_some(roots)
}

/// Does one handshake with `host` at `address` (`host:port`) and says what it saw. The chain is verified by `roots`;
/// without any, the certificate is not trusted: [`NO_ROOTS`].
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
    let distrust = distrust
        .or_else(|| doubt(&leaf, &name, certificates, SystemTime::now()))
        .or_else(|| looker.inner.is_none().then(|| NO_ROOTS.to_owned()));
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

/// Why a certificate is not trusted that nobody could judge.
pub const NO_ROOTS: &str = "this system has no roots to judge it by";
const TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use tokio::net::TcpListener;

    use super::*;

    /// What a client finds at a server with this certificate and, perhaps, these roots.
    async fn distrust(host: &str, has_roots: bool) -> Option<String> {
        let (chain, key) = crate::testing::pair_for(&["localhost"]);
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("root.pem");
        std::fs::write(&path, &chain).unwrap();
        let bundle = crate::Bundle::from_pem("a", chain.as_bytes(), key.as_bytes(), &[]).unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    bundle.certified,
                )));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let (tcp, _) = listener.accept().await.unwrap();
            // The client looks and leaves.
            acceptor.accept(tcp).await.ok();
        });
        let roots = has_roots.then(|| read_roots(&path).unwrap().unwrap());
        let seen = inspect(host, &address, roots).await.unwrap();
        server.await.unwrap();
        seen.distrust
    }

    #[tokio::test]
    async fn a_certificate_that_nobody_can_judge_is_not_trusted() {
        assert_eq!(distrust("localhost", true).await, None);
        assert_eq!(
            distrust("localhost", false).await.as_deref(),
            Some(NO_ROOTS)
        );
        let other = distrust("elsewhere.example", false).await.unwrap();
        assert!(other.contains("other names"), "{other}");
    }
}
