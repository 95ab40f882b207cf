//! What makes a connection unfit for another request.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A connection and the upstream's end of it.
async fn pair() -> (UpstreamIo, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let io = UpstreamIo::new(connected.expect("connect"), address);
    (io, accepted.expect("accept").0)
}

/// Whether the connection is clean once this was read from it, and `taken` bytes of that were taken.
async fn is_clean_after(answer: &str, taken: usize) -> bool {
    let (io, mut upstream) = pair().await;
    io.begin_request();
    upstream.write_all(answer.as_bytes()).await.expect("write");
    while io.received() < answer.len() as u64 {
        io.read_ahead(16).await.expect("read");
    }
    io.with_read(|bytes| bytes.advance(taken));
    io.is_clean()
}

#[tokio::test]
async fn bytes_behind_an_answer_make_the_connection_unfit_for_another_request() {
    const HEAD: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    assert!(is_clean_after(HEAD, HEAD.len()).await);
    assert!(!is_clean_after(&format!("{HEAD}HTTP/1.1 200 OK\r\n"), HEAD.len()).await);
}

#[tokio::test]
async fn what_the_kernel_does_not_take_goes_out_with_later_reads() {
    let (io, mut upstream) = pair().await;
    let piece = vec![b'a'; PENDING_BYTES_MAX];
    let mut sent = 0;
    while io.has_room() {
        io.send(&piece);
        sent += piece.len();
    }
    let receive = async {
        let mut received = vec![0; sent];
        upstream.read_exact(&mut received).await.expect("read");
        upstream.write_all(b"done").await.expect("write");
        received
    };
    let (read, received) = tokio::join!(io.read_ahead(16), receive);
    assert_eq!(read.expect("read"), 4);
    assert!(received.iter().all(|byte| *byte == b'a') && !io.is_clean());
    assert_eq!(io.sent(), sent as u64);
}

#[tokio::test]
async fn what_only_the_kernel_knows_of_makes_a_connection_unfit_as_well() {
    let (io, upstream) = pair().await;
    upstream.writable().await.expect("open");
    upstream.try_write(b"answer").expect("written");
    assert_eq!(io.read_ahead(4096).await.expect("read"), 6);
    io.with_read(|bytes| bytes.clear());
    assert!(io.is_alive(Witness::Kernel) && io.is_alive(Witness::Runtime));
    // No turn of the runtime between.
    upstream.try_write(b"more").expect("written");
    assert!(io.is_alive(Witness::Runtime), "it has not heard of it");
    assert!(!io.is_alive(Witness::Kernel));
}

#[tokio::test]
async fn the_runtime_knows_after_a_turn_what_makes_a_connection_unfit() {
    for says_something in [true, false] {
        let (io, upstream) = pair().await;
        upstream.writable().await.expect("open");
        upstream.try_write(b"answer").expect("written");
        assert_eq!(io.read_ahead(4096).await.expect("read"), 6);
        io.with_read(|bytes| bytes.clear());
        assert!(io.is_alive(Witness::Runtime));
        let kept = match says_something {
            true => {
                upstream.try_write(b"more").expect("written");
                Some(upstream)
            }
            false => {
                drop(upstream);
                None
            }
        };
        // It looks for events between two turns of a task that lets others go first.
        let mut turns = 0;
        while io.is_alive(Witness::Runtime) {
            assert!(turns < 100, "it has not heard of it: {says_something}");
            tokio::task::yield_now().await;
            turns += 1;
        }
        drop(kept);
    }
}

#[tokio::test]
async fn small_pieces_that_are_held_share_their_buffers() {
    const PIECE: &[u8] = b"twenty bytes of body";
    let (io, mut upstream) = pair().await;
    let mut held: Vec<bytes::Bytes> = Vec::new();
    let mut buffers = 0;
    for _ in 0..100 {
        upstream.write_all(PIECE).await.expect("write");
        io.read_ahead(4096).await.expect("read");
        let piece = io.with_read(|bytes| bytes.split().freeze());
        let follows =
            |last: &bytes::Bytes| last.as_ptr().addr() + last.len() == piece.as_ptr().addr();
        if !held.last().is_some_and(follows) {
            buffers += 1;
        }
        held.push(piece);
    }
    assert!(
        buffers <= 3,
        "{buffers} buffers for {} bytes",
        100 * PIECE.len()
    );
}
