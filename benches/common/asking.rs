//! One request on an HTTP/1 connection, and the whole answer to it.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Sends `request`, reads the answer with its `body_bytes`, and returns its head.
///
/// # Errors
/// The connection fails or ends, or the answer is not a 200.
pub fn ask(stream: &mut TcpStream, request: &[u8], body_bytes: usize) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    let mut answer = Vec::with_capacity(body_bytes * 2);
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
        let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
            continue;
        };
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            let head = String::from_utf8_lossy(&answer[..end]).into_owned();
            return Err(io::Error::other(format!("not answered with 200: {head}")));
        }
        if answer.len() >= end + 4 + body_bytes {
            answer.truncate(end + 2);
            return Ok(answer);
        }
    }
}
