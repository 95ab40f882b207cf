//! A container as the engine shows it, and whether it may become a slot.
//!
//! Owns the reading of `docker inspect` and the judgement. Pure.

use serde::Deserialize;

use crate::slot::Slot;

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// `/mana_web_green_1`, without the slash.
    pub name: String,
    /// The image's id: `sha256:...`.
    pub image_id: String,
    /// The image as compose was told: `app:41`.
    pub image: String,
    /// How it is.
    pub state: State,
    /// How often the engine has started it again by itself.
    pub restarts: u64,
    /// `always`, `unless-stopped`, `on-failure`, `no`.
    pub restart_policy: String,
    /// What it publishes.
    pub ports: Vec<PublishedPort>,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// `created`, `running`, `restarting`, `exited`, `dead`, `paused`.
    pub word: String,
    /// Whether its process runs.
    pub is_running: bool,
    /// What its process ended with, if it has.
    pub exit_code: i64,
    /// What the engine says of a start that failed, or empty.
    pub error: String,
    /// Whether the kernel killed it for want of memory.
    pub is_out_of_memory: bool,
    /// `healthy`, `unhealthy`, `starting`, if the image or the compose file has a health check.
    pub health: Option<String>,
}

/// A port of the machine that leads into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// The address on the machine; empty is all of them.
    pub address: String,
    /// The port on the machine; `None` is any that is free.
    pub port: Option<u16>,
}

/// Why a container that was made may not be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another image than the one that was asked for.
    #[error(
        "service {service} was made of {found}, not of {wanted}: the compose file does not take its image from ${{{variable}}}"
    )]
    Image {
        /// The service.
        service: String,
        /// The image of the container.
        found: String,
        /// The image that was asked for.
        wanted: String,
        /// Where the compose file should take it from.
        variable: String,
    },
    /// A port that everybody reaches.
    #[error(
        "service {service} publishes port {port} on {address}, where everybody reaches it past the proxy"
    )]
    PublicPort {
        /// The service.
        service: String,
        /// The port.
        port: String,
        /// The address.
        address: String,
    },
    /// No published port is one of the slot's upstreams.
    #[error("service {service} publishes {published}, but the upstreams of {slot} are {upstreams}")]
    WrongPort {
        /// The service.
        service: String,
        /// What it publishes.
        published: String,
        /// The slot.
        slot: Slot,
        /// What the site's configuration has.
        upstreams: String,
    },
    /// The services of the slots are swapped: this would replace the live one.
    #[error(
        "{container} of service {service} is the standby's by the configuration, but publishes port {port}, which is an upstream of the active slot {active}"
    )]
    Live {
        /// The container.
        container: String,
        /// The service.
        service: String,
        /// The port.
        port: u16,
        /// The slot that it serves.
        active: Slot,
    },
    /// It would come back after every reboot, active or not.
    #[error(
        "service {service} has `restart: always`, so that after a reboot it runs whether it is active or not"
    )]
    RestartsAlways {
        /// The service.
        service: String,
    },
}

impl Unfit {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Unfit::Image { variable, .. } => {
                format!("write `image: ${{{variable}:?}}` in the compose file")
            }
            Unfit::PublicPort { port, .. } => {
                format!("write \"127.0.0.1:{port}:...\" in the compose file, or set deploy.public_ports = true")
            }
            Unfit::WrongPort { .. } => {
                "compare `ports` of the compose file with `blue` and `green` of the site; are the services swapped?".to_owned()
            }
            Unfit::Live { .. } => {
                "are deploy.blue and deploy.green swapped? compare them with `ports` of the compose file and with the upstreams of the site".to_owned()
            }
            Unfit::RestartsAlways { .. } => "write `restart: unless-stopped` in the compose file".to_owned(),
        }
    }
}

/// What a new container has to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The slot that it is for.
    pub slot: Slot,
    /// The service that it is of.
    pub service: &'a str,
    /// Where the compose file takes its image from.
    pub image_variable: &'a str,
    /// The image's id.
    pub image_id: &'a str,
    /// The slot's upstreams: `localhost:4001`.
    pub upstreams: &'a [String],
    /// Whether it may publish to everybody.
    pub public_ports: bool,
}

/// Whether a container that was made and not started is what was wanted.
///
/// # Errors
/// The first reason why not.
pub fn check(container: &Container, wanted: Wanted<'_>) -> Result<(), Unfit> {
    let service = || wanted.service.to_owned();
    if container.image_id != wanted.image_id {
        return Err(Unfit::Image {
            service: service(),
            found: format!("{} ({})", container.image, short(&container.image_id)),
            wanted: short(wanted.image_id).to_owned(),
            variable: wanted.image_variable.to_owned(),
        });
    }
    if container.restart_policy == "always" {
        return Err(Unfit::RestartsAlways { service: service() });
    }
    if !wanted.public_ports
        && let Some(public) = container.ports.iter().find(|port| !port.is_loopback())
    {
        return Err(Unfit::PublicPort {
            service: service(),
            port: public.port_text(),
            address: match public.address.as_str() {
                "" => "0.0.0.0".to_owned(),
                address => address.to_owned(),
            },
        });
    }
    let upstream_ports = ports(wanted.upstreams);
    let mut known = container
        .ports
        .iter()
        .filter_map(|port| port.port)
        .peekable();
    // One that publishes nothing shares the network of the machine; where it listens only the gate can tell.
    if known.peek().is_some() && !known.any(|port| upstream_ports.contains(&port)) {
        let published: Vec<String> = container
            .ports
            .iter()
            .map(PublishedPort::port_text)
            .collect();
        return Err(Unfit::WrongPort {
            service: service(),
            published: published.join(", "),
            slot: wanted.slot,
            upstreams: wanted.upstreams.join(", "),
        });
    }
    Ok(())
}

/// Whether a container that is to make way may: it does not if it is the one that serves, whatever its service is called.
///
/// # Errors
/// It publishes a port of the active slot.
pub fn check_makes_way(
    container: &Container,
    service: &str,
    active: Slot,
    upstreams: &[String],
) -> Result<(), Unfit> {
    let ports = ports(upstreams);
    let live = container
        .ports
        .iter()
        .filter_map(|port| port.port)
        .find(|port| ports.contains(port));
    match live {
        None => Ok(()),
        Some(port) => Err(Unfit::Live {
            container: container.name.clone(),
            service: service.to_owned(),
            port,
            active,
        }),
    }
}

fn ports(upstreams: &[String]) -> Vec<u16> {
    let ports = upstreams
        .iter()
        .filter_map(|upstream| upstream.rsplit_once(':')?.1.parse().ok());
    ports.collect()
}

/// `sha256:9f86d081884c...` as people read it.
pub fn short(image_id: &str) -> &str {
    let digits = image_id.strip_prefix("sha256:").unwrap_or(image_id);
    digits.get(..12).unwrap_or(digits)
}

// === impl Container ===

impl Container {
    /// Whether it has ended and does not run again yet.
    pub fn is_between_starts(&self) -> bool {
        !self.state.is_running || self.state.word == "restarting"
    }

    /// Why it does not serve any more, if it does not: it has ended, or was started again by itself.
    pub fn failure(&self) -> Option<String> {
        let State {
            word,
            exit_code,
            error,
            ..
        } = &self.state;
        if self.restarts > 0 {
            // While it runs again, what it ended with is not known.
            let code = match self.is_between_starts() {
                true => format!(", exit code {exit_code}"),
                false => String::new(),
            };
            let restarts = self.restarts;
            return Some(format!(
                "it has ended and was started again (restarts: {restarts}{code})"
            ));
        }
        if self.state.is_running && word != "restarting" {
            return None;
        }
        let mut text = format!("it is {word} (exit code {exit_code})");
        if self.state.is_out_of_memory {
            text.push_str(", killed for want of memory");
        }
        if !error.is_empty() {
            text.push_str(": ");
            text.push_str(error);
        }
        Some(text)
    }
}

// === impl PublishedPort ===

impl PublishedPort {
    fn is_loopback(&self) -> bool {
        let address = self.address.parse::<std::net::IpAddr>();
        address.is_ok_and(|address| address.is_loopback())
    }

    fn port_text(&self) -> String {
        self.port
            .map_or_else(|| "any port".to_owned(), |port| port.to_string())
    }
}

/// Reads the array that `docker inspect` prints.
///
/// # Errors
/// It is none.
pub fn parse_inspect(text: &str) -> Result<Vec<Container>, serde_json::Error> {
    let shown: Vec<Shown> = serde_json::from_str(text)?;
    Ok(shown.into_iter().map(Shown::into_container).collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    id: String,
    name: String,
    image: String,
    #[serde(default)]
    restart_count: u64,
    state: ShownState,
    config: ShownConfig,
    host_config: ShownHostConfig,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShownState {
    status: String,
    running: bool,
    #[serde(default)]
    exit_code: i64,
    #[serde(default)]
    error: String,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    health: Option<ShownHealth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShownHealth {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShownConfig {
    image: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShownHostConfig {
    restart_policy: Option<ShownPolicy>,
    port_bindings: Option<std::collections::BTreeMap<String, Option<Vec<ShownBinding>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShownPolicy {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ShownBinding {
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    host_port: String,
}

impl Shown {
    fn into_container(self) -> Container {
        let bindings = self.host_config.port_bindings.unwrap_or_default();
        let bindings = bindings.into_values().flatten().flatten();
        Container {
            name: self.name.trim_start_matches('/').to_owned(),
            id: self.id,
            image_id: self.image,
            image: self.config.image,
            restarts: self.restart_count,
            restart_policy: self
                .host_config
                .restart_policy
                .map(|policy| policy.name)
                .unwrap_or_default(),
            ports: bindings
                .map(|binding| PublishedPort {
                    address: binding.host_ip,
                    port: binding.host_port.parse().ok().filter(|port| *port > 0),
                })
                .collect(),
            state: State {
                word: self.state.status,
                is_running: self.state.running,
                exit_code: self.state.exit_code,
                error: self.state.error,
                is_out_of_memory: self.state.oom_killed,
                health: self.state.health.map(|health| health.status),
            },
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// As engine 20.10 shows one, cut down to what is read and some of what is not.
    const SHOWN: &str = r#"[{"Id":"c1","Created":"2026-11-22T09:00:00Z","Name":"/mana_web_green_1","Image":"sha256:aa",
      "RestartCount":0,"State":{"Status":"running","Running":true,"ExitCode":0,"Error":"","OOMKilled":false,
      "Health":{"Status":"healthy","FailingStreak":0}},"Config":{"Image":"app:41","Env":["A=b"]},
      "HostConfig":{"RestartPolicy":{"Name":"unless-stopped","MaximumRetryCount":0},
      "PortBindings":{"3000/tcp":[{"HostIp":"127.0.0.1","HostPort":"4001"}]}}},
      {"Id":"c2","Name":"/x","Image":"sha256:bb","State":{"Status":"created","Running":false},"Config":{"Image":"app:40"},
      "HostConfig":{"PortBindings":null}}]"#;

    pub(crate) fn container(image_id: &str, is_running: bool) -> Container {
        let mut container = parse_inspect(SHOWN).expect("inspect").remove(0);
        container.image_id = image_id.to_owned();
        container.state.is_running = is_running;
        container.state.word = if is_running { "running" } else { "exited" }.to_owned();
        container
    }

    fn wanted(upstreams: &[String]) -> Wanted<'_> {
        Wanted {
            slot: Slot::Green,
            service: "web_green",
            image_variable: "GREEN_IMAGE",
            image_id: "sha256:aa",
            upstreams,
            public_ports: false,
        }
    }

    #[test]
    fn a_container_is_read_as_the_engine_shows_it() {
        let read = parse_inspect(SHOWN).expect("inspect");
        let green = &read[0];
        assert_eq!(
            (green.name.as_str(), green.image.as_str()),
            ("mana_web_green_1", "app:41")
        );
        assert_eq!(green.state.health.as_deref(), Some("healthy"));
        let ports = [PublishedPort {
            address: "127.0.0.1".to_owned(),
            port: Some(4001),
        }];
        assert_eq!(green.ports, ports);
        assert!(read[1].ports.is_empty() && !read[1].state.is_running);
        assert!(parse_inspect("{}").is_err());
    }

    #[test]
    fn a_container_that_is_not_what_was_wanted_is_not_started() {
        let upstreams = ["localhost:4001".to_owned()];
        let good = container("sha256:aa", false);
        assert_eq!(check(&good, wanted(&upstreams)), Ok(()));
        let with = |change: &dyn Fn(&mut Container)| {
            let mut container = good.clone();
            change(&mut container);
            check(&container, wanted(&upstreams)).map_err(|unfit| (unfit.to_string(), unfit.hint()))
        };
        for (change, said, hint) in [
            (
                &(|c: &mut Container| c.image_id = "sha256:bb".into()) as &dyn Fn(&mut Container),
                "was made of app:41 (bb), not of aa",
                "${GREEN_IMAGE:?}",
            ),
            (
                &|c| c.restart_policy = "always".into(),
                "restart: always",
                "unless-stopped",
            ),
            (
                &|c| c.ports[0].address = "0.0.0.0".into(),
                "port 4001 on 0.0.0.0",
                "public_ports",
            ),
            (
                &|c| c.ports[0].address = String::new(),
                "port 4001 on 0.0.0.0",
                "127.0.0.1:4001",
            ),
            (
                &|c| c.ports[0].address = "::".into(),
                "on ::",
                "public_ports",
            ),
            (
                &|c| c.ports[0].port = Some(4000),
                "publishes 4000, but the upstreams of green are localhost:4001",
                "swapped",
            ),
        ] {
            let (error, advice) = with(change).expect_err(said);
            assert!(
                error.contains(said) && advice.contains(hint),
                "{error}\n{advice}"
            );
        }
        assert_eq!(with(&|c| c.ports.clear()), Ok(()));
        assert_eq!(with(&|c| c.ports[0].port = None), Ok(()));
    }

    #[test]
    fn what_serves_does_not_make_way_whatever_its_service_is_called() {
        let standby = container("sha256:aa", true);
        let upstreams = |text: &str| [text.to_owned()];
        assert_eq!(
            check_makes_way(
                &standby,
                "web_green",
                Slot::Blue,
                &upstreams("localhost:4000")
            ),
            Ok(())
        );
        let error = check_makes_way(&standby, "web_green", Slot::Blue, &upstreams("[::1]:4001"))
            .expect_err("live");
        assert!(
            error
                .to_string()
                .contains("publishes port 4001, which is an upstream of the active slot blue"),
            "{error}"
        );
        assert!(error.hint().contains("swapped"));
    }

    #[test]
    fn a_container_says_why_it_does_not_serve() {
        let mut container = container("sha256:aa", true);
        assert_eq!(container.failure(), None);
        container.restarts = 2;
        assert!(
            container
                .failure()
                .expect("failure")
                .contains("restarts: 2")
        );
        container.restarts = 0;
        container.state.is_running = false;
        container.state.word = "exited".to_owned();
        container.state.exit_code = 137;
        container.state.is_out_of_memory = true;
        assert_eq!(
            container.failure().expect("failure"),
            "it is exited (exit code 137), killed for want of memory"
        );
    }
}
