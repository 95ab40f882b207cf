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
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tickets::{KEY_SECONDS, TicketError, Tickets};

/// Bundles by name, and the TLS configuration that serves them.
///
/// Readers load once per handshake; a publication swaps the whole map, so that a handshake sees the old bundle or the
/// new one, whole.
pub struct Keyring {
    bundles: Arc<Bundles>,
    acceptor: TlsAcceptor,
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
    /// TLS 1.2 and 1.3; ALPN h2, then http/1.1, then acme-tls/1; X25519MLKEM768 first among the groups (rustls' own order); tickets with
    /// keys that rotate every six hours; no early data, which could be replayed.
    ///
    /// # Errors
    /// See [`TlsError`]; neither happens on a machine with random numbers.
    pub fn new(challenges: Arc<Challenges>) -> Result<Keyring, TlsError> {
        let bundles = Arc::new(Bundles {
            current: ArcSwap::default(),
            challenges,
        });
        let provider = Arc::new(aws_lc_rs::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = bundles.clone();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Versions)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ALPN.to_vec()];
        let tickets = Arc::new(Tickets::new(unix_now())?);
        config.ticketer = Arc::new(Ticketer(Arc::clone(&tickets)));
        // One resumption per handshake is what browsers use; a second ticket is work and bytes for nothing.
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        Ok(Keyring {
            bundles,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            tickets,
        })
    }

    /// The keys of session tickets.
    pub fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// Does handshakes.
    pub fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
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
    /// `bare` are names that have no bundle yet: their handshakes fail, rather than meet the first bundle.
    pub fn replace_all(&self, bundles: Vec<Bundle>, bare: HashSet<String>) {
        self.bundles
            .current
            .store(Arc::new(Names::of(bundles, bare)));
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
            Names::of(bundles, names.bare.clone())
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
}

impl Names {
    fn of(bundles: Vec<Bundle>, bare: HashSet<String>) -> Names {
        let mut exact = HashMap::new();
        for bundle in bundles.iter().rev() {
            for name in &bundle.names {
                exact.insert(comparable(name).into_owned(), Arc::clone(&bundle.certified));
            }
        }
        Names {
            bundles,
            exact,
            bare,
        }
    }

    /// The bundle for a name: the one that has it, else the one with a wildcard for it, else the first one. A client
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

    fn names(hosts: &[&[&str]]) -> Names {
        let now = SystemTime::now();
        let bundle = |hosts: &&[&str]| {
            let mut bundle = mana_certs::self_signed(&["any.so"], now).expect("made");
            bundle.names = hosts.iter().map(|host| (*host).to_owned()).collect();
            bundle
        };
        Names::of(hosts.iter().map(bundle).collect(), HashSet::new())
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
    fn a_name_that_waits_for_its_certificate_has_none_until_it_is_published() {
        let keyring = Keyring::new(Arc::default()).expect("a keyring");
        let now = SystemTime::now();
        let made = |host| mana_certs::self_signed(&[host], now).expect("made");
        keyring.replace_all(vec![made("a.so")], HashSet::from(["b.so".to_owned()]));
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
