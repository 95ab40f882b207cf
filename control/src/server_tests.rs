//! What a peer may send, leave out or break off.

use tokio::io::AsyncReadExt;

use super::*;
use crate::client;
use crate::testing::{Backend, Daemon, settings};
use crate::wire::Verb;

async fn daemon() -> Daemon {
    Daemon::start(&[settings("mana.so", "127.0.0.1:1", "127.0.0.1:2")]).await
}

async fn connected(daemon: &Daemon) -> UnixStream {
    UnixStream::connect(daemon.socket()).await.expect("connect")
}

/// Sends this, says that no more comes, and takes all that comes back.
async fn exchange(daemon: &Daemon, bytes: &[u8]) -> Vec<Reply> {
    let mut stream = connected(daemon).await;
    // The daemon may close while a line that is too long is still sent.
    stream.write_all(bytes).await.ok();
    stream.shutdown().await.ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let text = String::from_utf8(answer).expect("text");
    text.lines()
        .map(|line| Reply::parse(line).unwrap_or_else(|| panic!("a reply: {line}")))
        .collect()
}

#[tokio::test]
async fn words_and_json_are_answered_a_line_each() {
    let daemon = daemon().await;
    let replies = exchange(
        &daemon,
        b"status\n{\"verb\":\"status\"}\r\nswitch green --force",
    )
    .await;
    assert_eq!(replies.len(), 3);
    assert!(replies.iter().all(Reply::ok), "{replies:?}");
    assert_eq!(replies[2].field("active"), Some(&"green".into()));
    daemon.stop().await;
}

#[tokio::test]
async fn garbage_is_answered_with_an_error_and_the_next_line_is_read() {
    let daemon = daemon().await;
    for garbage in [
        &b"\xff\xfe\n"[..],
        b"{\"verb\":\n",
        b"\n",
        b"\0\0\0\n",
        b"GET / HTTP/1.1\r\n",
        b"[[[[[[[[\n",
    ] {
        let replies = exchange(&daemon, &[garbage, b"status\n"].concat()).await;
        assert_eq!(replies[0].code(), Some(Code::Invalid), "{garbage:?}");
        assert!(replies[1].ok());
    }
    let nested = [b"{\"verb\":", "[".repeat(10_000).as_bytes(), b"\n"].concat();
    assert_eq!(
        exchange(&daemon, &nested).await[0].code(),
        Some(Code::Invalid)
    );
    assert!(exchange(&daemon, b"").await.is_empty());
    daemon.stop().await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused_and_ends_the_connection() {
    let daemon = daemon().await;
    let longest = [b" ".repeat(LINE_BYTES_MAX - 7), b"status\n".to_vec()].concat();
    assert!(exchange(&daemon, &longest).await[0].ok());
    let replies = exchange(&daemon, &b"x".repeat(LINE_BYTES_MAX + 1)).await;
    assert_eq!(replies.len(), 1);
    assert!(replies[0].error().expect("error").contains("longer than"));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_is_not_waited_for_for_ever() {
    let daemon = daemon().await;
    let mut stream = connected(&daemon).await;
    stream.write_all(b"stat").await.expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("read");
    let reply = Reply::parse(&answer).expect("reply");
    assert_eq!(reply.code(), Some(Code::Invalid));
    assert!(reply.error().expect("error").contains("10 s"));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_not_waited_for_for_ever() {
    let daemon = daemon().await;
    let mut stream = connected(&daemon).await;
    // Both buffers fill, then only the deadline goes on.
    while stream.write_all(b"status\n").await.is_ok() {}
    assert!(exchange(&daemon, b"status").await[0].ok());
    daemon.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let daemon = daemon().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = connected(&daemon).await;
        stream.write_all(b"status\n").await.expect("write");
        stream.read_u8().await.expect("served");
        idle.push(stream);
    }
    let mut answer = String::new();
    connected(&daemon)
        .await
        .read_to_string(&mut answer)
        .await
        .expect("read");
    assert_eq!(
        Reply::parse(&answer).and_then(|reply| reply.code()),
        Some(Code::Busy)
    );
    drop(idle);
    let again = async {
        while !client::call(&daemon.socket(), &Request::new(Verb::Status), |_| {})
            .await
            .is_ok_and(|reply| reply.ok())
        {}
    };
    timeout(Duration::from_secs(5), again)
        .await
        .expect("there is room again");
    daemon.stop().await;
}

#[tokio::test]
async fn a_killed_client_lets_go_of_the_site() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let mut silent = settings(
        "mana.so",
        "127.0.0.1:1",
        &listener.local_addr().expect("address").to_string(),
    );
    silent.health.timeout = Duration::from_secs(60);
    let daemon = Daemon::start(&[silent]).await;
    let mut first = connected(&daemon).await;
    first.write_all(b"switch green\n").await.expect("write");
    let gating = async || {
        let status = daemon.ask("status").await;
        status.field("sites").expect("sites")[0]["cutover"] == "gating"
    };
    while !gating().await {}
    // A peer that only sends no more still waits for its reply.
    first.shutdown().await.expect("shutdown");
    tokio::time::sleep(2 * GONE_CHECK).await;
    assert!(gating().await);
    drop(first);
    let let_go = async { while gating().await {} };
    timeout(Duration::from_secs(1), let_go)
        .await
        .expect("within a second");
    daemon.stop().await;
}

#[tokio::test]
async fn the_client_gets_events_and_the_reply() {
    let green = Backend::start(&[200]).await;
    let daemon = Daemon::start(&[settings("mana.so", "127.0.0.1:1", &green.address())]).await;
    let mut request = Request::new(Verb::Switch(crate::Slot::Green));
    request.progress = true;
    let mut events = Vec::new();
    let reply = client::call(&daemon.socket(), &request, |event| {
        events.push(event["event"].clone())
    })
    .await;
    assert!(reply.expect("reply").ok());
    assert_eq!(events, ["gating", "persisting", "published", "draining"]);
    daemon.stop().await;
}

fn at(path: PathBuf) -> SocketOptions {
    SocketOptions {
        path,
        gid: None,
        allowed: Allowed::default(),
    }
}

#[tokio::test]
async fn a_live_socket_is_never_stolen() {
    let daemon = daemon().await;
    let error = ControlSocket::bind(&at(daemon.socket()))
        .await
        .expect_err("in use");
    assert!(matches!(error, SocketError::InUse { .. }));
    assert!(exchange(&daemon, b"status").await[0].ok());
    daemon.stop().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_the_own_one_removed() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("stale"));
    let socket = ControlSocket::bind(&at(path.clone())).await.expect("bound");
    let mode = std::fs::metadata(&path)
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    drop(socket);
    assert!(
        std::fs::read_dir(dir.path())
            .expect("list")
            .next()
            .is_none()
    );
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("socket");
    std::fs::write(&path, "precious").expect("write");
    let error = ControlSocket::bind(&at(path.clone()))
        .await
        .expect_err("no socket");
    assert!(matches!(error, SocketError::NotASocket { .. }));
    assert_eq!(std::fs::read(&path).expect("read"), b"precious");
    std::fs::remove_file(&path).expect("remove");
    // A socket that took the place of ours is not removed with ours.
    let socket = ControlSocket::bind(&at(path.clone())).await.expect("bound");
    std::fs::remove_file(&path).expect("remove");
    let _other = UnixListener::bind(&path).expect("other");
    drop(socket);
    assert!(path.exists());
}

#[tokio::test]
async fn a_stranger_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("socket");
    let mut socket = ControlSocket::bind(&at(path.clone())).await.expect("bound");
    let stream = UnixStream::connect(&path).await.expect("connect");
    assert!(socket.admit(&stream).is_ok());
    // As root, every peer of this test is root: only the rule itself can be shown then.
    if socket.own_uid != 0 {
        socket.own_uid = 0;
        assert_eq!(
            socket.admit(&stream).err().and_then(|reply| reply.code()),
            Some(Code::Refused)
        );
    }
}

mod read_line {
    use proptest::prelude::*;

    use super::super::{Line, read_line};

    fn all_lines(bytes: &[u8], capacity: usize) -> Vec<Line> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        runtime.block_on(async {
            let mut reader = tokio::io::BufReader::with_capacity(capacity, bytes);
            let mut lines = Vec::new();
            loop {
                match read_line(&mut reader).await.expect("memory does not fail") {
                    Line::End => return lines,
                    line => lines.push(line),
                }
            }
        })
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(bytes in "[a-z\n]{0,60}", capacity in 1_usize..20) {
            let expected: Vec<Line> = bytes.lines().map(|line| Line::Whole(line.into())).collect();
            prop_assert_eq!(all_lines(bytes.as_bytes(), capacity), expected);
        }
    }
}
