//! How an order begins: the one that was begun before is taken up where it stands, else another is asked for.
//!
//! Owns what is on disk before a CA is asked for an order, and what is kept of the budget there. `order.rs` does the
//! rest.

use std::collections::BTreeSet;
use std::time::SystemTime;

use instant_acme::{CertificateIdentifier, Identifier, NewOrder, Order, OrderStatus, Problem};

use super::{OrderError, Wanted, forget};
use crate::account::{Ca, on_disk};
use crate::budget::Ledger;
use crate::failpoint;
use crate::request::make_key;
use crate::store::{Pending, Store};

/// The order that was begun before. None if there is none, or none that could still come to something.
pub(super) async fn take_up(
    wanted: &Wanted,
    ca: &Ca,
    store: &Store,
    ledger: &mut Ledger,
) -> Result<Option<(Order, Pending)>, OrderError> {
    let (from, host) = (store.clone(), wanted.host.clone());
    let Some(pending) = on_disk(move || from.pending(&host)).await?? else {
        return Ok(None);
    };
    if pending.directory != ca.directory || !are_same(&pending.names, &wanted.names) {
        forget(store, &wanted.host).await;
        return Ok(None);
    }
    let found = retry_nonce!(ca.account.order(pending.order.clone()));
    match found {
        Ok(mut order) => {
            if order.state().status == OrderStatus::Invalid {
                // It died while nobody looked: a failure like any other, or a crash loop would go round the budget.
                ledger.take_back(pending.noted);
                ledger.found_dead(SystemTime::now());
                forget(store, &wanted.host).await;
                return Ok(None);
            }
            tracing::info!(
                site = wanted.host,
                order = order.url(),
                "taking up an unfinished order"
            );
            Ok(Some((order, pending)))
        }
        Err(error) => {
            // A CA that is down, or busy, has not forgotten the order; its certificate may have been issued.
            if let instant_acme::Error::Api(problem) = &error
                && is_gone(problem)
            {
                forget(store, &wanted.host).await;
            }
            Err(OrderError::of("cannot take up the unfinished order", error))
        }
    }
}

/// Whatever order they are written in.
fn are_same(some: &[String], others: &[String]) -> bool {
    some.iter().collect::<BTreeSet<_>>() == others.iter().collect()
}

/// Whether the CA says that there is no such order, or not for this account, and will always say so.
fn is_gone(problem: &Problem) -> bool {
    matches!(problem.status, Some(403 | 404 | 410))
}

/// Asks for another order, if the budget has room for it.
pub(super) async fn begin(
    wanted: &Wanted,
    ca: &Ca,
    store: &Store,
    ledger: &mut Ledger,
) -> Result<(Order, Pending), OrderError> {
    // Asked before the attempt as well; but an unfinished order costs nothing, and may turn out to be none.
    ledger.may_try(wanted.settings.terms(), true, false, SystemTime::now())?;
    if let Some(profile) = &wanted.profile {
        let mut offered: Vec<String> = ca.account.profiles().map(|p| p.name.to_owned()).collect();
        if !offered.contains(profile) {
            offered.sort();
            let profile = profile.clone();
            return Err(OrderError::NoProfile { profile, offered });
        }
    }
    let key = make_key(wanted.key).map_err(OrderError::Request)?;
    // Before the CA is asked: a disk that takes nothing is found out while it costs nothing, and a crash loop burns the
    // budget here, not the CA's.
    let now = SystemTime::now();
    ledger.ordering(now);
    let (to, host, noted) = (store.clone(), wanted.host.clone(), ledger.clone());
    on_disk(move || to.store_ledger(&host, &noted)).await??;
    failpoint::reach("acme-noted");
    let order = match new_order(wanted, ca).await {
        Ok(order) => order,
        Err(error) => {
            ledger.take_back(Some(now));
            return Err(error);
        }
    };
    let pending = Pending {
        directory: ca.directory.clone(),
        order: order.url().to_owned(),
        names: wanted.names.clone(),
        key,
        noted: Some(now),
    };
    let (to, host, stored) = (store.clone(), wanted.host.clone(), pending.clone());
    on_disk(move || to.store_pending(&host, &stored)).await??;
    Ok((order, pending))
}

async fn new_order(wanted: &Wanted, ca: &Ca) -> Result<Order, OrderError> {
    let names = wanted.names.iter().cloned();
    let identifiers: Vec<Identifier> = names
        .map(|name| match name.parse() {
            Ok(ip) => Identifier::Ip(ip),
            Err(_) => Identifier::Dns(name),
        })
        .collect();
    let build = |replaces: Option<&CertificateIdentifier<'static>>| {
        let mut new = NewOrder::new(&identifiers);
        if let Some(profile) = &wanted.profile {
            new = new.profile(profile);
        }
        match replaces {
            Some(replaces) => new.replaces(replaces.clone()),
            None => new,
        }
    };
    let first = retry_nonce!(ca.account.new_order(&build(wanted.replaces.as_ref())));
    let first = match first {
        Err(error) if wanted.replaces.is_some() && may_be_about_replaces(&error) => {
            tracing::info!(
                site = wanted.host,
                %error,
                "ordering again without naming the certificate before"
            );
            retry_nonce!(ca.account.new_order(&build(None)))
        }
        other => other,
    };
    first.map_err(|source| OrderError::of("the CA does not take the order", source))
}

/// Whether the order may be taken without `replaces`, which is a courtesy and must never be what ends renewals.
///
/// RFC 9773 s5 has `alreadyReplaced` for one case only. A certificate of another account, after an import or a new
/// registration, is `unauthorized` or `malformed`; a CA that does not know the field at all does not repeat it in its
/// answer, which `instant-acme` takes for an error.
fn may_be_about_replaces(error: &instant_acme::Error) -> bool {
    match error {
        // It does not do RFC 9773 at all.
        instant_acme::Error::Unsupported(_) => true,
        instant_acme::Error::Other(error) => error.to_string().starts_with("replaces field"),
        instant_acme::Error::Api(problem) => {
            let kind = problem.r#type.as_deref().unwrap_or_default();
            let kind = kind.rsplit(':').next().unwrap_or_default();
            let is_about_all = ["rateLimited", "accountDoesNotExist", "badNonce"].contains(&kind);
            !is_about_all && !matches!(problem.status, Some(429 | 500..))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, kind: &str) -> Problem {
        Problem {
            r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
            detail: None,
            status: Some(status),
            subproblems: Vec::new(),
        }
    }

    #[test]
    fn only_a_ca_that_says_so_has_no_such_order() {
        for (status, kind, expected) in [
            (404, "malformed", true),
            (410, "malformed", true),
            (403, "unauthorized", true),
            (429, "rateLimited", false),
            (500, "serverInternal", false),
            (503, "serverInternal", false),
            (400, "badNonce", false),
            (400, "accountDoesNotExist", false),
        ] {
            assert_eq!(is_gone(&refused(status, kind)), expected, "{status} {kind}");
        }
    }

    #[test]
    fn whatever_may_be_about_replaces_is_tried_without() {
        for (status, kind, expected) in [
            (409, "alreadyReplaced", true),
            (403, "unauthorized", true),
            (404, "malformed", true),
            (400, "malformed", true),
            (429, "rateLimited", false),
            (400, "badNonce", false),
            (400, "accountDoesNotExist", false),
            (500, "serverInternal", false),
            (503, "serverInternal", false),
        ] {
            let error = instant_acme::Error::Api(refused(status, kind));
            assert_eq!(may_be_about_replaces(&error), expected, "{status} {kind}");
        }
        let mismatch = instant_acme::Error::Other("replaces field mismatch: expected".into());
        assert!(may_be_about_replaces(&mismatch));
        let broken = instant_acme::Error::Other("connection reset".into());
        assert!(!may_be_about_replaces(&broken));
    }

    #[test]
    fn names_in_another_order_are_the_same_names() {
        let names = |all: &[&str]| {
            all.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert!(are_same(&names(&["a", "b"]), &names(&["b", "a"])));
        assert!(!are_same(&names(&["a", "b"]), &names(&["a"])));
    }
}
