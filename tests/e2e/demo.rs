//! `mana-proxy demo`: the first thing that anybody sees of it.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use crate::support::client::tls::{Offer, connect};
use crate::support::proxy::{ask, command};
use crate::support::{H1, eventually, within};

const PORTS: [u16; 2] = [8080, 8443];

#[tokio::test]
async fn the_demo_shows_a_switch_and_names_a_port_that_is_taken() {
    for port in PORTS {
        if TcpListener::bind(("127.0.0.1", port)).is_err() {
            eprintln!("port {port} is in use on this machine: not checked");
            return;
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let mut demo = command(directory.path())
        .arg("demo")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let socket = directory.path().join("run/control.sock");
    eventually("the demo answers", async || {
        ask(&socket, "status").await.is_ok()
    })
    .await;
    eventually("blue shows its page", async || {
        page().await.contains(r#"data-slot="blue""#)
    })
    .await;
    let reply = within("the switch", ask(&socket, "switch green"))
        .await
        .unwrap();
    assert_eq!(reply["ok"], true, "{reply}");
    assert!(page().await.contains(r#"data-slot="green""#));

    let elsewhere = tempfile::tempdir().unwrap();
    let second = within(
        "the second demo",
        command(elsewhere.path()).arg("demo").output(),
    )
    .await
    .unwrap();
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("8080") && said.contains("hint:"), "{said}");
    within("the end", demo.kill()).await.unwrap();
}

async fn page() -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], 8443));
    let stream = connect(address, &Offer::h1("localhost")).await.unwrap();
    let mut client = H1::over(stream);
    client
        .send("GET / HTTP/1.1\r\nhost: localhost:8443\r\nconnection: close\r\n\r\n")
        .await;
    client.response("GET").await.text()
}
