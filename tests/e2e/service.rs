//! As a service: sockets that are there before the process, and a service manager that is told how it stands.

use tokio::net::TcpStream;

use crate::support::load::Load;
use crate::support::proxy::Home;
use crate::support::service::Service;
use crate::support::{ConfigBuilder, Proxy, Upstream, eventually, within};

struct Scene {
    proxy: Proxy,
    service: Service,
    blue: Upstream,
    _green: Upstream,
}

async fn scene(environment: &[(&str, &str)]) -> Scene {
    let mut service = Service::new();
    for (name, value) in environment {
        service.set(name, value);
    }
    let (blue, green) = (
        Upstream::start("blue").await,
        Upstream::start("green").await,
    );
    let mut config = ConfigBuilder::new(&[&blue.address()], &[&green.address()]);
    service.configure(&mut config);
    // Event streams never end by themselves, so that each stop waits as long as this.
    config.shutdown_deadline("4s");
    let home = Home::new(&config);
    let proxy = home.start_by(|directory| service.start(directory)).await;
    proxy.wait_for_health("blue", true).await;
    proxy.wait_for_health("green", true).await;
    Scene {
        proxy,
        service,
        blue,
        _green: green,
    }
}

#[tokio::test]
async fn what_connects_while_nothing_runs_is_answered_by_the_next_process() {
    let mut scene = scene(&[]).await;
    let http = scene.proxy.http();
    scene.proxy.signal("TERM");
    assert_eq!(scene.proxy.ended().await.code(), Some(0));
    // The kernel takes the connection; nobody has accepted it.
    let waiting = within("the connect", TcpStream::connect(http))
        .await
        .unwrap();
    let service = &scene.service;
    scene
        .proxy
        .restart_by(|directory| service.start(directory))
        .await;
    assert_eq!(scene.proxy.http(), http);
    let mut waiting = crate::support::H1::over(waiting);
    assert_eq!(waiting.get("/").await.status, 301);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_are_noticed_by_nobody() {
    let mut scene = scene(&[]).await;
    let load = Load::everything(&scene.proxy);
    load.goes_on_for(100).await;
    for _ in 0..3 {
        scene.proxy.signal("TERM");
        assert_eq!(scene.proxy.ended().await.code(), Some(0));
        let service = &scene.service;
        scene
            .proxy
            .restart_by(|directory| service.start(directory))
            .await;
        load.goes_on_for(100).await;
    }
    let tally = load.stop().await;
    tally.assert_unnoticed();
    assert!(tally.answered > 300, "{tally:?}");
}

#[tokio::test]
async fn an_inherited_socket_that_nobody_wants_refuses_the_start() {
    let service = Service::new();
    let mut config = ConfigBuilder::new(&["127.0.0.1:4000"], &["127.0.0.1:4001"]);
    service.configure(&mut config);
    config.set("listen", "http", "[]");
    let home = Home::new(&config);
    let mut child = service.start(home.path());
    let status = within("the end of the process", child.wait())
        .await
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let said = std::fs::read_to_string(home.path().join("stderr.log")).unwrap();
    assert!(
        said.contains("nobody would accept on the inherited socket on 127.0.0.1:"),
        "{said}"
    );
    assert!(said.contains("(http)"), "{said}");
}

#[tokio::test]
async fn the_service_manager_is_told_how_it_stands() {
    let mut scene = scene(&[]).await;
    let service = &scene.service;
    let told = service.told().await;
    assert!(told.contains("READY=1\n"), "{told}");
    assert!(
        told.contains("STATUS=mana.so: blue (generation 1)\n"),
        "{told}"
    );
    assert!(
        told.contains(&format!("MAINPID={}\n", scene.proxy.pid())),
        "{told}"
    );

    scene.proxy.done("switch green").await;
    let told = service.told().await;
    assert_eq!(told, "STATUS=mana.so: green (generation 2)\n");

    scene.proxy.done("reload").await;
    let told = service.told().await;
    assert!(told.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{told}");
    assert_eq!(service.told().await, "READY=1\n");

    scene.proxy.write_config("nonsense");
    scene.proxy.refused("reload", "invalid").await;
    assert!(service.told().await.starts_with("RELOADING=1\n"));
    assert_eq!(service.told().await, "READY=1\n");

    scene.proxy.signal("TERM");
    let told = service.told().await;
    assert!(
        told.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="),
        "{told}"
    );
    assert_eq!(scene.proxy.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_hangs_stops_the_watchdog_and_is_named() {
    let scene = scene(&[
        ("WATCHDOG_USEC", "400000"),
        ("MANA_PROXY_FAILPOINT", "worker-hangs"),
    ])
    .await;
    let service = &scene.service;
    for _ in 0..3 {
        service
            .told_until(|told| told.contains("WATCHDOG=1\n"))
            .await;
    }
    let _hangs = TcpStream::connect(scene.proxy.http()).await.unwrap();
    eventually("the log names the worker", async || {
        scene
            .proxy
            .stderr()
            .lines()
            .any(|line| line.contains("gives no sign of life") && line.contains("worker-"))
    })
    .await;
    service.told_meanwhile();
    let probes = scene.blue.pings();
    eventually("many looks later", async || {
        scene.blue.pings() > probes + 20
    })
    .await;
    let told = service.told_meanwhile();
    assert!(
        !told.iter().any(|told| told.contains("WATCHDOG")),
        "{told:?}"
    );
}

#[tokio::test]
async fn an_upgrade_tells_the_service_manager_who_is_the_main_process() {
    let mut scene = scene(&[("WATCHDOG_USEC", "400000")]).await;
    let service = &scene.service;
    service.told_until(|told| told.contains("READY=1\n")).await;
    let new = scene.proxy.upgrade().await;
    let told = service.told_until(|told| told.contains("READY=1\n")).await;
    let main = format!("MAINPID={new}\n");
    assert!(told.iter().any(|told| told == &main), "{told:?}");
    assert!(told[told.len() - 1].contains(&main), "{told:?}");
    assert_eq!(scene.proxy.ended().await.code(), Some(0));
    // The watchdog is the new one's, and the end of the old one is not that of the service.
    for _ in 0..3 {
        let told = service
            .told_until(|told| told.contains("WATCHDOG=1\n"))
            .await;
        assert!(
            !told.iter().any(|told| told.contains("STOPPING")),
            "{told:?}"
        );
    }
    let environment = std::fs::read(format!("/proc/{new}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    for variable in ["LISTEN_FDS=", "LISTEN_PID=", "WATCHDOG_PID="] {
        assert!(!environment.contains(variable), "{environment}");
    }
    // It has the sockets of the socket unit, and the next process gets them again.
    let http = scene.proxy.http();
    scene.proxy.signal_to(new, "TERM");
    scene.proxy.gone(new).await;
    let waiting = within("the connect", TcpStream::connect(http))
        .await
        .unwrap();
    scene
        .proxy
        .restart_by(|directory| service.start(directory))
        .await;
    let mut waiting = crate::support::H1::over(waiting);
    assert_eq!(waiting.get("/").await.status, 301);
}
