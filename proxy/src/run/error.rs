//! Why the daemon does not start, and what the operator can do about it.

use crate::admin;

/// Why the daemon cannot start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A runtime, a thread or a signal handler cannot be had.
    #[error("cannot start {what}")]
    Start {
        /// The thing.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A certificate is missing or does not fit its site.
    #[error(transparent)]
    Certificate(#[from] crate::certificates::CertificateError),
    /// rustls cannot be set up.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// Counters cannot be set up.
    #[error("cannot set up the metrics")]
    Metrics(#[from] prometheus::Error),
    /// State directory or control socket.
    #[error(transparent)]
    Control(#[from] mana_control::start::StartError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] crate::listen::ListenError),
    /// What the service manager passed in cannot be used.
    #[error(transparent)]
    Inherit(#[from] crate::inherit::InheritError),
    /// The running process cannot be taken over from.
    #[error(transparent)]
    Arrival(#[from] crate::upgrade::arrival::ArrivalError),
    /// The keys of session tickets that were handed over are none.
    #[error(transparent)]
    Tickets(#[from] crate::tickets::TicketError),
    /// The admin address cannot be listened on.
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] crate::access_log::OpenError),
}

impl RunError {
    /// What the operator can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            RunError::Listen(error) => Some(error.hint().to_owned()),
            RunError::Inherit(error) => Some(error.hint().to_owned()),
            RunError::Admin(_) => Some(
                "another process listens there: `ss -ltnp` names it; stop it or change admin.listen"
                    .to_owned(),
            ),
            RunError::Certificate(_) => Some(
                "`mana-proxy check` says what is wrong with each certificate without starting anything"
                    .to_owned(),
            ),
            RunError::AccessLog(_) => {
                Some("let this user write there, or change access_log.to".to_owned())
            }
            RunError::Start { .. }
            | RunError::Arrival(_)
            | RunError::Tickets(_)
            | RunError::Tls(_)
            | RunError::Metrics(_)
            | RunError::Control(_) => None,
        }
    }
}
