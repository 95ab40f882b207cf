//! What the package has for deploys beside the verb: their directory, the timer that tidies up after them, its sandbox.

use crate::container::stdout;
use crate::service::Service;
use crate::support::eventually;

const TIMER: &str = "mana-proxy-reconcile.timer";
const UNIT: &str = "mana-proxy-reconcile.service";
const DIRECTORY: &str = "/var/lib/mana-proxy-deploy";

/// What a run inside of the sandbox of the unit may do, and what not.
const PROBE: &str = "\
[Service]
ExecStart=
ExecStart=/bin/sh -c 'cd /var/lib/mana-proxy-deploy && cat theirs >mine && echo done >>mine'
ExecStart=/bin/sh -c 'mana-proxy status >/var/lib/mana-proxy-deploy/status'
ExecStart=/bin/sh -c '! touch /etc/mana-proxy/x && ! touch /root/x && ! chown bert /var/lib/mana-proxy-deploy/mine'
";

#[tokio::test]
#[ignore = "needs root, systemd-nspawn, debootstrap and the packages: make test-system"]
async fn the_timer_of_deploys_waits_to_be_enabled_and_can_do_its_work_and_no_more() {
    let (service, _) = Service::install().await;
    let container = &service.container;
    let state = container.run(&["systemctl", "is-enabled", TIMER]);
    assert_eq!(stdout(&state).trim(), "disabled");
    let is = container.done(&["stat", "--format=%a %U %G", DIRECTORY]);
    assert_eq!(is.trim(), "2770 root mana-proxy-deploy");
    // It says nothing if there is nothing to be said.
    let said = container.done(&["systemd-analyze", "verify", "--man=no", UNIT, TIMER]);
    assert_eq!(said.trim(), "");

    service.configure();
    service.systemctl(&["start", "mana-proxy.socket", "mana-proxy.service"]);
    container.done(&["useradd", "--groups", "mana-proxy-deploy", "anna"]);
    container.done(&["useradd", "bert"]);
    let write = format!("umask 077; echo of anna >{DIRECTORY}/theirs");
    container.done(&["runuser", "-u", "anna", "--", "sh", "-c", &write]);
    let read = ["runuser", "-u", "bert", "--", "ls", DIRECTORY];
    assert!(!container.run(&read).status.success());

    let drop_in = format!("/etc/systemd/system/{UNIT}.d/probe.conf");
    container.write(&drop_in, PROBE);
    service.systemctl(&["daemon-reload"]);
    service.systemctl(&["enable", "--now", TIMER]);
    let result = || service.systemctl(&["show", "--value", "--property=Result", UNIT]);
    let mine = container.path(&format!("{DIRECTORY}/mine"));
    eventually("the timer has run the unit", async || {
        let ended = service.systemctl(&["show", "--value", "--property=ActiveState", UNIT]);
        mine.exists() && ended.trim() != "activating"
    })
    .await;
    assert_eq!(result().trim(), "success");
    let made = container.done(&["stat", "--format=%U %G", &format!("{DIRECTORY}/mine")]);
    assert_eq!(made.trim(), "root mana-proxy-deploy");
    let read = |name| container.done(&["cat", &format!("{DIRECTORY}/{name}")]);
    assert_eq!(read("mine"), "of anna\ndone\n");
    assert!(read("status").contains("blue"), "{}", read("status"));

    container.done(&["dpkg", "--remove", "mana-proxy"]);
    let state = container.run(&["systemctl", "is-active", TIMER]);
    assert_eq!(stdout(&state).trim(), "inactive");
    assert!(mine.exists(), "removing keeps the ledger");
    container.done(&["dpkg", "--purge", "mana-proxy"]);
    assert!(!container.path(DIRECTORY).exists());
    assert!(!container.path(&drop_in).exists());
}
