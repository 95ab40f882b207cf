//! A TLS 1.2 ClientHello made by hand, for server names that a proper client never sends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::within;

/// How the server takes a hello.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// With its own hello and a certificate in plain sight; these are the bytes of the whole flight.
    Flight(Vec<u8>),
    /// With an alert of this number.
    Alert(u8),
    /// By closing.
    Closed,
}

const RECORD_HANDSHAKE: u8 = 22;
const RECORD_ALERT: u8 = 21;
const SERVER_HELLO_DONE: [u8; 4] = [14, 0, 0, 0];

/// Offers TLS 1.2 with these bytes as the server name.
pub async fn offer(address: SocketAddr, name: &[u8]) -> Answer {
    let mut stream = within("connect", TcpStream::connect(address))
        .await
        .unwrap();
    stream.write_all(&hello(name)).await.unwrap();
    within("an answer to the hello", answer(&mut stream)).await
}

async fn answer(stream: &mut TcpStream) -> Answer {
    let mut flight = Vec::new();
    loop {
        let mut header = [0; 5];
        if stream.read_exact(&mut header).await.is_err() {
            return Answer::Closed;
        }
        let mut record = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        if stream.read_exact(&mut record).await.is_err() {
            return Answer::Closed;
        }
        match header[0] {
            RECORD_ALERT => return Answer::Alert(record[1]),
            RECORD_HANDSHAKE => flight.extend_from_slice(&record),
            other => panic!("record type {other}"),
        }
        if flight.ends_with(&SERVER_HELLO_DONE) {
            return Answer::Flight(flight);
        }
    }
}

/// RFC 5246 7.4.1.2: one record with one ClientHello.
fn hello(name: &[u8]) -> Vec<u8> {
    let extensions = [
        // server_name: a list of one host_name
        extension(0, &with_length(&[&[0], &with_length(name)[..]].concat())),
        // supported_groups: x25519, secp256r1
        extension(10, &with_length(&[0, 0x1d, 0, 0x17])),
        // ec_point_formats: uncompressed
        extension(11, &[1, 0]),
        // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256, rsa_pkcs1_sha256, ed25519
        extension(13, &with_length(&[4, 3, 8, 4, 4, 1, 8, 7])),
        // extended_master_secret
        extension(23, &[]),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0);
    // ECDHE with ECDSA and with RSA, AES-128-GCM and ChaCha20; and the renegotiation marker.
    body.extend_from_slice(&with_length(&[
        0xc0, 0x2b, 0xc0, 0x2f, 0xcc, 0xa9, 0xcc, 0xa8, 0, 0xff,
    ]));
    body.extend_from_slice(&[1, 0]);
    body.extend_from_slice(&with_length(&extensions));
    let mut message = vec![1, 0];
    message.extend_from_slice(&with_length(&body));
    let mut record = vec![RECORD_HANDSHAKE, 3, 1];
    record.extend_from_slice(&with_length(&message));
    record
}

fn extension(number: u16, data: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &with_length(data)].concat()
}

fn with_length(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&length.to_be_bytes()[..], data].concat()
}
