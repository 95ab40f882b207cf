//! Why an order did not end in a certificate.

use std::error::Error as StdError;

use instant_acme::Problem;

use super::ORDER_TIME;
use crate::budget::Refusal;
use crate::bundle::BundleError;
use crate::challenge::ChallengeError;
use crate::client::ClientError;
use crate::store::StoreError;

/// Why an order did not end in a certificate.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The CA cannot be reached.
    #[error(transparent)]
    Client(ClientError),
    /// The CA does not do it, or does not say why.
    #[error("{step}")]
    Ca {
        /// What was tried.
        step: &'static str,
        /// What came of it; an API problem has the CA's own words.
        source: instant_acme::Error,
    },
    /// The CA has refused some names. Its own problem documents, one a name.
    #[error("the CA has refused the order: {}", refusals(problems))]
    Invalid {
        /// Name and problem.
        problems: Vec<(String, String)>,
    },
    /// The CA does not issue for this order, and never will.
    #[error("the CA does not finalize the order")]
    NotFinalized(#[source] instant_acme::Error),
    /// An unfinished order has turned out to be none, and another one is too many.
    #[error(transparent)]
    HeldBack(#[from] Refusal),
    /// The CA has no challenge that can be answered here.
    #[error("the CA offers neither http-01 nor tls-alpn-01 for {name}")]
    NoChallenge {
        /// The name.
        name: String,
    },
    /// The profile is not the CA's.
    #[error("the CA has no profile {profile:?}; it has {}", offered.join(", "))]
    NoProfile {
        /// What is configured.
        profile: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// The CA takes too long.
    #[error("the order was not {wanted} within {} s; it is taken up again later", ORDER_TIME.as_secs())]
    TooSlow {
        /// `ready` or `valid`.
        wanted: &'static str,
    },
    /// A challenge certificate cannot be made.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// A key or a request cannot be made.
    #[error("cannot make the certificate request")]
    Request(#[source] rcgen::Error),
    /// What the CA issued cannot be served.
    #[error("the CA has issued a certificate that cannot be served")]
    Unfit(#[from] BundleError),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name does not lead here.
    #[error("{name} does not lead to this proxy: {reason}")]
    Preflight {
        /// The name.
        name: String,
        /// What was found instead.
        reason: String,
    },
    /// The attempt panicked.
    #[error("internal error, please report it: {0}")]
    Internal(String),
    /// The process is stopping.
    #[error("interrupted")]
    Interrupted,
}

// === impl OrderError ===

impl OrderError {
    pub(crate) fn of(step: &'static str, source: instant_acme::Error) -> OrderError {
        match source {
            instant_acme::Error::Other(error) => match error.downcast::<ClientError>() {
                Ok(error) => OrderError::Client(*error),
                Err(error) => OrderError::Ca {
                    step,
                    source: instant_acme::Error::Other(error),
                },
            },
            source => OrderError::Ca { step, source },
        }
    }

    /// What it means that a CA has refused to finalize. RFC 8555 s7.4: it does if the request is not acceptable, which
    /// the same request with the same key will be the next time too.
    pub(super) fn of_finalize(source: instant_acme::Error) -> OrderError {
        let error = OrderError::of("the CA does not finalize the order", source);
        let passes = [
            "rateLimited",
            "badNonce",
            "orderNotReady",
            "accountDoesNotExist",
        ];
        let is_final = error.status().is_some_and(|status| {
            (400..500).contains(&status)
                && status != 429
                && error.problem().is_none_or(|kind| !passes.contains(&kind))
        });
        match error {
            OrderError::Ca { source, .. } if is_final => OrderError::NotFinalized(source),
            error => error,
        }
    }

    /// Whether the order that it came of can never end in a certificate.
    pub(super) fn is_the_end(&self) -> bool {
        matches!(
            self,
            OrderError::Invalid { .. }
                | OrderError::NoChallenge { .. }
                | OrderError::NotFinalized(_)
        )
    }

    /// The type of the CA's problem without its prefix: `rateLimited`.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.document()?.r#type.as_deref()?.rsplit(':').next()
    }

    fn status(&self) -> Option<u16> {
        self.document()?.status
    }

    fn document(&self) -> Option<&Problem> {
        match self {
            OrderError::Ca {
                source: instant_acme::Error::Api(problem),
                ..
            }
            | OrderError::NotFinalized(instant_acme::Error::Api(problem)) => Some(problem),
            _ => None,
        }
    }
}

fn refusals(problems: &[(String, String)]) -> String {
    let each = problems
        .iter()
        .map(|(name, problem)| format!("{name}: {problem}"));
    each.collect::<Vec<_>>().join("; ")
}

/// An error and what caused it, in one line.
pub(crate) fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_refused_is_the_end_of_its_order_and_a_busy_ca_is_not() {
        for (status, kind, expected) in [
            (400, "badCSR", true),
            (403, "unauthorized", true),
            (403, "orderNotReady", false),
            (400, "badNonce", false),
            (429, "rateLimited", false),
            (500, "serverInternal", false),
        ] {
            let problem = Problem {
                r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
                detail: None,
                status: Some(status),
                subproblems: Vec::new(),
            };
            let error = OrderError::of_finalize(instant_acme::Error::Api(problem));
            assert_eq!(error.is_the_end(), expected, "{status} {kind}");
            assert_eq!(error.problem(), Some(kind));
        }
    }
}
