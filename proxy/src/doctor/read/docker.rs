//! What Docker says of its containers: `GET /containers/json`, then each one's restart policy.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::DEADLINE;
use crate::doctor::facts::{Container, Seen};

const SOCKET: &str = "/var/run/docker.sock";
/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// More containers are not looked at.
const CONTAINERS_MAX: usize = 200;

/// All of them, also those that do not run.
pub(super) async fn containers() -> Seen<Vec<Container>> {
    timeout(DEADLINE, look(Path::new(SOCKET)))
        .await
        .unwrap_or_else(|_| Err("Docker does not answer in time".to_owned()))
}

async fn look(socket: &Path) -> Seen<Vec<Container>> {
    let all = get(socket, "/containers/json?all=1").await?;
    let ids = all.as_array().into_iter().flatten();
    let ids = ids.filter_map(|one| one.get("Id").and_then(Value::as_str));
    let mut containers = Vec::new();
    for id in ids.take(CONTAINERS_MAX) {
        // One that is gone by now is none.
        if let Ok(found) = get(socket, &format!("/containers/{id}/json")).await {
            containers.extend(container(&found));
        }
    }
    Ok(containers)
}

async fn get(socket: &Path, path: &str) -> Seen<Value> {
    let failed = |error: &dyn Display| format!("{}: {error}", socket.display());
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(path)
        .header("host", "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|error| failed(&error))?;
    connection.abort();
    if !status.is_success() {
        return Err(failed(&format!("{path} is answered {status}")));
    }
    serde_json::from_slice(&body.to_bytes()).map_err(|error| failed(&error))
}

/// What is of use in the answer to `/containers/ID/json`.
fn container(found: &Value) -> Option<Container> {
    let host = &found["HostConfig"];
    let bindings = host["PortBindings"].as_object();
    let bound = bindings.into_iter().flat_map(|ports| ports.values());
    let bound = bound.filter_map(Value::as_array).flatten();
    let ports: BTreeSet<u16> = bound
        .filter_map(|binding| binding["HostPort"].as_str()?.parse().ok())
        .collect();
    Some(Container {
        name: found["Name"].as_str()?.trim_start_matches('/').to_owned(),
        restart: host["RestartPolicy"]["Name"]
            .as_str()
            .unwrap_or("no")
            .to_owned(),
        ports: ports.into_iter().collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// Answers each connection once, as Docker does: by path, or 404.
    async fn docker(listener: UnixListener) {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut head = vec![0; 1024];
            let count = stream.read(&mut head).await.expect("head");
            let head = String::from_utf8_lossy(&head[..count]).into_owned();
            let (status, body) = match head.split(' ').nth(1).unwrap_or_default() {
                "/containers/json?all=1" => ("200 OK", json!([{ "Id": "a1" }, { "Id": "gone" }])),
                "/containers/a1/json" => (
                    "200 OK",
                    json!({ "Name": "/a", "HostConfig": { "RestartPolicy": { "Name": "always" } } }),
                ),
                _ => ("404 Not Found", json!({ "message": "no such container" })),
            };
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.expect("answer");
        }
    }

    #[tokio::test]
    async fn containers_are_listed_and_one_that_has_gone_meanwhile_is_none() {
        let dir = tempfile::tempdir().expect("dir");
        let socket = dir.path().join("docker.sock");
        let nobody = look(&socket).await.expect_err("nobody is there");
        assert!(nobody.contains("docker.sock"), "{nobody}");
        let server = tokio::spawn(docker(UnixListener::bind(&socket).expect("bind")));
        let found = look(&socket).await.expect("containers");
        let expected = Container {
            name: "a".to_owned(),
            restart: "always".to_owned(),
            ports: Vec::new(),
        };
        assert_eq!(found, [expected]);
        server.abort();
    }

    #[test]
    fn name_policy_and_ports_of_a_container_are_read() {
        let answer = json!({
            "Name": "/mana-blue",
            "HostConfig": {
                "RestartPolicy": { "Name": "always", "MaximumRetryCount": 0 },
                "PortBindings": {
                    "3000/tcp": [
                        { "HostIp": "0.0.0.0", "HostPort": "4000" },
                        { "HostIp": "::", "HostPort": "4000" }
                    ],
                    "9229/tcp": null
                }
            }
        });
        let expected = Container {
            name: "mana-blue".to_owned(),
            restart: "always".to_owned(),
            ports: vec![4000],
        };
        assert_eq!(container(&answer), Some(expected));
        assert_eq!(container(&json!({ "message": "no such container" })), None);
    }
}
