//! The commands of a deploy, as one could type them.
//!
//! Owns every argument that `docker` and compose are given. Pure: `engine` runs them. No secret is ever an argument, and
//! nothing that somebody else has named is one without having been checked.

use std::fmt;
use std::path::Path;

use crate::deploy::settings::DeploySettings;
use crate::slot::Slot;

/// What names the engine to `docker` and compose; it counts for more than what they know by name.
pub const ENGINE_VARIABLE: &str = "DOCKER_HOST";

/// How compose is called on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compose {
    /// `docker compose`, the plugin.
    Plugin,
    /// `docker-compose`, the program before it.
    Standalone,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The program, and what follows it.
    pub words: Vec<String>,
    /// What is put into its environment.
    pub environment: Vec<(String, String)>,
    /// Whether it changes containers, so that no other deploy may begin while it runs.
    pub holds_lock: bool,
}

/// A login of its own. `docker` looks for what it knows of engines where the login is, and finds nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Login<'a> {
    /// The directory that it is in.
    pub config: &'a Path,
    /// The engine that is used without it; none where it is named anyhow.
    pub engine: Option<&'a str>,
}

/// Makes the commands for one `[deploy]`.
#[derive(Clone, Copy, Debug)]
pub struct Commands<'a> {
    /// What is configured.
    pub settings: &'a DeploySettings,
    /// How compose is called.
    pub compose: Compose,
}

impl Commands<'_> {
    /// Whether the plugin is there.
    pub fn compose_plugin(&self) -> Invocation {
        self.docker(&["compose", "version", "--short"])
    }

    /// What the engine is.
    pub fn engine(&self) -> Invocation {
        self.docker(&["info", "--format", "{{json .}}"])
    }

    /// Which engine `docker` uses here, of those that it knows by name.
    pub fn context(&self) -> Invocation {
        let endpoint = "{{.Endpoints.docker.Host}}";
        self.docker(&["context", "inspect", "--format", endpoint])
    }

    /// Which services the compose file has.
    pub fn services(&self, images: &[String; 2]) -> Invocation {
        self.compose(images, &["config", "--services"], false)
    }

    /// The containers of a slot's service.
    pub fn containers(&self, slot: Slot) -> Invocation {
        let service = &self.settings.service(slot).service;
        let project = format!("label=com.docker.compose.project={}", self.settings.project);
        let service = format!("label=com.docker.compose.service={service}");
        let not_a_run = "label=com.docker.compose.oneoff=False";
        self.docker(&[
            "ps",
            "--all",
            "--no-trunc",
            "--quiet",
            "--filter",
            &project,
            "--filter",
            &service,
            "--filter",
            not_a_run,
        ])
    }

    /// All that the engine knows of some containers.
    pub fn inspect(&self, ids: &[String]) -> Invocation {
        let mut words = vec!["inspect", "--type", "container"];
        words.extend(ids.iter().map(String::as_str));
        self.docker(&words)
    }

    /// The memory that a container uses.
    pub fn usage(&self, id: &str) -> Invocation {
        self.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", id])
    }

    /// An image that is there.
    pub fn image(&self, reference: &str) -> Invocation {
        self.docker(&["image", "inspect", reference])
    }

    /// Fetches an image.
    pub fn pull(&self, image: &str, login: Option<Login<'_>>) -> Invocation {
        self.docker_with(login, &["pull", image])
    }

    /// Logs in; the token is its stdin.
    pub fn login(&self, login: Login<'_>, user: &str, registry: Option<&str>) -> Invocation {
        let mut words = vec!["login", "--username", user, "--password-stdin"];
        words.extend(registry);
        self.docker_with(Some(login), &words)
    }

    /// Forgets the login.
    pub fn logout(&self, login: Login<'_>, registry: Option<&str>) -> Invocation {
        let mut words = vec!["logout"];
        words.extend(registry);
        self.docker_with(Some(login), &words)
    }

    /// Makes the container of a slot's service, and does not start it. The other service is not looked at.
    pub fn create(&self, slot: Slot, images: &[String; 2]) -> Invocation {
        let service = &self.settings.service(slot).service;
        self.compose(
            images,
            &["up", "--no-start", "--no-deps", "--no-build", service],
            true,
        )
    }

    /// Starts a container.
    pub fn start(&self, id: &str) -> Invocation {
        self.changing(&["start", id])
    }

    /// Stops a container as its compose file says.
    pub fn stop(&self, id: &str) -> Invocation {
        self.changing(&["stop", id])
    }

    /// Removes a container that is stopped.
    pub fn remove(&self, id: &str) -> Invocation {
        self.changing(&["rm", id])
    }

    /// The last lines of a container.
    pub fn logs(&self, id: &str, lines: usize) -> Invocation {
        self.docker(&["logs", "--tail", &lines.to_string(), id])
    }

    /// Removes an image, unless a container needs it.
    pub fn remove_image(&self, reference: &str) -> Invocation {
        self.changing(&["image", "rm", reference])
    }

    fn docker(&self, words: &[&str]) -> Invocation {
        self.docker_with(None, words)
    }

    fn changing(&self, words: &[&str]) -> Invocation {
        Invocation {
            holds_lock: true,
            ..self.docker(words)
        }
    }

    fn docker_with(&self, login: Option<Login<'_>>, words: &[&str]) -> Invocation {
        let mut all = vec!["docker".to_owned()];
        let mut environment = self.engine_variable();
        if let Some(login) = login {
            all.extend(["--config".to_owned(), login.config.display().to_string()]);
            if let (Some(engine), true) = (login.engine, environment.is_empty()) {
                environment.push((ENGINE_VARIABLE.to_owned(), engine.to_owned()));
            }
        }
        all.extend(words.iter().map(|word| (*word).to_owned()));
        Invocation {
            words: all,
            environment,
            holds_lock: false,
        }
    }

    fn compose(&self, images: &[String; 2], words: &[&str], holds_lock: bool) -> Invocation {
        let mut all: Vec<String> = match self.compose {
            Compose::Plugin => vec!["docker".to_owned(), "compose".to_owned()],
            Compose::Standalone => vec!["docker-compose".to_owned()],
        };
        let file = self.settings.compose_file.display().to_string();
        for word in ["--project-name", &self.settings.project, "--file", &file] {
            all.push(word.to_owned());
        }
        all.extend(words.iter().map(|word| (*word).to_owned()));
        let mut environment = self.engine_variable();
        for slot in Slot::BOTH {
            let variable = self.settings.service(slot).image_variable.clone();
            environment.push((variable, images[slot.index()].clone()));
        }
        Invocation {
            words: all,
            environment,
            holds_lock,
        }
    }

    fn engine_variable(&self) -> Vec<(String, String)> {
        let engine = self.settings.engine.iter();
        engine
            .map(|engine| (ENGINE_VARIABLE.to_owned(), engine.clone()))
            .collect()
    }
}

/// As one could type it.
impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quoted(value))?;
        }
        for (n, word) in self.words.iter().enumerate() {
            let blank = if n == 0 { "" } else { " " };
            write!(f, "{blank}{}", quoted(word))?;
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=,+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::fake::settings;

    #[test]
    fn each_command_can_be_typed() {
        let mut settings = settings();
        let images = ["app:40".to_owned(), "app:41".to_owned()];
        let with =
            |settings: &DeploySettings, compose, make: &dyn Fn(Commands<'_>) -> Invocation| {
                make(Commands { settings, compose }).to_string()
            };
        let text = with(&settings, Compose::Standalone, &|c| {
            c.create(Slot::Green, &images)
        });
        assert_eq!(
            text,
            "BLUE_IMAGE=app:40 GREEN_IMAGE=app:41 docker-compose --project-name mana --file /srv/mana/compose.yml up --no-start --no-deps --no-build web_green"
        );
        settings.engine = Some("unix:///run/docker.sock".to_owned());
        let text = with(&settings, Compose::Plugin, &|c| c.services(&images));
        assert_eq!(
            text,
            "DOCKER_HOST=unix:///run/docker.sock BLUE_IMAGE=app:40 GREEN_IMAGE=app:41 docker compose --project-name mana --file /srv/mana/compose.yml config --services"
        );
        let text = with(&settings, Compose::Plugin, &|c| c.engine());
        assert_eq!(
            text,
            "DOCKER_HOST=unix:///run/docker.sock docker info --format '{{json .}}'"
        );
    }

    #[test]
    fn a_login_of_its_own_leaves_the_engine_as_it_is() {
        let mut settings = settings();
        let login = Login {
            config: Path::new("/var/lib/d/login-x"),
            engine: Some("unix:///run/user/7/docker.sock"),
        };
        let all = |settings: &DeploySettings| {
            let commands = Commands {
                settings,
                compose: Compose::Plugin,
            };
            [
                commands.login(login, "ci", Some("registry.example")),
                commands.pull("a:1", Some(login)),
                commands.logout(login, None),
            ]
            .map(|command| command.to_string())
        };
        let engine =
            "DOCKER_HOST=unix:///run/user/7/docker.sock docker --config /var/lib/d/login-x";
        assert_eq!(
            all(&settings),
            [
                format!("{engine} login --username ci --password-stdin registry.example"),
                format!("{engine} pull a:1"),
                format!("{engine} logout"),
            ]
        );
        // What is configured counts.
        settings.engine = Some("unix:///run/docker.sock".to_owned());
        for command in all(&settings) {
            assert!(
                command.starts_with("DOCKER_HOST=unix:///run/docker.sock docker --config"),
                "{command}"
            );
        }
    }

    #[test]
    fn only_commands_that_change_containers_hold_the_lock() {
        let settings = settings();
        let commands = Commands {
            settings: &settings,
            compose: Compose::Plugin,
        };
        let images = ["a:1".to_owned(), "a:2".to_owned()];
        for changing in [
            commands.create(Slot::Blue, &images),
            commands.start("c"),
            commands.stop("c"),
            commands.remove("c"),
            commands.remove_image("a:1"),
        ] {
            assert!(changing.holds_lock, "{changing}");
        }
        for reading in [
            commands.engine(),
            commands.services(&images),
            commands.containers(Slot::Blue),
            commands.pull("a:1", None),
            commands.logs("c", 5),
        ] {
            assert!(!reading.holds_lock, "{reading}");
        }
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_part_them() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a/b:c@d=e"), "a/b:c@d=e");
    }
}
