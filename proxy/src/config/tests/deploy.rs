//! The `[deploy]` section.

use mana_control::deploy::settings::{KeepWarm, Pull};

use super::*;

/// Behind [`SMALLEST`]; the section begins in line 10.
pub(super) const SECTION: &str = r#"[deploy]
compose_file = "/srv/mana/compose.yml"
project = "mana"
blue = { service = "web_blue", image_variable = "BLUE_IMAGE" }
green = { service = "web_green", image_variable = "GREEN_IMAGE" }
"#;

fn with(more: &str) -> String {
    format!("{SMALLEST}{SECTION}{more}")
}

#[test]
fn the_smallest_section_has_every_default() {
    assert_eq!(parse(SMALLEST).deploy, None);
    let deploy = parse(&with("")).deploy.unwrap().settings;
    assert_eq!(
        (deploy.site.as_str(), deploy.project.as_str()),
        ("mana.so", "mana")
    );
    assert_eq!(deploy.service(Slot::Green).image_variable, "GREEN_IMAGE");
    assert_eq!((deploy.pull, deploy.keep_images), (Pull::Always, 5));
    assert_eq!(deploy.keep_warm, KeepWarm::For(Duration::from_secs(600)));
    assert_eq!(
        (deploy.disk_free_min, deploy.memory_free_min),
        (1 << 30, 256 << 20)
    );
    assert_eq!(deploy.watch.time, Duration::from_secs(30));
    assert!(deploy.warm_up.paths.is_empty() && deploy.engine.is_none() && !deploy.public_ports);
}

#[test]
fn every_key_is_read() {
    let deploy = parse(&with(
        r#"site = "mana.so"
image = "registry.example/mana-client"
engine = "unix:///run/docker.sock"
dir = "/srv/deploy"
pull = "missing"
pull_timeout = "1m"
start_timeout = "2m"
warm_up = { paths = ["/", "/a"], requests = 50, timeout = "5s" }
watch = { time = "0s", errors_percent = 10, requests_min = 3 }
keep_warm = "always"
keep_images = 3
disk_free_min = "2GiB"
memory_free_min = "0B"
lock_wait = "5m"
registry_user = "mana-client-pull"
public_ports = true
"#,
    ))
    .deploy
    .unwrap()
    .settings;
    assert_eq!(
        deploy.image.as_deref(),
        Some("registry.example/mana-client")
    );
    assert_eq!(deploy.engine.as_deref(), Some("unix:///run/docker.sock"));
    assert_eq!(deploy.warm_up.paths, ["/", "/a"]);
    assert_eq!(
        (deploy.watch.errors_percent, deploy.watch.requests_min),
        (10, 3)
    );
    assert_eq!(
        (deploy.keep_warm, deploy.pull),
        (KeepWarm::Always, Pull::Missing)
    );
    assert_eq!((deploy.keep_images, deploy.disk_free_min), (3, 2 << 30));
    assert!(deploy.public_ports && deploy.memory_free_min == 0);
}

#[test]
fn what_a_deploy_cannot_be_done_with_is_named() {
    for (more, line, said) in [
        (
            "site = \"other.so\"\n",
            15,
            "other.so is no [[site]] of this file: there is mana.so",
        ),
        ("image = \"App:41\"\n", 15, "is no repository"),
        ("image = \"-v\"\n", 15, "is no repository"),
        (
            "engine = \"tcp://10.0.0.1:2375\"\n",
            15,
            "unix:///run/docker.sock",
        ),
        ("keep_images = 1\n", 15, "from 2 to 100"),
        ("keep_warm = \"sometimes\"\n", 15, "duration"),
        ("pull = \"often\"\n", 15, "none of always, missing, never"),
        ("registry_user = \"-p\"\n", 15, "is no user"),
        ("warm_up = { path = [\"/\"] }\n", 15, "did you mean paths"),
        ("warm_up = { paths = [\"a\"] }\n", 15, "paths"),
        ("watch = { errors_percent = 0 }\n", 15, "from 1 to 100"),
        (
            "[[deploy.message]]\nto = \"discord\"\n",
            15,
            "the URL is missing",
        ),
        ("tag = \"41\"\n", 15, "unknown key"),
    ] {
        let found = faults(&with(more));
        assert!(
            found.len() == 1 && found[0].contains(said),
            "{more}: {found:#?}"
        );
        assert!(
            found[0].starts_with(&format!("f.toml:{line}:")),
            "{found:#?}"
        );
    }
}

#[test]
fn slots_do_not_share_what_is_made_anew() {
    for (from, to, said) in [
        ("\"web_green\"", "\"web_blue\"", "is blue's service"),
        ("\"GREEN_IMAGE\"", "\"BLUE_IMAGE\"", "one variable for both"),
        ("\"GREEN_IMAGE\"", "\"PATH\"", "no variable"),
        ("\"web_green\"", "\"--rm\"", "is not a service"),
        ("\"mana\"", "\"Mana\"", "is not a project"),
        ("green = { service", "grene = { service", "is missing"),
        ("project =", "projekt =", "is missing"),
    ] {
        let found = faults(&with("").replace(from, to));
        assert!(
            found.iter().any(|fault| fault.contains(said)),
            "{to}: {found:#?}"
        );
    }
}

#[test]
fn among_several_sites_one_is_named() {
    let second = "[[site]]\nhost = \"b.so\"\ncertificate = \"self-signed\"\nblue = [\"127.0.0.1:5000\"]\ngreen = [\"127.0.0.1:5001\"]\n";
    let found = faults(&format!("{SMALLEST}{second}{SECTION}"));
    assert!(
        found[0].contains("deploy.site") && found[0].contains("mana.so, b.so"),
        "{found:#?}"
    );
    let named = format!("{SMALLEST}{second}{SECTION}site = \"b.so\"\n");
    assert_eq!(parse(&named).deploy.unwrap().settings.site.as_str(), "b.so");
}
