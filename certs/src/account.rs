//! The account at a CA: found, registered, forgotten.
//!
//! Owns what is configured of a CA and how an account comes to be. The key is kept by `store.rs` before the account is
//! used; a crash in between leaves an account that nobody uses, which costs nothing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use instant_acme::{Account, ExternalAccountKey, LetsEncrypt, NewAccount};

use crate::client::{CaClient, ClientError, Patience};
use crate::order::OrderError;
use crate::store::Store;

/// One CA, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSettings {
    /// The URL of its directory; https.
    pub directory: String,
    /// `mailto:` URLs.
    pub contact: Vec<String>,
    /// Root certificates to trust instead of the system's.
    pub ca_root: Option<PathBuf>,
    /// What binds the account to one that the CA knows already.
    pub eab: Option<Eab>,
    /// The kind of certificate to ask for, by the CA's name for it.
    pub profile: Option<String>,
}

/// External account binding (RFC 8555 s7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Eab {
    kid: String,
    hmac_key: Vec<u8>,
}

/// The key of an external account binding is not base64.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the HMAC key of the external account binding is not base64url text")]
pub struct NotBase64;

/// The directory of Let's Encrypt.
pub const PRODUCTION: &str = LetsEncrypt::Production.url();
/// The directory of Let's Encrypt's staging environment: trusted by nobody, with limits that nobody reaches.
pub const STAGING: &str = LetsEncrypt::Staging.url();

// === impl Eab ===

impl Eab {
    /// `hmac_key` is base64url as CAs hand it out; padding and the other alphabet are tolerated.
    ///
    /// # Errors
    /// It is not, or it is empty.
    pub fn new(kid: &str, hmac_key: &str) -> Result<Eab, NotBase64> {
        let text = hmac_key.trim().trim_end_matches('=');
        let decoded = BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .or_else(|_| BASE64_STANDARD_NO_PAD.decode(text));
        match decoded {
            Ok(hmac_key) if !hmac_key.is_empty() => Ok(Eab {
                kid: kid.to_owned(),
                hmac_key,
            }),
            _ => Err(NotBase64),
        }
    }
}

/// Without the key.
impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// An account that can be used, and what its CA says about waiting.
pub(crate) struct Ca {
    pub(crate) account: Account,
    pub(crate) patience: Patience,
    pub(crate) directory: String,
}

/// The account at this CA: the stored one, or a new one. `retry_after` is what a CA that refuses asks for.
pub(crate) async fn open(
    settings: &CaSettings,
    store: &Store,
    retry_after: &mut Option<Duration>,
) -> Result<Ca, OrderError> {
    let root = settings.ca_root.clone();
    let client = on_disk(move || CaClient::new(root.as_deref())).await??;
    let patience = client.patience();
    let opened = find(settings, store, client).await;
    if opened.is_err() {
        *retry_after = patience.wanted();
    }
    opened
}

async fn find(settings: &CaSettings, store: &Store, client: CaClient) -> Result<Ca, OrderError> {
    let patience = client.patience();
    let directory = settings.directory.clone();
    let (from, key) = (store.clone(), directory.clone());
    let stored = on_disk(move || from.account(&key)).await??;
    let account = match stored {
        Some(credentials) => {
            let builder = Account::builder_with_http(Box::new(client));
            builder.from_credentials(credentials).await
        }
        None => return register(settings, store, &client).await,
    };
    let account =
        account.map_err(|source| OrderError::of("cannot read the CA's directory", source))?;
    Ok(Ca {
        account,
        patience,
        directory,
    })
}

async fn register(
    settings: &CaSettings,
    store: &Store,
    client: &CaClient,
) -> Result<Ca, OrderError> {
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let binding = settings.eab.as_ref();
    let binding = binding.map(|eab| ExternalAccountKey::new(eab.kid.clone(), &eab.hmac_key));
    let directory = settings.directory.clone();
    let create = || {
        let builder = Account::builder_with_http(Box::new(client.clone()));
        builder.create(&new, directory.clone(), binding.as_ref())
    };
    let created = retry_nonce!(create());
    let (account, credentials) =
        created.map_err(|source| OrderError::of("cannot register with the CA", source))?;
    let (to, key) = (store.clone(), directory.clone());
    on_disk(move || to.store_account(&key, &credentials)).await??;
    tracing::info!(directory, account = account.id(), "registered with the CA");
    Ok(Ca {
        account,
        patience: client.patience(),
        directory,
    })
}

/// Does something that blocks, off the runtime.
pub(crate) async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OrderError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| OrderError::Interrupted)
}

impl From<ClientError> for OrderError {
    fn from(error: ClientError) -> OrderError {
        OrderError::Client(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_key_is_base64_and_is_never_shown() {
        let eab = Eab::new(
            "kid-1",
            "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
        );
        let shown = format!("{eab:?}");
        assert!(
            shown.contains("kid-1") && !shown.contains("zWND") && !shown.contains("205"),
            "{shown}"
        );
        assert_eq!(Eab::new("k", "YWI="), Eab::new("k", "YWI"));
        assert_eq!(Eab::new("k", "-_-_"), Eab::new("k", "+/+/"));
        for bad in ["", "a b", "!"] {
            assert_eq!(Eab::new("k", bad), Err(NotBase64), "{bad:?}");
        }
    }
}
