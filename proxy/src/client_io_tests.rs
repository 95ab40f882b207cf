//! What leaves, and when.

use std::io::Read;
use std::task::Waker;

use tokio::net::TcpStream;

use super::*;

#[tokio::test]
async fn what_the_codec_flushes_leaves_when_it_is_written_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let mut client = std::net::TcpStream::connect(address).expect("a client");
    client.set_nonblocking(true).expect("a socket option");
    let (tcp, peer) = listener.accept().expect("a connection");
    tcp.set_nonblocking(true).expect("a socket option");
    let tcp = TcpStream::from_std(tcp).expect("a runtime");
    tcp.writable().await.expect("room to write");
    let limits = IoLimits {
        stall: Duration::from_secs(60),
        bytes_per_second: 0,
        h2_control_frames: 0,
    };
    let mut io = ClientIo::new(Transport::Plain(tcp), peer, limits);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut seen = [0; 16];
    // Loopback delivers within the write.
    let mut client_sees = || match client.read(&mut seen) {
        Ok(count) => Some(seen[..count].to_vec()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    };
    let mut codec_writes = |bytes: &[u8]| {
        let written = Pin::new(&mut io).poll_write(cx, bytes);
        assert!(matches!(written, Poll::Ready(Ok(count)) if count == bytes.len()));
        let flushed = Pin::new(&mut io).poll_flush(cx);
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
        io.clone()
    };

    codec_writes(b"preface").gather_writes();
    assert_eq!(client_sees().as_deref(), Some(&b"preface"[..]));
    codec_writes(b"one, ");
    let io = codec_writes(b"two");
    assert_eq!(client_sees(), None);
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(matches!(io.poll_write_out(cx), Poll::Ready(Ok(()))));
    assert_eq!(client_sees().as_deref(), Some(&b"one, two"[..]));
    drop(client);
}
