//! A world to try the course in: an engine, a daemon and a machine that fail when they are told to, and that panic when
//! something is done that must never be done.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::deploy::container::tests::container;
use crate::deploy::container::{Container, PublishedPort};
use crate::deploy::hands::{
    Announcement, EngineNow, Hands, ImageNow, SiteNow, SlotNow, Stage, Switched, Trouble,
};
use crate::deploy::image::ImageName;
use crate::deploy::ledger::Ledger;
use crate::deploy::settings::*;
use crate::deploy::steps::{Said, StepState};
use crate::reply::Code;
use crate::slot::Slot;

pub(crate) fn settings() -> DeploySettings {
    DeploySettings {
        site: "mana.so".parse().expect("host"),
        drain: Duration::from_secs(40),
        compose_file: "/srv/mana/compose.yml".into(),
        project: "mana".to_owned(),
        services: Slot::BOTH.map(|slot| SlotService {
            service: format!("web_{slot}"),
            image_variable: format!("{}_IMAGE", slot.as_str().to_uppercase()),
        }),
        image: None,
        engine: None,
        dir: "/nowhere".into(),
        pull: Pull::Always,
        pull_timeout: Duration::from_secs(600),
        start_timeout: Duration::from_secs(60),
        warm_up: WarmUp {
            paths: vec!["/".to_owned()],
            ..WarmUp::default()
        },
        watch: WatchSettings::default(),
        keep_warm: KeepWarm::For(Duration::from_secs(600)),
        keep_images: 2,
        disk_free_min: 1 << 30,
        memory_free_min: 1 << 28,
        lock_wait: Duration::from_secs(1800),
        registry_user: None,
        public_ports: false,
    }
}

/// What a release is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nature {
    Good,
    /// It ends at once.
    Crashes,
    /// Its health check fails.
    Unhealthy,
    /// It passes after so many probes.
    Slow(u32),
    /// Its pages are answered 500.
    BrokenPages,
    /// Once active, it answers 500.
    ErrorsLive,
    /// Once active, it ends.
    DiesLive,
    /// It publishes to everybody.
    Public,
}

/// The world.
pub(crate) struct World {
    pub active: Slot,
    pub generation: u64,
    pub is_drained: [bool; 2],
    /// Requests inside that do not go away.
    pub stuck: [u64; 2],
    pub answered: [(u64, u64); 2],
    pub containers: [Option<Container>; 2],
    /// By name: id and nature. What the registry has; `images` is what is here.
    pub registry: BTreeMap<String, (String, Nature)>,
    pub images: BTreeMap<String, (String, Nature)>,
    pub disk: u64,
    pub memory: u64,
    pub unix_time: u64,
    pub ledger: Ledger,
    pub is_disk_full: bool,
    pub is_reserved: bool,
    /// How long the old slot has requests after a switch.
    pub drains_for: Option<Duration>,
    pub switched_at: Option<Instant>,
    /// The engine does not answer any more once there was a switch.
    pub hangs_after_switch: bool,
    /// A switch back to blue is turned away.
    pub refuses_to_go_back: bool,
    /// The daemon is away from the first probe on.
    pub is_gone_from_gate: bool,
    pub said: Vec<String>,
    pub notes: Vec<String>,
    pub announced: Vec<Announcement>,
    /// The calls so far, by name.
    pub calls: Vec<&'static str>,
    /// The call that fails, counted from 0.
    pub fails: Option<usize>,
    /// The call before which somebody makes green active by hand.
    pub switches: Option<usize>,
    /// The call at which whoever gave the order goes away.
    pub cancels: Option<(usize, watch::Sender<bool>)>,
    probes: u32,
}

impl World {
    /// Blue runs `app:40` and is active; green has stopped with `app:39`.
    pub(crate) fn new() -> World {
        let images = [("app:39", "i39"), ("app:40", "i40")];
        World {
            active: Slot::Blue,
            generation: 7,
            is_drained: [false; 2],
            stuck: [0; 2],
            answered: [(0, 0); 2],
            containers: [
                Some(of_slot(Slot::Blue, "app:40", "i40", true)),
                Some(of_slot(Slot::Green, "app:39", "i39", false)),
            ],
            registry: BTreeMap::from([("app:41".to_owned(), ("i41".to_owned(), Nature::Good))]),
            images: images
                .map(|(name, id)| (name.to_owned(), (id.to_owned(), Nature::Good)))
                .into(),
            disk: 1 << 40,
            memory: 1 << 34,
            unix_time: 1000,
            ledger: Ledger::default(),
            is_disk_full: false,
            is_reserved: false,
            drains_for: None,
            switched_at: None,
            hangs_after_switch: false,
            refuses_to_go_back: false,
            is_gone_from_gate: false,
            said: Vec::new(),
            notes: Vec::new(),
            announced: Vec::new(),
            calls: Vec::new(),
            fails: None,
            switches: None,
            cancels: None,
            probes: 0,
        }
    }

    /// The registry has `app:41`, and it is like this.
    pub(crate) fn with(nature: Nature) -> World {
        let mut world = World::new();
        world
            .registry
            .insert("app:41".to_owned(), ("i41".to_owned(), nature));
        world
    }

    pub(crate) fn image_of(&self, slot: Slot) -> Option<&str> {
        self.containers[slot.index()]
            .as_ref()
            .map(|container| container.image_id.as_str())
    }

    pub(crate) fn runs(&self, slot: Slot) -> bool {
        self.containers[slot.index()]
            .as_ref()
            .is_some_and(|container| container.state.is_running)
    }

    fn nature(&self, slot: Slot) -> Nature {
        let id = self.image_of(slot).unwrap_or_default();
        let known = self.images.values().chain(self.registry.values());
        known
            .into_iter()
            .find(|(known, _)| known == id)
            .map_or(Nature::Good, |(_, nature)| *nature)
    }

    /// Counts the call; whether it is the one that fails.
    async fn call(&mut self, name: &'static str) -> Result<(), Trouble> {
        // A call takes its time, so that one may be interrupted.
        sleep(Duration::from_millis(1)).await;
        let number = self.calls.len();
        self.calls.push(name);
        if self.cancels.as_ref().is_some_and(|(at, _)| *at == number)
            && let Some((_, sender)) = self.cancels.take()
        {
            sender.send_replace(true);
            // What was interrupted has not happened.
            sleep(Duration::from_millis(1)).await;
        }
        // The daemon turns away whoever comes after the reservation.
        if self.switches == Some(number) && !self.is_reserved {
            self.active = Slot::Green;
            self.generation += 1;
            self.is_drained[Slot::Green.index()] = false;
        }
        match self.fails == Some(number) {
            true => Err(Trouble::Engine {
                command: name.to_owned(),
                said: "was told to fail".to_owned(),
            }),
            false => Ok(()),
        }
    }

    fn slot_of(&self, id: &str) -> Slot {
        let has = |slot: &Slot| {
            self.containers[slot.index()]
                .as_ref()
                .is_some_and(|container| container.id == id)
        };
        Slot::BOTH
            .into_iter()
            .find(has)
            .expect("a container that is there")
    }

    fn in_flight(&self, slot: Slot) -> u64 {
        let is_draining = slot != self.active && self.is_draining();
        self.stuck[slot.index()] + u64::from(is_draining)
    }

    fn is_draining(&self) -> bool {
        let times = self.drains_for.zip(self.switched_at);
        times.is_some_and(|(time, at)| at.elapsed() < time)
    }

    fn set(&mut self, slot: Slot, is_running: bool, word: &str, exit_code: i64) {
        let container = self.containers[slot.index()].as_mut().expect("container");
        container.state.is_running = is_running;
        container.state.word = word.to_owned();
        container.state.exit_code = exit_code;
    }
}

fn of_slot(slot: Slot, image: &str, id: &str, is_running: bool) -> Container {
    let mut container = container(id, is_running);
    container.id = format!("{slot}-{id}");
    container.name = format!("mana_web_{slot}_1");
    container.image = image.to_owned();
    container.ports = vec![PublishedPort {
        address: "127.0.0.1".to_owned(),
        port: Some(4000 + slot.index() as u16),
    }];
    container
}

impl Hands for World {
    async fn site(&mut self) -> Result<SiteNow, Trouble> {
        self.call("site").await?;
        if self.is_gone_from_gate && self.calls.contains(&"probe") {
            return Err(Trouble::Daemon("cannot reach the daemon".to_owned()));
        }
        if self.nature(self.active) == Nature::ErrorsLive && self.generation > 7 {
            let answered = &mut self.answered[self.active.index()];
            *answered = (answered.0 + 10, answered.1 + 9);
        }
        if self.nature(self.active) == Nature::DiesLive && self.generation > 7 {
            self.set(self.active, false, "exited", 1);
        }
        let slot = |slot: Slot| SlotNow {
            is_healthy: self.runs(slot) && self.nature(slot) != Nature::Unhealthy,
            is_drained: self.is_drained[slot.index()],
            in_flight: self.in_flight(slot),
            answers: crate::deploy::watch::Answers {
                requests: self.answered[slot.index()].0,
                server_errors: self.answered[slot.index()].1,
            },
            upstreams: vec![format!("localhost:{}", 4000 + slot.index())],
            last_failure: None,
        };
        Ok(SiteNow {
            active: self.active,
            generation: self.generation,
            stage: if self.is_draining() {
                Stage::Draining
            } else {
                Stage::Steady
            },
            slots: Slot::BOTH.map(slot),
        })
    }

    async fn probe(&mut self, slot: Slot) -> Result<String, Trouble> {
        self.call("probe").await?;
        self.probes += 1;
        let passes = match self.nature(slot) {
            Nature::Unhealthy | Nature::Crashes => false,
            Nature::Slow(probes) => self.probes > probes,
            _ => self.runs(slot),
        };
        match passes {
            true => Ok("2 good probes of at most 3 on /".to_owned()),
            false => Err(Trouble::Refused {
                code: Code::Refused,
                error: "localhost:4001 answered 500 where 200 is expected".to_owned(),
                hint: None,
            }),
        }
    }

    async fn switch(
        &mut self,
        slot: Slot,
        if_generation: u64,
        _note: &str,
    ) -> Result<Switched, Trouble> {
        self.call("switch").await?;
        if self.refuses_to_go_back && slot == Slot::Blue {
            return Err(Trouble::Refused {
                code: Code::Refused,
                error: "blue does not pass its gate".to_owned(),
                hint: None,
            });
        }
        if if_generation != self.generation {
            return Err(Trouble::Refused {
                code: Code::Conflict,
                error: format!("the generation is {}", self.generation),
                hint: None,
            });
        }
        assert!(self.runs(slot), "a switch to what does not run");
        self.active = slot;
        self.generation += 1;
        self.is_drained[slot.index()] = false;
        // A switch back makes an end of the drain.
        self.switched_at = (slot == Slot::Green).then(Instant::now);
        Ok(Switched {
            generation: self.generation,
            published: Some(Instant::now()),
            warning: None,
        })
    }

    async fn reserve(&mut self, slot: Slot) -> Result<(), Trouble> {
        self.call("reserve").await?;
        if slot == self.active {
            return Err(Trouble::Refused {
                code: Code::Refused,
                error: "it is the active slot".to_owned(),
                hint: None,
            });
        }
        self.is_reserved = true;
        Ok(())
    }

    async fn drain(&mut self, slot: Slot) -> Result<bool, Trouble> {
        self.call("drain").await?;
        if slot == self.active {
            return Err(Trouble::Refused {
                code: Code::Refused,
                error: "the slot is the active one".to_owned(),
                hint: None,
            });
        }
        self.is_drained[slot.index()] = true;
        Ok(self.in_flight(slot) == 0)
    }

    async fn undrain(&mut self, slot: Slot) -> Result<(), Trouble> {
        self.call("undrain").await?;
        self.is_drained[slot.index()] = false;
        Ok(())
    }

    async fn note(&mut self, text: &str) -> Result<(), Trouble> {
        self.notes.push(text.to_owned());
        Ok(())
    }

    async fn engine(&mut self) -> Result<EngineNow, Trouble> {
        self.call("engine").await?;
        Ok(EngineNow {
            version: "20.10.24".to_owned(),
            root: "/var/lib/docker".into(),
        })
    }

    async fn check_compose(&mut self, _images: &[String; 2]) -> Result<(), Trouble> {
        self.call("check_compose").await
    }

    async fn container(&mut self, slot: Slot) -> Result<Option<Container>, Trouble> {
        self.call("container").await?;
        if self.hangs_after_switch && self.generation > 7 {
            std::future::pending::<()>().await;
        }
        Ok(self.containers[slot.index()].clone())
    }

    async fn memory_of(&mut self, _id: &str) -> Option<u64> {
        Some(100 << 20)
    }

    async fn image(&mut self, reference: &str) -> Result<Option<ImageNow>, Trouble> {
        self.call("image").await?;
        let found = self
            .images
            .get(reference)
            .or_else(|| self.images.values().find(|(id, _)| id == reference));
        let id = found.map(|(id, _)| id.clone());
        let called = |id: &String| {
            let names = self.images.iter().filter(|(_, (known, _))| known == id);
            names.map(|(name, _)| name.clone()).collect()
        };
        Ok(id.map(|id| ImageNow {
            names: called(&id),
            revision: Some(format!("commit of {id}")),
            id,
            ..ImageNow::default()
        }))
    }

    async fn pull(&mut self, image: &ImageName) -> Result<(), Trouble> {
        self.call("pull").await?;
        let name = image.to_string();
        let Some(found) = self.registry.get(&name).cloned() else {
            return Err(Trouble::Engine {
                command: format!("docker pull {name}"),
                said: "failed: manifest unknown".to_owned(),
            });
        };
        self.images.insert(name, found);
        Ok(())
    }

    async fn create(&mut self, slot: Slot, images: &[String; 2]) -> Result<Container, Trouble> {
        assert_ne!(slot, self.active, "the live container is made anew");
        assert!(
            self.is_drained[slot.index()] || !self.runs(slot),
            "a backup is made anew"
        );
        assert!(
            !self.runs(slot) || self.in_flight(slot) == 0,
            "requests are cut off"
        );
        // The old one goes first, and then making the new one may fail.
        self.containers[slot.index()] = None;
        self.call("create").await?;
        let reference = &images[slot.index()];
        let found = self
            .images
            .get_key_value(reference)
            .map(|(name, (id, _))| (name.clone(), id.clone()));
        let by_id = || {
            self.images
                .iter()
                .find(|(_, (id, _))| id == reference)
                .map(|(_, (id, _))| (id.clone(), id.clone()))
        };
        let (name, id) = found.or_else(by_id).expect("an image that is here");
        let mut made = of_slot(slot, &name, &id, false);
        made.state.word = "created".to_owned();
        self.containers[slot.index()] = Some(made);
        if self.nature(slot) == Nature::Public
            && let Some(made) = &mut self.containers[slot.index()]
        {
            made.ports[0].address = "0.0.0.0".to_owned();
        }
        Ok(self.containers[slot.index()].clone().expect("just made"))
    }

    async fn start(&mut self, id: &str) -> Result<(), Trouble> {
        self.call("start").await?;
        let slot = self.slot_of(id);
        match self.nature(slot) {
            Nature::Crashes => self.set(slot, false, "exited", 1),
            _ => self.set(slot, true, "running", 0),
        }
        Ok(())
    }

    async fn stop(&mut self, id: &str) -> Result<(), Trouble> {
        let slot = self.slot_of(id);
        assert_ne!(slot, self.active, "the live container is stopped");
        assert_eq!(self.in_flight(slot), 0, "requests are cut off");
        self.call("stop").await?;
        self.set(slot, false, "exited", 0);
        Ok(())
    }

    async fn logs(&mut self, _id: &str) -> Vec<String> {
        vec!["the last line".to_owned()]
    }

    async fn remove_image(&mut self, reference: &str) -> Result<(), Trouble> {
        self.call("remove_image").await?;
        let id = self
            .images
            .get(reference)
            .map_or(reference.to_owned(), |(id, _)| id.clone());
        let is_used = |container: &Option<Container>| {
            container
                .as_ref()
                .is_some_and(|container| container.image_id == id)
        };
        assert!(
            !self.containers.iter().any(is_used),
            "an image in use is removed"
        );
        self.images
            .retain(|name, (known, _)| name != reference && known != reference);
        Ok(())
    }

    async fn page(&mut self, upstream: &str, _path: &str) -> Result<(u16, Duration), Trouble> {
        self.call("page").await?;
        let slot = if upstream.ends_with("4000") {
            Slot::Blue
        } else {
            Slot::Green
        };
        assert_ne!(slot, self.active, "the live slot is warmed up");
        let status = if self.nature(slot) == Nature::BrokenPages {
            500
        } else {
            200
        };
        Ok((status, Duration::from_millis(10)))
    }

    fn disk_free(&mut self, _root: &Path) -> Option<u64> {
        Some(self.disk)
    }

    fn memory_free(&mut self) -> Result<u64, Trouble> {
        Ok(self.memory)
    }

    fn unix_time(&self) -> u64 {
        self.unix_time
    }

    fn store(&mut self, ledger: &Ledger) -> Result<(), Trouble> {
        if self.is_disk_full {
            return Err(Trouble::Engine {
                command: "store".to_owned(),
                said: "has no room".to_owned(),
            });
        }
        self.ledger = ledger.clone();
        Ok(())
    }

    fn say(&mut self, said: Said) {
        if let Said::Step {
            step,
            state,
            detail,
            ..
        } = said
            && state != StepState::Began
        {
            self.said
                .push(format!("{step} {}: {detail}", state.as_str()));
        }
    }

    fn announce(&mut self, announcement: &Announcement) {
        self.announced.push(announcement.clone());
    }
}
