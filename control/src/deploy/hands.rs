//! What a deploy does, as seen by its course: asking and telling the daemon, the engine, the machine.
//!
//! Owns the seam between the order of things and the doing of them, so that the order can be tried against a world that
//! fails at will. The real hands are in `engine`.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::deploy::container::Container;
use crate::deploy::image::ImageName;
use crate::deploy::ledger::{About, Kind, Ledger, LedgerError, Outcome};
use crate::deploy::steps::Said;
use crate::deploy::watch::Answers;
use crate::reply::Code;
use crate::slot::Slot;

/// What did not work.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The daemon cannot be reached, or was lost.
    #[error("{0}")]
    Daemon(String),
    /// The daemon would not.
    #[error("{error}")]
    Refused {
        /// Why, in a word.
        code: Code,
        /// Why.
        error: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A slot that should be stopped still has requests.
    #[error("{0} still has requests, which would be cut off")]
    StillBusy(Slot),
    /// A command of the engine or of compose failed.
    #[error("`{command}` {said}")]
    Engine {
        /// As one could type it.
        command: String,
        /// How it ended, and its last words.
        said: String,
    },
    /// What the engine printed was not understood.
    #[error("`{command}` printed what is not understood: {printed:?}")]
    Strange {
        /// As one could type it.
        command: String,
        /// The beginning of what it printed.
        printed: String,
    },
    /// A page could not be had.
    #[error("GET {path} on {upstream}: {said}")]
    Page {
        /// The upstream.
        upstream: String,
        /// The path.
        path: String,
        /// Why not.
        said: String,
    },
    /// A file of the deploy directory, or of the machine.
    #[error("{what}: {source}")]
    Machine {
        /// Which.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The site as the daemon has it.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteNow {
    /// The slot that gets new requests.
    pub active: Slot,
    /// The generation of its last cutover.
    pub generation: u64,
    /// How far a cutover is.
    pub stage: Stage,
    /// By [`Slot::index`].
    pub slots: [SlotNow; 2],
}

/// How far a cutover is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    #[default]
    Steady,
    /// It is being decided which slot is active.
    Changing,
    /// The requests of the slot before end.
    Draining,
}

/// One slot as the daemon has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SlotNow {
    /// Every upstream is up.
    pub is_healthy: bool,
    /// Taken out of use.
    pub is_drained: bool,
    /// Requests inside.
    pub in_flight: u64,
    /// Its counters.
    pub answers: Answers,
    /// Its addresses.
    pub upstreams: Vec<String>,
    /// Why the last probe was not good.
    pub last_failure: Option<String>,
}

/// A cutover that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Switched {
    /// The generation that it made.
    pub generation: u64,
    /// When new requests began to go to the new slot.
    pub published: Option<Instant>,
    /// What to tell the operator beside it.
    pub warning: Option<String>,
}

/// The engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineNow {
    /// `20.10.24`
    pub version: String,
    /// Where it keeps images.
    pub root: std::path::PathBuf,
}

/// An image that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageNow {
    /// `sha256:...`
    pub id: String,
    /// `org.opencontainers.image.revision`, if it has that label.
    pub revision: Option<String>,
    /// `org.opencontainers.image.source`, if it has that label.
    pub source: Option<String>,
    /// All its names here.
    pub names: Vec<String>,
}

/// What others are told of a deploy.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// None: it begins.
    pub outcome: Option<Outcome>,
    /// Whether it brings something new or something back.
    pub kind: Kind,
    /// Its number.
    pub deploy: u64,
    /// What is deployed.
    pub image: ImageName,
    /// The slots.
    pub from: Option<Slot>,
    /// The slots.
    pub to: Option<Slot>,
    /// What the caller said of it.
    pub about: About,
    /// Who gave the order.
    pub who: String,
    /// Why it failed.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// The last lines of the container.
    pub last_log: Vec<String>,
    /// The whole of it.
    pub took: Option<Duration>,
}

/// Does what a deploy wants done. Every call may be dropped half-way; what it had begun may have happened.
#[allow(
    async_fn_in_trait,
    reason = "no caller needs the futures to be Send: a deploy runs on one thread"
)]
pub trait Hands {
    /// The site as the daemon has it.
    async fn site(&mut self) -> Result<SiteNow, Trouble>;
    /// The gate without a cutover; what it says if it was passed.
    async fn probe(&mut self, slot: Slot) -> Result<String, Trouble>;
    /// Keeps a standby slot to this process until it ends: nobody else makes it active meanwhile.
    async fn reserve(&mut self, slot: Slot) -> Result<(), Trouble>;
    /// The cutover. The old slot drains by itself.
    async fn switch(
        &mut self,
        slot: Slot,
        if_generation: u64,
        note: &str,
    ) -> Result<Switched, Trouble>;
    /// Takes a standby out of use; whether it is empty.
    async fn drain(&mut self, slot: Slot) -> Result<bool, Trouble>;
    /// Puts a standby back into use.
    async fn undrain(&mut self, slot: Slot) -> Result<(), Trouble>;
    /// Writes a line into the journal.
    async fn note(&mut self, text: &str) -> Result<(), Trouble>;

    /// Whether the engine answers.
    async fn engine(&mut self) -> Result<EngineNow, Trouble>;
    /// Whether compose understands its file, and both services are in it.
    async fn check_compose(&mut self, images: &[String; 2]) -> Result<(), Trouble>;
    /// The container of a slot.
    async fn container(&mut self, slot: Slot) -> Result<Option<Container>, Trouble>;
    /// The memory that a container uses now, if the engine knows.
    async fn memory_of(&mut self, id: &str) -> Option<u64>;
    /// An image by name or id.
    async fn image(&mut self, reference: &str) -> Result<Option<ImageNow>, Trouble>;
    /// Fetches an image.
    async fn pull(&mut self, image: &ImageName) -> Result<(), Trouble>;
    /// Makes the container of a slot anew, and does not start it. `images` are for both slots, by [`Slot::index`].
    async fn create(&mut self, slot: Slot, images: &[String; 2]) -> Result<Container, Trouble>;
    /// Starts a container.
    async fn start(&mut self, id: &str) -> Result<(), Trouble>;
    /// Stops a container, and leaves it there.
    async fn stop(&mut self, id: &str) -> Result<(), Trouble>;
    /// The last lines that a container wrote; none if they cannot be had.
    async fn logs(&mut self, id: &str) -> Vec<String>;
    /// Removes an image that no container needs.
    async fn remove_image(&mut self, reference: &str) -> Result<(), Trouble>;

    /// Asks an upstream for a page; the status and how long it took.
    async fn page(&mut self, upstream: &str, path: &str) -> Result<(u16, Duration), Trouble>;
    /// Bytes that are free on the disk of this directory; none if it is not on this machine.
    fn disk_free(&mut self, root: &std::path::Path) -> Option<u64>;
    /// Bytes of memory that are free.
    fn memory_free(&mut self) -> Result<u64, Trouble>;
    /// Seconds since 1970.
    fn unix_time(&self) -> u64;

    /// Keeps the ledger.
    fn store(&mut self, ledger: &Ledger) -> Result<(), Trouble>;
    /// Tells whoever watches.
    fn say(&mut self, said: Said);
    /// Sends messages. Does not wait for them.
    fn announce(&mut self, announcement: &Announcement);
}

// === impl SiteNow ===

impl SiteNow {
    /// One slot.
    pub fn slot(&self, slot: Slot) -> &SlotNow {
        &self.slots[slot.index()]
    }

    /// Reads one of `sites` of a status reply.
    pub fn read(site: &Value) -> Option<SiteNow> {
        let slot_named = |value: &Value| -> Option<Slot> { value.as_str()?.parse().ok() };
        let slot = |slot: Slot| SlotNow::read(&site["slots"][slot.as_str()]);
        Some(SiteNow {
            active: slot_named(&site["active"])?,
            generation: site["generation"].as_u64()?,
            stage: match site["cutover"].as_str() {
                Some("gating" | "persisting" | "publishing") => Stage::Changing,
                Some("draining") => Stage::Draining,
                _ => Stage::Steady,
            },
            slots: [slot(Slot::BOTH[0])?, slot(Slot::BOTH[1])?],
        })
    }
}

impl SlotNow {
    fn read(slot: &Value) -> Option<SlotNow> {
        let upstreams = slot["upstreams"].as_array()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(SlotNow {
            is_healthy: slot["healthy"].as_bool()?,
            is_drained: slot["drained"].as_bool()?,
            in_flight: slot["in_flight"].as_u64()?,
            answers: Answers {
                requests: slot["requests"].as_u64()?,
                // A daemon that is older than this command line does not count them.
                server_errors: slot["server_errors"].as_u64().unwrap_or(0),
            },
            upstreams: upstreams
                .iter()
                .filter_map(|upstream| text(&upstream["address"]))
                .collect(),
            last_failure: upstreams
                .iter()
                .find_map(|upstream| text(&upstream["last_failure"])),
        })
    }
}

// === impl ImageNow ===

impl ImageNow {
    /// Reads the array that `docker image inspect` prints.
    pub fn read(printed: &str) -> Option<ImageNow> {
        let shown: Value = serde_json::from_str(printed).ok()?;
        let image = shown.get(0)?;
        let label = |name: &str| Some(image["Config"]["Labels"][name].as_str()?.to_owned());
        let names = image["RepoTags"].as_array().into_iter().flatten();
        Some(ImageNow {
            id: image["Id"].as_str()?.to_owned(),
            revision: label("org.opencontainers.image.revision"),
            source: label("org.opencontainers.image.source"),
            names: names.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

// === impl Trouble ===

impl Trouble {
    /// What to do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Trouble::Refused { hint, .. } => hint.as_deref(),
            Trouble::Daemon(_) => Some(
                "is it running, and may this user use its socket? `systemctl status mana-proxy`",
            ),
            _ => None,
        }
    }

    /// Whether the daemon could not be asked at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Trouble::Daemon(_))
    }
}

/// The event of the daemon that says that new requests go to the new slot.
pub(crate) fn is_published(event: &Map<String, Value>) -> bool {
    event.get("event").and_then(Value::as_str) == Some("published")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_with_its_names_and_where_it_is_from() {
        let printed = r#"[{"Id":"sha256:aa","RepoTags":["app:41","keep:me"],"Config":{"Labels":{
            "org.opencontainers.image.revision":"c0ffee","org.opencontainers.image.source":"https://git.example/app"}}}]"#;
        let image = ImageNow::read(printed).expect("image");
        assert_eq!(
            (image.id.as_str(), image.names.as_slice()),
            (
                "sha256:aa",
                ["app:41", "keep:me"].map(str::to_owned).as_slice()
            )
        );
        assert_eq!(
            (image.revision.as_deref(), image.source.as_deref()),
            (Some("c0ffee"), Some("https://git.example/app"))
        );
        let bare =
            ImageNow::read(r#"[{"Id":"sha256:bb","RepoTags":null,"Config":{"Labels":null}}]"#)
                .expect("image");
        assert!(bare.names.is_empty() && bare.revision.is_none());
        assert_eq!(ImageNow::read("[]"), None);
    }

    #[test]
    fn a_site_is_read_from_a_status_reply() {
        let slot = |healthy: bool| {
            serde_json::json!({"healthy": healthy, "drained": false, "in_flight": 3, "requests": 9, "server_errors": 1,
                "upstreams": [{"address": "localhost:4000", "last_failure": if healthy { None } else { Some("refused") }}]})
        };
        let site = serde_json::json!({"active": "green", "generation": 7, "cutover": "draining", "slots": {"blue": slot(false), "green": slot(true)}});
        let now = SiteNow::read(&site).expect("site");
        assert_eq!(
            (now.active, now.generation, now.stage),
            (Slot::Green, 7, Stage::Draining)
        );
        assert_eq!(
            now.slot(Slot::Blue).last_failure.as_deref(),
            Some("refused")
        );
        assert_eq!(
            now.slot(Slot::Green).answers,
            Answers {
                requests: 9,
                server_errors: 1
            }
        );
        assert_eq!(now.slot(Slot::Green).upstreams, ["localhost:4000"]);
        assert_eq!(SiteNow::read(&serde_json::json!({"active": "red"})), None);
    }
}
