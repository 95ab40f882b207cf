//! The `[deploy]` section: what `mana-proxy deploy` needs to know. The daemon itself does not look at it.

use std::path::PathBuf;
use std::time::Duration;

use mana_control::deploy::image::is_repository;
use mana_control::deploy::settings::{
    DeploySettings, KeepWarm, Pull, SlotService, WarmUp, WatchSettings,
};
use mana_control::{Host, Slot};
use toml::de::DeValue;

use super::addresses;
use super::fault::At;
use super::message;
use super::section::{Parsed, Section, wrong_type};
use super::values::{self, WAIT, WAIT_OR_NONE};
use crate::messages::Destination;

/// Where lock, ledger and waiting messages are unless it is configured.
const DIR: &str = "/var/lib/mana-proxy-deploy";
/// Images that are kept.
const KEEP_IMAGES_MAX: usize = 100;
/// Paths of a warm-up, and requests.
const WARM_UP_PATHS_MAX: usize = 64;
const WARM_UP_REQUESTS_MAX: usize = 100_000;
/// A watch window that waits for more answers than this judges nobody.
const REQUESTS_MIN_MAX: u64 = 1_000_000;
/// More than any machine has.
const SIZE_MAX: u64 = 1 << 50;

/// `[deploy]` with those who are told.
#[derive(Clone, Debug, PartialEq)]
pub struct Deploy {
    /// Everything but the messages.
    pub settings: DeploySettings,
    /// `[[deploy.message]]`, none or up to 16: who is told of deploys. `to`, required: `discord`, `slack` or `webhook`. `url`
    /// or `url_file`, required. `secret` or `secret_file`, required for webhooks: signs what is sent. `on`, default all:
    /// `started`, `succeeded`, `failed`, `rolled_back`. `ca_root`, default the system's roots.
    pub messages: Vec<Destination>,
}

/// A section with the line of its site, which has to be one of the file's.
pub(super) struct DeployDraft {
    site: Option<At<Host>>,
    line_of_section: At<()>,
    settings: Option<DeploySettings>,
    messages: Option<Vec<Destination>>,
}

impl DeployDraft {
    /// Reads all keys and names those that are none. None if the file has no such section.
    pub(super) fn read(mut section: Section<'_>) -> Option<DeployDraft> {
        if !section.is_present() {
            return None;
        }
        let site = section.optional("site", addresses::host);
        let compose_file =
            section.required("compose_file", r#""/srv/mana/compose.yml""#, values::path);
        let project = section.required("project", r#""mana""#, project);
        let services = Slot::BOTH.map(|slot| read_service(&mut section, slot));
        let [blue, green] = services;
        if let (Some(blue), Some(green)) = (&blue, &green) {
            if blue.service == green.service {
                section.fault(
                    "green",
                    format!(
                        "{:?} is blue's service; each slot has its own",
                        green.service
                    ),
                );
            }
            if blue.image_variable == green.image_variable {
                let reason = format!(
                    "{} is blue's; with one variable for both, starting one slot would make the other anew",
                    green.image_variable
                );
                section.fault("green", reason);
            }
        }
        let image = section.optional("image", repository);
        let engine = section.optional("engine", engine);
        let settings = DeploySettings {
            // Put in once it is known which sites there are.
            site: "localhost".parse().ok()?,
            compose_file: compose_file.map(|at| at.value).unwrap_or_default(),
            project: project
                .as_ref()
                .map(|at| at.value.clone())
                .unwrap_or_default(),
            services: [
                blue.clone().unwrap_or_default(),
                green.clone().unwrap_or_default(),
            ],
            image: image.map(|at| at.value),
            engine: engine.map(|at| at.value),
            dir: section.or("dir", PathBuf::from(DIR), values::path),
            pull: section.or("pull", Pull::default(), pull),
            pull_timeout: section.or(
                "pull_timeout",
                Duration::from_secs(600),
                values::duration(WAIT),
            ),
            start_timeout: section.or(
                "start_timeout",
                Duration::from_secs(60),
                values::duration(WAIT),
            ),
            warm_up: read_warm_up(section.section("warm_up")),
            watch: read_watch(section.section("watch")),
            keep_warm: section.or(
                "keep_warm",
                KeepWarm::For(Duration::from_secs(600)),
                keep_warm,
            ),
            keep_images: section.or("keep_images", 5, values::count(2..=KEEP_IMAGES_MAX)),
            disk_free_min: section.or("disk_free_min", 1 << 30, values::size(0..=SIZE_MAX)),
            memory_free_min: section.or("memory_free_min", 256 << 20, values::size(0..=SIZE_MAX)),
            lock_wait: section.or(
                "lock_wait",
                Duration::from_secs(1800),
                values::duration(WAIT),
            ),
            registry_user: section
                .optional("registry_user", registry_user)
                .map(|at| at.value),
            public_ports: section.or("public_ports", false, values::flag),
        };
        let messages = message::read_all(&mut section);
        let is_whole = project.is_some() && blue.is_some() && green.is_some();
        let line_of_section = section.here();
        section.finish();
        Some(DeployDraft {
            site,
            line_of_section,
            settings: is_whole.then_some(settings),
            messages,
        })
    }

    /// The settings with their site, which is one of `sites`. None only if a fault was recorded.
    pub(super) fn build(self, sites: &[Host], fault: impl Fn(usize, String)) -> Option<Deploy> {
        let names = || {
            sites
                .iter()
                .map(Host::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let site = match (self.site, sites) {
            (Some(at), _) if sites.contains(&at.value) => Some(at.value),
            (Some(at), _) => {
                fault(
                    at.line,
                    format!(
                        "{} is no [[site]] of this file: there is {}",
                        at.value,
                        names()
                    ),
                );
                None
            }
            (None, [site]) => Some(site.clone()),
            (None, []) => None,
            (None, _) => {
                fault(
                    self.line_of_section.line,
                    format!("is missing: write which of {}", names()),
                );
                None
            }
        };
        let mut settings = self.settings?;
        settings.site = site?;
        Some(Deploy {
            settings,
            messages: self.messages?,
        })
    }
}

fn read_service(section: &mut Section<'_>, slot: Slot) -> Option<SlotService> {
    let example = format!(
        r#"{{ service = "web_{slot}", image_variable = "{}_IMAGE" }}"#,
        slot.as_str().to_uppercase()
    );
    let Some(mut inner) = section.section_if_table(slot.as_str()) else {
        section.required(slot.as_str(), &example, |value| {
            Err::<(), _>(wrong_type(value, &example))
        });
        return None;
    };
    let service = inner.required("service", &format!(r#""web_{slot}""#), service);
    let variable = inner.required("image_variable", r#""BLUE_IMAGE""#, variable);
    inner.finish();
    Some(SlotService {
        service: service?.value,
        image_variable: variable?.value,
    })
}

fn read_warm_up(mut section: Section<'_>) -> WarmUp {
    let default = WarmUp::default();
    let paths = section.list("paths", values::request_path);
    if paths.len() > WARM_UP_PATHS_MAX {
        section.fault("paths", format!("at most {WARM_UP_PATHS_MAX} paths"));
    }
    let warm_up = WarmUp {
        paths: paths.into_iter().map(|at| at.value).collect(),
        requests: section.or(
            "requests",
            default.requests,
            values::count(1..=WARM_UP_REQUESTS_MAX),
        ),
        timeout: section.or("timeout", default.timeout, values::duration(WAIT)),
    };
    section.finish();
    warm_up
}

fn read_watch(mut section: Section<'_>) -> WatchSettings {
    let default = WatchSettings::default();
    let watch = WatchSettings {
        time: section.or("time", default.time, values::duration(WAIT_OR_NONE)),
        errors_percent: section.or(
            "errors_percent",
            default.errors_percent,
            values::count(1..=100),
        ),
        requests_min: section.or(
            "requests_min",
            default.requests_min,
            values::count(1..=REQUESTS_MIN_MAX),
        ),
    };
    section.finish();
    watch
}

/// Compose: lower-case letters, digits, dashes and underscores, the first a letter or a digit.
fn project(value: &DeValue<'_>) -> Parsed<String> {
    let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    word(value, "a project of compose, such as mana-client", is_fit)
}

fn service(value: &DeValue<'_>) -> Parsed<String> {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    word(value, "a service of compose, such as web_blue", is_fit)
}

fn variable(value: &DeValue<'_>) -> Parsed<String> {
    let is_fit = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name = word(value, "a variable, such as BLUE_IMAGE", is_fit)?;
    match ["PATH", "HOME", "DOCKER_HOST"].contains(&name.as_str())
        || name.starts_with(|c: char| c.is_ascii_digit())
    {
        false => Ok(name),
        true => Err(format!("{name:?} is no variable that an image could be in")),
    }
}

fn word(value: &DeValue<'_>, what: &str, is_fit: impl Fn(char) -> bool) -> Parsed<String> {
    let text = values::string(value)?;
    let is_word = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 128
        && text.chars().all(is_fit);
    match is_word {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not {what}")),
    }
}

fn repository(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    match is_repository(text) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is no repository: write registry.example/team/app, without a tag"
        )),
    }
}

fn engine(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    let is_fit = text
        .strip_prefix("unix://")
        .is_some_and(|path| path.starts_with('/'))
        && !text.chars().any(char::is_control);
    match is_fit {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is not where an engine of this machine is: write unix:///run/docker.sock"
        )),
    }
}

fn registry_user(value: &DeValue<'_>) -> Parsed<String> {
    let text = values::string(value)?;
    let is_fit = !text.is_empty()
        && text.len() <= 256
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_graphic());
    match is_fit {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is no user of a registry")),
    }
}

fn pull(value: &DeValue<'_>) -> Parsed<Pull> {
    match values::string(value)? {
        "always" => Ok(Pull::Always),
        "missing" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        other => Err(format!("{other:?} is none of always, missing, never")),
    }
}

fn keep_warm(value: &DeValue<'_>) -> Parsed<KeepWarm> {
    match value.as_str() {
        Some("always") => Ok(KeepWarm::Always),
        _ => values::duration(WAIT_OR_NONE)(value).map(KeepWarm::For),
    }
}
