//! An upstream in this process, which answers each request with the same bytes, in one write.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Starts it on a port that the system chooses. It ends with this process.
pub fn start(answer: Vec<u8>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let answer = answer.clone();
            // A connection that breaks shows on the client's side, as a request without an answer.
            thread::spawn(move || serve(stream, &answer));
        }
    });
    Ok(address)
}

/// One connection. Requests have no bodies, and the next one comes after the answer.
fn serve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => head.extend_from_slice(&buffer[..read]),
        }
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            stream.write_all(answer)?;
        }
    }
}
