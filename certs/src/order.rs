//! One order, from the account to the stored certificate.
//!
//! Owns the order of steps and what is on disk at each of them, so that `kill -9` between any two costs no second order:
//! the order's URL and key are stored before the CA is asked to issue, and an order that is found unfinished is taken
//! up where it stands. Whether and when an order is made is decided elsewhere.

mod begin;
mod error;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{
    Authorization, AuthorizationStatus, CertificateIdentifier, ChallengeType, Order, OrderStatus,
};
use tokio::time::Instant;

use crate::account::{Ca, on_disk};
use crate::budget::Ledger;
use crate::bundle::{Bundle, BundleError};
use crate::challenge::{Challenges, Offer};
use crate::failpoint;
use crate::renew::Settings;
use crate::request::{KeyKind, make_request};
use crate::store::{KeyPem, Pending, Store};

use begin::{begin, take_up};
pub use error::OrderError;
pub(crate) use error::with_sources;

/// Which challenge is taken if the CA offers both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// HTTP-01: works behind a CDN.
    #[default]
    Http01,
    /// TLS-ALPN-01: needs no port 80, but every connection has to reach this proxy as it is.
    TlsAlpn01,
}

/// What is wanted.
pub(crate) struct Wanted {
    pub(crate) host: String,
    /// The host and its aliases.
    pub(crate) names: Vec<String>,
    pub(crate) key: KeyKind,
    pub(crate) prefer: Prefer,
    pub(crate) profile: Option<String>,
    /// The certificate that this one takes the place of (RFC 9773 s5).
    pub(crate) replaces: Option<CertificateIdentifier<'static>>,
    /// What a new order has to stay within.
    pub(crate) settings: Arc<Settings>,
}

/// Obtains a certificate and stores it. An unfinished order is taken up; `ledger` is noted and stored before a new one.
pub(crate) async fn obtain(
    wanted: &Wanted,
    ca: &Ca,
    store: &Store,
    challenges: &Arc<Challenges>,
    ledger: &mut Ledger,
) -> Result<Bundle, OrderError> {
    let (mut order, pending) = match take_up(wanted, ca, store, ledger).await? {
        Some(found) => found,
        None => begin(wanted, ca, store, ledger).await?,
    };
    failpoint::reach("acme-order-stored");
    match finish(&mut order, wanted, ca, challenges, &pending).await {
        Ok(chain) => keep(wanted, store, &chain, pending.key).await,
        Err(error) => {
            let is_dead = error.is_the_end() || order.state().status == OrderStatus::Invalid;
            if is_dead {
                // RFC 8555 s7.1.6: an order that is invalid stays so. CAs count what they issued, and this is nothing.
                ledger.take_back(pending.noted);
                forget(store, &wanted.host).await;
            }
            Err(error)
        }
    }
}

/// From wherever the order stands to the chain.
async fn finish(
    order: &mut Order,
    wanted: &Wanted,
    ca: &Ca,
    challenges: &Arc<Challenges>,
    pending: &Pending,
) -> Result<String, OrderError> {
    if order.state().status == OrderStatus::Pending {
        let offers = offer(order, wanted, challenges).await?;
        failpoint::reach("acme-told");
        poll(order, ca, "ready", |status| status != OrderStatus::Pending).await?;
        drop(offers);
    }
    if order.state().status == OrderStatus::Ready {
        failpoint::reach("acme-ready");
        let request = make_request(&wanted.names, &pending.key).map_err(OrderError::Request)?;
        retry_nonce!(order.finalize_csr(&request)).map_err(OrderError::of_finalize)?;
        failpoint::reach("acme-finalized");
    }
    poll(order, ca, "valid", |status| status == OrderStatus::Valid).await?;
    let chain = retry_nonce!(order.certificate());
    let chain =
        chain.map_err(|source| OrderError::of("cannot download the certificate", source))?;
    failpoint::reach("acme-downloaded");
    chain.ok_or(OrderError::TooSlow { wanted: "valid" })
}

/// Offers an answer for each name that is not proven yet, and tells the CA.
async fn offer(
    order: &mut Order,
    wanted: &Wanted,
    challenges: &Arc<Challenges>,
) -> Result<Vec<Offer>, OrderError> {
    let kinds = match wanted.prefer {
        Prefer::Http01 => [ChallengeType::Http01, ChallengeType::TlsAlpn01],
        Prefer::TlsAlpn01 => [ChallengeType::TlsAlpn01, ChallengeType::Http01],
    };
    read_authorizations(order).await?;
    let mut offers = Vec::new();
    let mut authorizations = order.authorizations();
    loop {
        let next = authorizations.next().await;
        let Some(authorization) = next else { break };
        let mut authorization = authorization
            .map_err(|source| OrderError::of("cannot read an authorization", source))?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let kind = kinds
            .iter()
            .find(|kind| authorization.challenges.iter().any(|c| c.r#type == **kind));
        let Some(kind) = kind.cloned() else {
            return Err(OrderError::NoChallenge { name });
        };
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(OrderError::NoChallenge { name });
        };
        let answer = challenge.key_authorization();
        offers.push(match kind {
            ChallengeType::TlsAlpn01 => challenges.offer_alpn(&name, answer.digest().as_ref())?,
            _ => challenges.offer_http(&challenge.token, answer.as_str()),
        });
        failpoint::reach("acme-offered");
        retry_nonce!(challenge.set_ready())
            .map_err(|source| OrderError::of("the CA does not take the challenge", source))?;
    }
    Ok(offers)
}

/// Reads all authorizations. An error uses up the place of the one that it came with, so a bad nonce starts again from
/// the first; what was read is not read again.
async fn read_authorizations(order: &mut Order) -> Result<(), OrderError> {
    let mut left = crate::NONCE_RETRIES;
    'again: loop {
        let mut authorizations = order.authorizations();
        while let Some(read) = authorizations.next().await {
            match read {
                Ok(_) => {}
                Err(instant_acme::Error::Api(problem))
                    if left > 0 && crate::is_bad_nonce(&problem) =>
                {
                    left -= 1;
                    continue 'again;
                }
                Err(source) => {
                    return Err(OrderError::of("cannot read an authorization", source));
                }
            }
        }
        return Ok(());
    }
}

/// Looks at the order again until it is as wanted, as patiently as the CA asks for.
async fn poll(
    order: &mut Order,
    ca: &Ca,
    wanted: &'static str,
    is_there: impl Fn(OrderStatus) -> bool,
) -> Result<(), OrderError> {
    let deadline = Instant::now() + ORDER_TIME;
    let mut wait = POLL_FIRST;
    loop {
        let status = order.state().status;
        if status == OrderStatus::Invalid {
            return Err(invalid(order).await);
        }
        if is_there(status) {
            return Ok(());
        }
        let wait_now = ca.patience.wanted().unwrap_or(wait).max(POLL_FIRST);
        if Instant::now() + wait_now > deadline {
            return Err(OrderError::TooSlow { wanted });
        }
        tokio::time::sleep(wait_now).await;
        wait = (wait * 3 / 2).min(POLL_MAX);
        match retry_nonce!(order.refresh()) {
            Ok(_) => {}
            Err(source) => return Err(OrderError::of("cannot look at the order", source)),
        }
    }
}

/// What the CA says of each name; of the order itself where it says nothing of the names.
async fn invalid(order: &mut Order) -> OrderError {
    let mut problems = Vec::new();
    let whole = order.state().error.as_ref().map(ToString::to_string);
    let urls: Vec<String> = order
        .state()
        .authorizations
        .iter()
        .map(|Authorization { url, .. }| url.clone())
        .collect();
    let mut authorizations = order.authorizations();
    for _ in urls {
        let next = authorizations.next().await;
        let Some(Ok(mut authorization)) = next else {
            continue;
        };
        if retry_nonce!(authorization.refresh()).is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let of_name = authorization
            .challenges
            .iter()
            .filter_map(|c| c.error.as_ref());
        problems.extend(of_name.map(|problem| (name.clone(), problem.to_string())));
    }
    if problems.is_empty() {
        let whole = whole.unwrap_or_else(|| "it does not say why".to_owned());
        problems.push(("the order".to_owned(), whole));
    }
    OrderError::Invalid { problems }
}

/// Checks the certificate, stores it, and only then forgets the order.
async fn keep(
    wanted: &Wanted,
    store: &Store,
    chain: &str,
    key: KeyPem,
) -> Result<Bundle, OrderError> {
    let names: Vec<&str> = wanted.names.iter().map(String::as_str).collect();
    let checked = Bundle::from_pem(
        &wanted.host,
        chain.as_bytes(),
        key.reveal().as_bytes(),
        &names,
    )
    .and_then(|bundle| bundle.check(SystemTime::now()).map(|()| bundle));
    let bundle = match checked {
        Ok(bundle) => bundle,
        // More likely than a CA that dates forward is a clock that is behind: the certificate is good as soon as that is
        // mended, and is downloaded again by then.
        Err(error @ BundleError::NotYetValid { .. }) => return Err(error.into()),
        Err(error) => {
            // The same order would give the same certificate again.
            forget(store, &wanted.host).await;
            return Err(error.into());
        }
    };
    let (to, host, chain) = (store.clone(), wanted.host.clone(), chain.to_owned());
    on_disk(move || to.store_bundle(&host, &chain, &key)).await??;
    forget(store, &wanted.host).await;
    Ok(bundle)
}

/// A disk that does not let go of an order is said, and must not hide what the CA says: the order is found again, and is
/// what it was.
async fn forget(store: &Store, host: &str) {
    let (from, name) = (store.clone(), host.to_owned());
    let forgotten = on_disk(move || from.forget_pending(&name)).await;
    if let Err(error) = forgotten.and_then(|done| Ok(done?)) {
        let error = with_sources(&error);
        tracing::error!(site = host, error, "cannot forget an order that is over");
    }
}

/// For the CA to look at the challenges, and again to issue. A slower order is taken up by the next attempt.
pub const ORDER_TIME: Duration = Duration::from_secs(120);
const POLL_FIRST: Duration = Duration::from_millis(250);
const POLL_MAX: Duration = Duration::from_secs(5);
