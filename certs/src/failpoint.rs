//! Places where a test may end the process as `kill -9` would, between two effects of an order.
//!
//! Only builds with debug assertions look; in a release [`reach`] is nothing. The environment names one place:
//! `MANA_PROXY_FAILPOINT=acme-finalized`.

/// Ends the process at once if the environment names this place.
pub(crate) fn reach(place: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("MANA_PROXY_FAILPOINT").is_some_and(|name| name == place) {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _unused = place;
}
