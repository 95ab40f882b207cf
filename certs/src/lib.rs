//! Certificate bundles of mana-proxy: loaded, checked, made, published.
//!
//! Owns what a bundle is and when it may be served. Knows nothing of sites, sockets or handshakes: the `mana-proxy`
//! crate keeps the keyring that handshakes read and implements [`Publish`] on it.

pub mod bundle;
mod chain;
pub mod publish;
pub mod self_signed;

pub use bundle::{Bundle, BundleError};
pub use publish::Publish;
pub use self_signed::self_signed;
