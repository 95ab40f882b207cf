//! What a deploy reads: its configuration, the compose file, and programs that write down how they were started.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::apart;
use crate::engine::{Engine, done};
use crate::registry::{Registry, USER};
use crate::support::ConfigBuilder;

/// The network is the test's own, so that the ports are those of production.
pub const BLUE: &str = "127.0.0.1:4000";
pub const GREEN: &str = "127.0.0.1:4001";
/// Compose's project.
pub const PROJECT: &str = "mana";

/// One variable for each slot, ports on loopback, and a volume that tells what has reached the app.
pub fn compose(directory: &Path) -> String {
    let mut text = "services:\n".to_owned();
    for (slot, address) in [("blue", BLUE), ("green", GREEN)] {
        let variable = format!("{}_IMAGE", slot.to_uppercase());
        text += &format!(
            "  web_{slot}:\n    \
               image: ${{{variable}:?set by mana-proxy deploy}}\n    \
               ports: [\"{address}:3000\"]\n    \
               restart: unless-stopped\n    \
               init: true\n    \
               volumes: [\"{}:/posts\"]\n",
            directory.join("posts").display()
        );
    }
    text
}

/// `[deploy]`, with a short watch window and the old slot kept warm.
pub fn configure(config: &mut ConfigBuilder, engine: &Engine, registry: &Registry) {
    let directory = apart::directory();
    let quoted = |text: &str| format!("{text:?}");
    let path = |name: &str| quoted(directory.join(name).to_str().unwrap());
    config
        .set("deploy", "compose_file", &path("compose.yml"))
        .set("deploy", "project", &quoted(PROJECT))
        .set(
            "deploy",
            "blue",
            r#"{ service = "web_blue", image_variable = "BLUE_IMAGE" }"#,
        )
        .set(
            "deploy",
            "green",
            r#"{ service = "web_green", image_variable = "GREEN_IMAGE" }"#,
        )
        .set("deploy", "image", &quoted(&registry.repository()))
        .set("deploy", "engine", &quoted(&engine.host()))
        .set("deploy", "dir", &path("ledger"))
        .set("deploy", "registry_user", &quoted(USER))
        .set("deploy", "start_timeout", r#""20s""#)
        .set(
            "deploy",
            "watch",
            r#"{ time = "1s", errors_percent = 5, requests_min = 20 }"#,
        )
        .set("deploy", "keep_warm", r#""always""#)
        .set("deploy", "disk_free_min", r#""64MiB""#)
        .set("deploy", "memory_free_min", r#""64MiB""#);
}

/// The newer compose: where it is, if this variable says so, else the older one in its place. With the variable set every
/// scene uses it from its start.
pub const PLUGIN: &str = "MANA_PROXY_COMPOSE_PLUGIN";

/// The compose that a test uses by itself, beside a deploy.
pub fn compose_program() -> OsString {
    env::var_os(PLUGIN).unwrap_or_else(|| "docker-compose".into())
}

/// Programs before the real ones in `PATH` that write down what they were started with. Looking at `/proc` now and then would
/// miss what is short.
pub fn write_recorders(directory: &Path) {
    let find = |program: &str| {
        let search = format!("command -v {program}");
        done(Command::new("sh").args(["-c", &search]))
    };
    // Whether there is a plugin is what the test says, not what is installed.
    let plugin = find(compose_program().to_str().unwrap());
    for program in ["docker", "docker-compose"] {
        let real = find(program);
        let script = format!(
            "#!/bin/sh\n\
             echo \"{program} $*\" >>'{0}/commands'\n\
             case \" $* \" in *' up '*)\n\
               while [ -e '{0}/hold' ]; do : >'{0}/held'; sleep 0.1; done\n\
             esac\n\
             if [ \"{program} $1\" = 'docker compose' ]; then\n\
               shift\n\
               [ -e '{0}/plugin' ] && exec {plugin} \"$@\"\n\
               echo \"docker: 'compose' is not a docker command.\" >&2; exit 1\n\
             fi\n\
             exec {real} \"$@\"\n",
            directory.display()
        );
        let path = directory.join("bin").join(program);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
