//! Places where a test may end the process as `kill -9` would, between two effects of a change.
//!
//! Owns the names of these places. Only builds with debug assertions look; in a release [`reach`] is nothing. The
//! environment names one place: `MANA_PROXY_FAILPOINT=after-rename`.

/// One place, in the order in which a cutover passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// The gate has passed, nothing is written.
    BeforePersist,
    /// The temp file is written and synced, the old state file is still there.
    AfterTemp,
    /// The new state file is in its place, the directory is not synced.
    AfterRename,
    /// The new state is durable, the old table is still published.
    AfterPersist,
    /// The new table is published, the old counters are open.
    AfterPublish,
    /// The old counters are closed and waited for.
    Draining,
    /// All is done and in the journal; the caller was not told.
    BeforeReply,
}

impl Failpoint {
    /// The name that the environment gives.
    pub fn as_str(self) -> &'static str {
        match self {
            Failpoint::BeforePersist => "before-persist",
            Failpoint::AfterTemp => "after-temp",
            Failpoint::AfterRename => "after-rename",
            Failpoint::AfterPersist => "after-persist",
            Failpoint::AfterPublish => "after-publish",
            Failpoint::Draining => "draining",
            Failpoint::BeforeReply => "before-reply",
        }
    }
}

/// Ends the process at once if the environment names this place.
pub fn reach(place: Failpoint) {
    #[cfg(debug_assertions)]
    if std::env::var_os("MANA_PROXY_FAILPOINT").is_some_and(|name| name == place.as_str()) {
        std::process::abort();
    }
    #[cfg(not(debug_assertions))]
    let _unused = place;
}
