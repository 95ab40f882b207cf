//! The upstream of the counting.

use std::io;
use std::net::SocketAddr;

use crate::answering;

/// Starts one whose responses have so many bytes of body. It ends with this process.
pub fn start(body_bytes: usize) -> io::Result<SocketAddr> {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {body_bytes}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + body_bytes, b'x');
    answering::start(answer)
}
