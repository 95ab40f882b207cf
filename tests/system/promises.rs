//! One life of the service, from its installation to its removal, under load all the time.

use std::future::Future;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::container::{stderr, stdout};
use crate::service::{CONFIG, Service, held_request};
use crate::support::client::tls::{Offer, connect};
use crate::support::load::Load;
use crate::support::{H1, HOST, eventually};
use crate::table::Table;

/// Requests that are answered before, between and after the events of a phase.
const REQUESTS: usize = 60;
/// Restarts, and upgrades.
const TIMES: usize = 10;
/// Of the upgrades these are to a binary that ends at once, and to one that says nothing.
const CRASHES: usize = 3;
const HANGS: usize = 6;
/// What the load has under way at one time: three connections with one request, two with two, one after the other, and
/// two websockets.
const IN_FLIGHT: usize = 3 + 2 * 2 + 1 + 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, systemd-nspawn, debootstrap and the packages: make test-system"]
async fn from_installation_to_removal_nobody_notices_but_a_kill() {
    let (service, said) = Service::install().await;
    let mut table = Table::default();
    a_fresh_installation_starts_nothing(&service, &said);
    service.configure();

    start(&service, &mut table).await;
    doctor_finds_nothing_red(&service);
    sandbox_is_closed(&service);
    restarts(&service, &mut table).await;
    reload(&service, &mut table).await;
    kill(&service, &mut table).await;
    a_stop_lets_requests_finish(&service).await;
    a_removal_that_comes_to_nothing_is_undone(&service);
    removal_leaves_nothing(&service);

    println!("{table}");
    table.assert_unnoticed_but(&[KILL]);
    let kill = table.row(KILL);
    assert_eq!(kill.refused, 0, "the sockets are systemd's: {kill}");
    assert!(kill.lost() <= IN_FLIGHT, "more than was in flight: {kill}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, systemd-nspawn, debootstrap and the packages: make test-system"]
async fn upgrades_of_binary_and_package_are_noticed_by_nobody() {
    let (service, _) = Service::install().await;
    let mut table = Table::default();
    service.configure();

    start(&service, &mut table).await;
    upgrades(&service, &mut table).await;
    package_upgrade(&service, &mut table).await;
    package_upgrade_with_a_fault(&service, &mut table).await;

    println!("{table}");
    table.assert_unnoticed_but(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, systemd-nspawn, debootstrap and the packages: make test-system"]
async fn a_process_that_dies_after_an_upgrade_is_replaced_while_the_one_before_is_still_there() {
    let (mut service, _) = Service::install().await;
    // Longer than the test: nothing ends by itself.
    let server = &mut service.config;
    server.set("server", "upgrade_deadline", r#""1h""#);
    let mut table = Table::default();
    service.configure();
    start(&service, &mut table).await;
    let mut client = H1::over(connect(service.https, &Offer::h1(HOST)).await.unwrap());
    client.send(held_request()).await;
    service.green().wait_for("/hold", 1).await;
    let upgrade = service.mana_proxy(&["upgrade"]);
    assert!(upgrade.status.success(), "{}", stderr(&upgrade));
    assert_eq!(service.processes().len(), 2, "the one before has a request");

    phase(&service, &mut table, KILL, async {
        let new = service.main_pid();
        kill_main(&service);
        service.green().release();
        service.wait_for_another_than(new).await;
    })
    .await;
    assert_eq!(client.response("GET").await.text(), "green");
    println!("{table}");
    let kill = table.row(KILL);
    assert_eq!(kill.refused, 0, "the sockets are systemd's: {kill}");
    assert!(kill.lost() <= IN_FLIGHT, "more than was in flight: {kill}");
}

fn kill_main(service: &Service) {
    service.systemctl(&[
        "kill",
        "--kill-whom=main",
        "--signal=KILL",
        "mana-proxy.service",
    ]);
}

#[tokio::test]
#[ignore = "needs root, systemd-nspawn, debootstrap and the packages: make test-system"]
async fn without_the_socket_unit_the_daemon_binds_low_ports_itself() {
    let (mut service, _) = Service::install().await;
    service.https = low_address();
    let https = format!("[{:?}]", service.https.to_string());
    service.config.set("listen", "https", &https);
    service.configure();
    service.systemctl(&["mask", "mana-proxy.socket"]);
    service.systemctl(&["start", "mana-proxy.service"]);
    let mut client = H1::over(connect(service.https, &Offer::h1(HOST)).await.unwrap());
    assert_eq!(client.get("/").await.text(), "blue");
    let pid = service.main_pid().to_string();
    let status = service
        .container
        .done(&["cat", &format!("/proc/{pid}/status")]);
    let user = service.container.done(&["id", "--user", "mana-proxy"]);
    let uid = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    assert!(uid.contains(user.trim()), "{uid} is not {user}");
}

#[tokio::test]
#[ignore = "needs root, systemd-nspawn, debootstrap and the packages: make test-system"]
async fn who_is_in_the_group_may_deploy_and_nobody_else() {
    let (mut service, _) = Service::install().await;
    let group = service
        .container
        .done(&["getent", "group", "mana-proxy-deploy"]);
    let gid = group.split(':').nth(2).unwrap().to_owned();
    service
        .config
        .set("control", "allow_gids", &format!("[{gid}]"))
        .set("control", "group_gid", &gid);
    service.configure();
    service.systemctl(&["start", "mana-proxy.socket", "mana-proxy.service"]);
    let container = &service.container;
    container.done(&["useradd", "--groups", "mana-proxy-deploy", "anna"]);
    container.done(&["useradd", "bert"]);
    let as_user = |user, verb: &[&str]| {
        let command = [&["runuser", "-u", user, "--", "mana-proxy"], verb].concat();
        container.run(&command).status.code()
    };
    assert_eq!(as_user("anna", &["switch", "green"]), Some(0));
    assert_eq!(as_user("bert", &["switch", "blue"]), Some(69));
    let history = container.done(&["mana-proxy", "history", "--json"]);
    let uid = container.done(&["id", "--user", "anna"]);
    assert!(
        history.contains(&format!("\"uid\":{}", uid.trim())),
        "{history}"
    );
}

/// A free port that only root may bind.
fn low_address() -> SocketAddr {
    let mut ports = (600..1024).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let free = ports.find(|address| std::net::TcpListener::bind(address).is_ok());
    free.expect("a free port below 1024")
}

const KILL: &str = "kill -9";

/// Runs something under load, and notes what the clients made of it.
async fn phase(service: &Service, table: &mut Table, name: &str, what: impl Future<Output = ()>) {
    let load = Load::requests_and_websockets_to(service.https);
    load.goes_on_for(REQUESTS).await;
    what.await;
    load.goes_on_for(REQUESTS).await;
    table.add(name, load.stop().await);
}

/// The load goes on until every process but one is gone.
async fn settled(service: &Service) {
    service.wait_until_alone().await;
}

fn a_fresh_installation_starts_nothing(service: &Service, said: &str) {
    assert!(said.contains("installed, and not started"), "{said}");
    for unit in ["mana-proxy.service", "mana-proxy.socket"] {
        let state = service.container.run(&["systemctl", "is-enabled", unit]);
        assert_eq!(stdout(&state).trim(), "disabled", "{unit}");
        let state = service.container.run(&["systemctl", "is-active", unit]);
        assert_eq!(stdout(&state).trim(), "inactive", "{unit}");
    }
    for file in [
        "/usr/share/man/man1/mana-proxy.1",
        "/usr/share/man/man1/mana-proxy-switch.1",
        "/usr/share/bash-completion/completions/mana-proxy",
        "/usr/share/zsh/vendor-completions/_mana-proxy",
        "/usr/share/fish/vendor_completions.d/mana-proxy.fish",
    ] {
        // A minimal system is told to leave manuals out; the package has them.
        let listed = service
            .container
            .done(&["dpkg", "--listfiles", "mana-proxy"]);
        assert!(
            listed
                .lines()
                .any(|line| line.trim_end_matches(".gz") == file),
            "{file}: {listed}"
        );
    }
    let conffiles = service.container.done(&["dpkg", "--status", "mana-proxy"]);
    assert!(conffiles.contains(CONFIG), "{conffiles}");
    assert_eq!(
        service
            .mana_proxy(&["check", "--config", CONFIG])
            .status
            .code(),
        Some(0)
    );
}

/// The first connection starts the service, and is answered by it.
async fn start(service: &Service, table: &mut Table) {
    service.systemctl(&["enable", "mana-proxy.socket", "mana-proxy.service"]);
    service.systemctl(&["start", "mana-proxy.socket"]);
    let load = Load::requests_and_websockets_to(service.https);
    load.goes_on_for(REQUESTS).await;
    assert_eq!(service.property("ActiveState"), "active");
    let text = service.property("StatusText");
    assert!(
        text.contains("blue"),
        "the slot is in the status line: {text:?}"
    );
    // From here on green answers: whatever restarts has to know that.
    let switch = service.mana_proxy(&["switch", "green"]);
    assert!(switch.status.success(), "{}", stderr(&switch));
    load.goes_on_for(REQUESTS).await;
    table.add("start by the first connection, switch", load.stop().await);
}

fn doctor_finds_nothing_red(service: &Service) {
    let output = service.mana_proxy(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    let about = |list: &str| -> Vec<String> {
        let entries = report[list].as_array().unwrap().iter();
        entries
            .map(|entry| entry["about"].as_str().unwrap().to_owned())
            .collect()
    };
    let (seen, unseen) = (about("findings"), about("not_looked_at"));
    for wanted in ["clock", "mana.so", "TimeoutStopSec of mana-proxy.service"] {
        assert!(
            seen.iter().any(|about| about == wanted),
            "{wanted}: {seen:?}"
        );
    }
    // There is no Docker here.
    assert!(
        unseen.iter().any(|about| about == "containers"),
        "{unseen:?}"
    );
    println!("{}", stdout(&service.mana_proxy(&["doctor"])));
}

fn sandbox_is_closed(service: &Service) {
    let exposure = service.exposure();
    println!("systemd-analyze security: {exposure}");
    assert!(exposure < 2.0, "{exposure}");
    // Not part of the sandbox, and as easily lost: one process without memory does not take the other one along.
    assert_eq!(service.property("OOMPolicy"), "continue");
}

async fn restarts(service: &Service, table: &mut Table) {
    phase(service, table, "10 restarts", async {
        for _ in 0..TIMES {
            let old = service.main_pid();
            service.systemctl(&["restart", "mana-proxy.service"]);
            service.wait_for_another_than(old).await;
        }
    })
    .await;
}

async fn upgrades(service: &Service, table: &mut Table) {
    let crashes = "/root/crashes";
    let hangs = "/root/hangs";
    for (path, script) in [
        (crashes, "#!/bin/sh\nexit 3\n"),
        (hangs, "#!/bin/sh\nexec sleep 1000\n"),
    ] {
        service.container.write(path, script);
    }
    // Where the daemon's user may run them: it does not get into /root.
    for path in [crashes, hangs] {
        let to = path.replace("/root", "/usr/local/bin");
        service.container.done(&["install", "-m", "755", path, &to]);
    }
    phase(
        service,
        table,
        "10 upgrades, one crashes, one hangs",
        async {
            for number in 0..TIMES {
                let old = service.main_pid();
                let binary = match number {
                    CRASHES => "/usr/local/bin/crashes",
                    HANGS => "/usr/local/bin/hangs",
                    _ => "/usr/bin/mana-proxy",
                };
                let output =
                    service.mana_proxy(&["upgrade", "--binary", binary, "--timeout", "3s"]);
                if binary == "/usr/bin/mana-proxy" {
                    assert!(output.status.success(), "{number}: {}", stderr(&output));
                    service.wait_for_another_than(old).await;
                } else {
                    assert_eq!(
                        output.status.code(),
                        Some(1),
                        "{number}: {}",
                        stderr(&output)
                    );
                    assert_eq!(service.main_pid(), old, "the old one goes on");
                }
                settled(service).await;
            }
        },
    )
    .await;
}

async fn reload(service: &Service, table: &mut Table) {
    phase(service, table, "reload, good and with a fault", async {
        let pid = service.main_pid();
        let good = service.config.text();
        service
            .container
            .write(CONFIG, &format!("{good}\nmisspelt = 1\n"));
        let reload = service
            .container
            .run(&["systemctl", "reload", "mana-proxy.service"]);
        assert!(!reload.status.success(), "a fault is no success");
        let reload = service.mana_proxy(&["reload"]);
        assert_eq!(reload.status.code(), Some(78), "{}", stderr(&reload));
        assert!(stderr(&reload).contains("misspelt"), "{}", stderr(&reload));
        service.container.write(CONFIG, &good);
        service.systemctl(&["reload", "mana-proxy.service"]);
        assert_eq!(service.main_pid(), pid);
    })
    .await;
}

async fn kill(service: &Service, table: &mut Table) {
    phase(service, table, KILL, async {
        let old = service.main_pid();
        kill_main(service);
        service.wait_for_another_than(old).await;
    })
    .await;
}

async fn package_upgrade(service: &Service, table: &mut Table) {
    phase(service, table, "dpkg -i of the next version", async {
        let old = service.main_pid();
        let said = service
            .container
            .done(&["dpkg", "--install", "/root/mana-proxy-next.deb"]);
        assert!(said.contains("the new version serves"), "{said}");
        service.wait_for_another_than(old).await;
        settled(service).await;
    })
    .await;
}

/// With a configuration that the new version does not take, nothing is touched.
async fn package_upgrade_with_a_fault(service: &Service, table: &mut Table) {
    phase(
        service,
        table,
        "dpkg -i, configuration with a fault",
        async {
            let old = service.main_pid();
            let good = service.config.text();
            service
                .container
                .write(CONFIG, &format!("{good}\nmisspelt = 1\n"));
            let said = service
                .container
                .done(&["dpkg", "--install", "/root/mana-proxy-next.deb"]);
            assert!(said.contains("The old version goes on serving"), "{said}");
            assert!(said.contains("mana-proxy upgrade --wait"), "{said}");
            assert_eq!(service.main_pid(), old);
            service.container.write(CONFIG, &good);
        },
    )
    .await;
}

async fn a_stop_lets_requests_finish(service: &Service) {
    let mut client = H1::over(connect(service.https, &Offer::h1(HOST)).await.unwrap());
    client.send(held_request()).await;
    service.green().wait_for("/hold", 1).await;
    service.systemctl(&["stop", "mana-proxy.socket"]);
    service.systemctl(&["stop", "--no-block", "mana-proxy.service"]);
    eventually("new connections are refused", async || {
        TcpStream::connect(service.https).await.is_err()
    })
    .await;
    service.green().release();
    assert_eq!(client.response("GET").await.text(), "green");
    eventually("the service has stopped", async || {
        service.property("ActiveState") == "inactive"
    })
    .await;
    assert_eq!(service.property("Result"), "success");
}

/// What dpkg does if it cannot go on behind `prerm remove`.
fn a_removal_that_comes_to_nothing_is_undone(service: &Service) {
    let units = [
        "mana-proxy.socket",
        "mana-proxy.service",
        "mana-proxy-reconcile.timer",
    ];
    let container = &service.container;
    service.systemctl(&["enable", units[2]]);
    let are = |question, answer: &str| {
        for unit in units {
            let state = container.run(&["systemctl", question, unit]);
            assert_eq!(stdout(&state).trim(), answer, "{unit}");
        }
    };
    service.systemctl(&[&["start"], &units[..]].concat());
    are("is-enabled", "enabled");
    container.done(&["/var/lib/dpkg/info/mana-proxy.prerm", "remove"]);
    are("is-enabled", "disabled");
    are("is-active", "inactive");
    container.done(&["/var/lib/dpkg/info/mana-proxy.postinst", "abort-remove"]);
    are("is-enabled", "enabled");
    are("is-active", "active");
    // Nothing is left to be undone once more.
    service.systemctl(&[&["disable", "--now"], &units[..]].concat());
    container.done(&["/var/lib/dpkg/info/mana-proxy.postinst", "abort-remove"]);
    are("is-enabled", "disabled");
    are("is-active", "inactive");
}

fn removal_leaves_nothing(service: &Service) {
    let container = &service.container;
    service.systemctl(&["start", "mana-proxy.socket", "mana-proxy.service"]);
    container.done(&["dpkg", "--remove", "mana-proxy"]);
    let state = container.run(&[
        "systemctl",
        "is-active",
        "mana-proxy.socket",
        "mana-proxy.service",
    ]);
    assert_eq!(
        stdout(&state).split_whitespace().collect::<Vec<_>>(),
        ["inactive", "inactive"]
    );
    assert!(
        container.path(CONFIG).exists(),
        "removing keeps the configuration"
    );
    assert!(
        container.path("/var/lib/mana-proxy/state.json").exists(),
        "and the state"
    );
    // It comes back as it came: with the next steps.
    let said = container.done(&["dpkg", "--install", "/root/mana-proxy.deb"]);
    assert!(said.contains("enable --now mana-proxy.socket"), "{said}");
    container.done(&["dpkg", "--purge", "mana-proxy"]);
    for path in [
        "/etc/mana-proxy",
        "/var/lib/mana-proxy",
        "/usr/bin/mana-proxy",
        "/etc/systemd/system/mana-proxy.socket.d",
    ] {
        assert!(!container.path(path).exists(), "{path} is left");
    }
}
