//! Who is told of a deploy. What a message looks like and how it is tried again is shown beside the code; here it leaves the
//! process of the deploy, and arrives.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::apart::apart;
use crate::release::Release;
use crate::scene::Scene;
use crate::support::{eventually, within};

/// The network is the test's own, so that every port is free.
const ADDRESS: &str = "127.0.0.1:9000";
/// It must not be in what is left behind.
const SECRET: &str = "whsec_c2VjcmV0IG9mIHRoZSByZWNlaXZlcg==";

/// A webhook that takes everything.
struct Receiver {
    messages: mpsc::UnboundedReceiver<Value>,
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_deploy_tells_that_it_has_begun_and_how_it_has_ended() {
    apart(async || {
        let mut scene = Scene::start().await;
        tell(&mut scene);
        let mut receiver = Receiver::start().await;
        scene.push(&Release::good("r2"));
        scene.push(&Release::crashing("r3", 3));
        let deploy = ["--tag", "r2", "--author", "anna"];
        scene.deploy(&deploy).await.assert_deployed();
        for kind in ["deploy.started", "deploy.succeeded"] {
            let message = receiver.next().await;
            assert_eq!(message["type"], kind, "{message}");
            assert_eq!(message["data"]["author"], "anna", "{message}");
            assert_eq!(message["data"]["to"], "green", "{message}");
        }
        scene.deploy(&["--tag", "r3"]).await;
        assert_eq!(receiver.next().await["type"], "deploy.started");
        let failed = receiver.next().await;
        assert_eq!(failed["type"], "deploy.failed", "{failed}");
        let log = failed["data"]["last_log"].to_string();
        assert!(log.contains("no such table as releases"), "{failed}");
        eventually("nothing waits", async || waiting(&scene) == 0).await;
        eventually("nothing is left", async || {
            let processes = crate::engine::processes();
            !processes
                .iter()
                .any(|one| one.command.contains("send-messages"))
        })
        .await;
        scene.assert_nothing_is_left();
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn a_receiver_that_is_down_delays_nothing_and_is_told_later() {
    apart(async || {
        let mut scene = Scene::start().await;
        tell(&mut scene);
        scene.push(&Release::good("r2"));
        // The deploy is over while the messages wait.
        scene.deployed("r2").await;
        assert_eq!(waiting(&scene), 2);
        let mut receiver = Receiver::start().await;
        for kind in ["deploy.started", "deploy.succeeded"] {
            assert_eq!(receiver.next().await["type"], kind);
        }
        eventually("nothing waits", async || waiting(&scene) == 0).await;
    });
}

#[test]
#[ignore = "needs root, dockerd, docker-compose and docker-registry: make test-system"]
fn messages_of_a_machine_that_went_down_are_sent_by_reconcile() {
    apart(async || {
        let mut scene = Scene::start().await;
        tell(&mut scene);
        scene.push(&Release::good("r2"));
        scene.deployed("r2").await;
        for process in crate::engine::processes() {
            if process.command.contains("send-messages") {
                crate::engine::signal(process.pid, "KILL");
            }
        }
        let mut receiver = Receiver::start().await;
        let ended = scene.deploy(&["reconcile"]).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:#?}");
        for kind in ["deploy.started", "deploy.succeeded"] {
            assert_eq!(receiver.next().await["type"], kind);
        }
    });
}

fn tell(scene: &mut Scene) {
    let message =
        format!(r#"[{{ to = "webhook", url = "http://{ADDRESS}/hook", secret = "{SECRET}" }}]"#);
    scene.set("message", &message);
}

/// Messages that are not sent yet.
fn waiting(scene: &Scene) -> usize {
    let outbox = std::fs::read_dir(scene.path("ledger/outbox"));
    let names = outbox.unwrap().flatten().map(|entry| entry.file_name());
    names
        .filter(|name| name.to_str().unwrap().ends_with(".json"))
        .count()
}

// === impl Receiver ===

impl Receiver {
    async fn start() -> Receiver {
        let listener = TcpListener::bind(ADDRESS).await.unwrap();
        let (sender, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A test that has what it wanted takes no more.
                sender.send(take(stream).await).ok();
            }
        });
        Receiver { messages }
    }

    async fn next(&mut self) -> Value {
        within("a message", self.messages.recv()).await.unwrap()
    }
}

/// Reads one request, which has to be signed, and says that all is well.
async fn take(stream: TcpStream) -> Value {
    let mut stream = BufReader::new(stream);
    let (mut length, mut is_signed) = (0, false);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        is_signed |= line.starts_with("webhook-signature: v1,");
        if line.is_empty() {
            break;
        }
    }
    assert!(is_signed);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    stream.write_all(answer).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}
