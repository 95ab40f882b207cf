//! TLS towards clients: the keyring and the one configuration that all handshakes use.
//!
//! Owns the choice of a certificate by name and everything of rustls; no other file of this crate touches it. Where
//! bundles come from is `mana-certs`' matter.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use mana_certs::challenge::ALPN;
use mana_certs::{Bundle, Challenges, Publish};
use mana_control::host::comparable;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{Acceptor, ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tickets::{KEY_SECONDS, TicketError, Tickets};

/// Bundles by name, and the TLS configuration that serves them.
///
/// Readers load once per handshake; a publication swaps the whole map, so that a handshake sees the old bundle or the
/// new one, whole.
pub struct Keyring {
    bundles: Arc<Bundles>,
    aes_128_first: Arc<ServerConfig>,
    in_clients_order: Arc<ServerConfig>,
    tickets: Arc<Tickets>,
}

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The protocol versions and the provider do not fit each other.
    #[error("cannot set up TLS 1.2 and 1.3")]
    Versions(#[source] rustls::Error),
    /// No keys for session tickets.
    #[error(transparent)]
    Tickets(#[from] TicketError),
}

impl Keyring {
    /// An empty keyring: handshakes fail until a bundle is published. `challenges` are answered by TLS-ALPN-01.
    ///
    /// TLS 1.2 and 1.3; ALPN h2, then http/1.1, then acme-tls/1; X25519MLKEM768 first among the groups (rustls' own order);
    /// AES-128 first among the ciphers, unless the client prefers ChaCha20; tickets with keys that rotate every six hours; no
    /// early data, which could be replayed.
    ///
    /// # Errors
    /// See [`TlsError`]; neither happens on a machine with random numbers.
    pub fn new(challenges: Arc<Challenges>) -> Result<Keyring, TlsError> {
        let bundles = Arc::new(Bundles {
            current: ArcSwap::default(),
            challenges,
        });
        let tickets = Arc::new(Tickets::new(unix_now())?);
        let config = |provider: CryptoProvider| {
            let resolver: Arc<dyn ResolvesServerCert> = bundles.clone();
            let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
                .map_err(TlsError::Versions)?
                .with_no_client_auth()
                .with_cert_resolver(resolver);
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ALPN.to_vec()];
            config.ticketer = Arc::new(Ticketer(Arc::clone(&tickets)));
            // One resumption per handshake is what browsers use; a second ticket is work and bytes for nothing.
            config.send_tls13_tickets = 1;
            config.max_early_data_size = 0;
            Ok::<_, TlsError>(config)
        };
        let mut provider = aws_lc_rs::default_provider();
        let in_clients_order = config(provider.clone())?;
        // The sort is stable: what is no AES-128 keeps its place among the rest.
        provider
            .cipher_suites
            .sort_by_key(|suite| !AES_128.contains(&suite.suite()));
        let mut aes_128_first = config(provider)?;
        aes_128_first.ignore_client_order = true;
        Ok(Keyring {
            bundles,
            aes_128_first: Arc::new(aes_128_first),
            in_clients_order: Arc::new(in_clients_order),
            tickets,
        })
    }

    /// Does a handshake.
    ///
    /// # Errors
    /// The client is gone, or offers nothing that fits.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed.
    pub async fn accept<IO>(&self, io: IO) -> std::io::Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let config = match prefers_chacha20(start.client_hello().cipher_suites()) {
            true => &self.in_clients_order,
            false => &self.aes_128_first,
        };
        start.into_stream(Arc::clone(config)).await
    }

    /// The keys of session tickets.
    pub fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// The bundle that is served under this name.
    pub fn bundle(&self, name: &str) -> Option<Bundle> {
        let served = self.bundles.current.load();
        served.bundles.iter().find(|b| b.name == name).cloned()
    }

    /// Whether these are the bundles that are served, certificate for certificate.
    pub fn serves_all(&self, bundles: &[Bundle]) -> bool {
        let served = self.bundles.current.load();
        served.bundles.len() == bundles.len()
            && served
                .bundles
                .iter()
                .zip(bundles)
                .all(|(one, other)| one.certified.cert == other.certified.cert)
    }

    /// Puts all of these in the place of all that were there; the first one is for clients that name no host.
    ///
    /// `bare` are names that have no bundle yet: their handshakes fail, rather than meet the first bundle. `own` says whose
    /// a name is, by the bundle's name: what another bundle happens to cover does not count there.
    pub fn replace_all(
        &self,
        bundles: Vec<Bundle>,
        bare: HashSet<String>,
        own: HashMap<String, String>,
    ) {
        let names = Names::of(bundles, bare, Arc::new(own));
        self.bundles.current.store(Arc::new(names));
    }
}

impl Publish for Keyring {
    fn publish(&self, bundle: Bundle) {
        self.bundles.current.rcu(|names| {
            let mut bundles = names.bundles.clone();
            match bundles.iter_mut().find(|old| old.name == bundle.name) {
                Some(old) => *old = bundle.clone(),
                None => bundles.push(bundle.clone()),
            }
            Names::of(bundles, names.bare.clone(), Arc::clone(&names.own))
        });
    }
}

/// Session tickets as rustls asks for them.
#[derive(Debug)]
struct Ticketer(Arc<Tickets>);

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(2 * KEY_SECONDS).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.seal(plain, unix_now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.open(ticket, unix_now())
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

struct Bundles {
    current: ArcSwap<Names>,
    challenges: Arc<Challenges>,
}

/// One state of the keyring.
#[derive(Debug, Default)]
struct Names {
    bundles: Vec<Bundle>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    bare: HashSet<String>,
    own: Arc<HashMap<String, String>>,
}

impl Names {
    fn of(bundles: Vec<Bundle>, bare: HashSet<String>, own: Arc<HashMap<String, String>>) -> Names {
        let mut exact = HashMap::new();
        for bundle in bundles.iter().rev() {
            for name in &bundle.names {
                exact.insert(comparable(name).into_owned(), Arc::clone(&bundle.certified));
            }
        }
        for (name, host) in own.iter() {
            let bundle = bundles.iter().find(|bundle| bundle.name == *host);
            if let Some(bundle) = bundle.filter(|bundle| bundle.covers(name)) {
                exact.insert(comparable(name).into_owned(), Arc::clone(&bundle.certified));
            }
        }
        Names {
            bundles,
            exact,
            bare,
            own,
        }
    }

    /// The bundle for a name: that of the site whose name it is, else the first one that has it, else the one with a wildcard for it, else the first one. A client
    /// that asked for another name will not trust the first one; serving it lets those who do not verify read the 421.
    fn find(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = name.map(comparable);
        let by_name = name.as_deref().and_then(|name| {
            self.exact.get(name).or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.exact.get(&format!("*.{parent}"))
            })
        });
        if by_name.is_none() && name.is_some_and(|name| self.bare.contains(&*name)) {
            return None;
        }
        by_name
            .or_else(|| self.bundles.first().map(|bundle| &bundle.certified))
            .cloned()
    }
}

impl ResolvesServerCert for Bundles {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if is_validation(&hello) {
            // RFC 8737 s3: the connection is the CA's alone; an ordinary certificate would prove nothing.
            return self.challenges.alpn(hello.server_name()?);
        }
        self.current.load().find(hello.server_name())
    }
}

impl fmt::Debug for Bundles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundles").finish_non_exhaustive()
    }
}

/// Whether a client has ChaCha20 before any AES: one without instructions for AES has, and knows best. Others get AES-128
/// whatever the order is in which they name the rest: it is no weaker in practice, and with SHA-256, for which processors have
/// instructions, it is the cheapest for both ends. Browsers ask for it first themselves.
fn prefers_chacha20(offered: &[CipherSuite]) -> bool {
    let known = offered.iter().find_map(|suite| match suite {
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(true),
        CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(false),
        suite if AES_128.contains(suite) => Some(false),
        // GREASE, and what nobody here speaks.
        _ => None,
    });
    known == Some(true)
}

const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// RFC 8737 s3: "The ACME server MUST provide an ALPN extension with the single protocol name "acme-tls/1"". A client
/// that offers others beside it is none.
fn is_validation(hello: &ClientHello<'_>) -> bool {
    let Some(mut offered) = hello.alpn() else {
        return false;
    };
    offered.next() == Some(ALPN) && offered.next().is_none()
}

/// Whether a handshake was made for its certificate alone. RFC 8737 s3: "The ACME server MUST NOT send application
/// data", and there is none to send back.
pub fn is_challenge(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ALPN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_chacha20_before_aes_prefers_it() {
        use CipherSuite as Suite;
        let grease = Suite::Unknown(0x1a1a);
        let (aes_128, aes_256) = (
            Suite::TLS13_AES_128_GCM_SHA256,
            Suite::TLS13_AES_256_GCM_SHA384,
        );
        let chacha20 = Suite::TLS13_CHACHA20_POLY1305_SHA256;
        assert!(prefers_chacha20(&[grease, chacha20, aes_128]));
        assert!(prefers_chacha20(&[
            Suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        ]));
        assert!(!prefers_chacha20(&[grease, aes_256, chacha20, aes_128]));
        assert!(!prefers_chacha20(&[aes_128, chacha20]));
        assert!(!prefers_chacha20(&[]));
    }

    /// The cipher that a handshake ends with, for a client that offers these, first one first.
    async fn agreed(offered: &[CipherSuite]) -> CipherSuite {
        let keyring = Keyring::new(Arc::default()).expect("a keyring");
        let bundle = mana_certs::self_signed(&["a.so"], SystemTime::now()).expect("made");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(bundle.certified.cert[0].clone()).expect("a root");
        keyring.replace_all(vec![bundle], HashSet::new(), HashMap::new());
        let mut provider = aws_lc_rs::default_provider();
        provider
            .cipher_suites
            .retain(|suite| offered.contains(&suite.suite()));
        let place = |suite: CipherSuite| offered.iter().position(|one| *one == suite);
        provider
            .cipher_suites
            .sort_by_key(|suite| place(suite.suite()));
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (client, server) = tokio::io::duplex(64 * 1024);
        let name = "a.so".try_into().expect("a name");
        let (client, server) =
            tokio::join!(connector.connect(name, client), keyring.accept(server));
        server.expect("accepted");
        let client = client.expect("connected");
        client
            .get_ref()
            .1
            .negotiated_cipher_suite()
            .expect("one")
            .suite()
    }

    #[tokio::test]
    async fn a_client_gets_aes_128_unless_it_prefers_chacha20_or_has_none() {
        use CipherSuite as Suite;
        let (aes_128, aes_256) = (
            Suite::TLS13_AES_128_GCM_SHA256,
            Suite::TLS13_AES_256_GCM_SHA384,
        );
        let chacha20 = Suite::TLS13_CHACHA20_POLY1305_SHA256;
        assert_eq!(agreed(&[aes_256, chacha20, aes_128]).await, aes_128);
        assert_eq!(agreed(&[chacha20, aes_256, aes_128]).await, chacha20);
        assert_eq!(agreed(&[aes_256, chacha20]).await, aes_256);
        let old = [
            Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            Suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ];
        assert_eq!(agreed(&old).await, old[1]);
    }

    fn names(hosts: &[&[&str]]) -> Names {
        let now = SystemTime::now();
        let bundle = |hosts: &&[&str]| {
            let mut bundle = mana_certs::self_signed(&["any.so"], now).expect("made");
            bundle.names = hosts.iter().map(|host| (*host).to_owned()).collect();
            bundle
        };
        let bundles = hosts.iter().map(bundle).collect();
        Names::of(bundles, HashSet::new(), Arc::default())
    }

    fn is(found: Option<Arc<CertifiedKey>>, names: &Names, index: usize) -> bool {
        found.is_some_and(|found| Arc::ptr_eq(&found, &names.bundles[index].certified))
    }

    #[test]
    fn a_name_finds_its_bundle_however_it_is_written() {
        let names = names(&[&["a.so"], &["b.so", "www.b.so"], &["*.c.so"]]);
        assert!(is(names.find(Some("b.so")), &names, 1));
        assert!(is(names.find(Some("WWW.B.SO.")), &names, 1));
        assert!(is(names.find(Some("x.c.so")), &names, 2));
    }

    #[test]
    fn no_name_and_an_unknown_name_find_the_first_bundle() {
        let names = names(&[&["a.so"], &["*.c.so"]]);
        assert!(is(names.find(None), &names, 0));
        assert!(is(names.find(Some("d.so")), &names, 0));
        assert!(is(names.find(Some("y.x.c.so")), &names, 0));
        assert!(Names::default().find(Some("a.so")).is_none());
    }

    #[test]
    fn a_site_is_served_with_its_own_certificate_whatever_others_cover() {
        let keyring = Keyring::new(Arc::default()).expect("a keyring");
        let now = SystemTime::now();
        let made = |hosts: &[&str]| mana_certs::self_signed(hosts, now).expect("made");
        let own = [("a.so", "a.so"), ("b.so", "b.so"), ("www.b.so", "b.so")];
        let own = own.map(|(name, host)| (name.to_owned(), host.to_owned()));
        let bundles = vec![made(&["a.so", "b.so", "www.b.so"]), made(&["b.so"])];
        keyring.replace_all(bundles, HashSet::new(), HashMap::from(own));
        let find = |name| keyring.bundles.current.load().find(Some(name));
        let is = |name, of: &str| {
            let bundle = keyring.bundle(of).expect("one");
            Arc::ptr_eq(&find(name).expect("one"), &bundle.certified)
        };
        assert!(is("a.so", "a.so") && is("B.so", "b.so"));
        assert!(is("www.b.so", "a.so"), "its own does not cover it");
        keyring.publish(made(&["b.so", "www.b.so"]));
        assert!(is("b.so", "b.so") && is("www.b.so", "b.so") && is("a.so", "a.so"));
    }

    #[test]
    fn a_name_that_waits_for_its_certificate_has_none_until_it_is_published() {
        let keyring = Keyring::new(Arc::default()).expect("a keyring");
        let now = SystemTime::now();
        let made = |host| mana_certs::self_signed(&[host], now).expect("made");
        keyring.replace_all(
            vec![made("a.so")],
            HashSet::from(["b.so".to_owned()]),
            HashMap::new(),
        );
        let find = |name| keyring.bundles.current.load().find(Some(name));
        assert!(find("a.so").is_some() && find("c.so").is_some());
        assert!(find("B.so").is_none());
        keyring.publish(made("b.so"));
        assert!(find("b.so").is_some());
    }

    #[test]
    fn a_published_bundle_takes_the_place_of_the_one_of_its_name() {
        let keyring = Keyring::new(Arc::default()).expect("a keyring");
        let now = SystemTime::now();
        keyring.publish(mana_certs::self_signed(&["a.so"], now).expect("made"));
        let before = keyring.bundles.current.load().find(Some("a.so"));
        keyring.publish(mana_certs::self_signed(&["a.so"], now).expect("made"));
        let names = keyring.bundles.current.load();
        assert_eq!(names.bundles.len(), 1);
        assert!(!Arc::ptr_eq(
            &before.expect("one"),
            &names.bundles[0].certified
        ));
    }
}
