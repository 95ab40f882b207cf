//! The head of the PROXY protocol: what a load balancer says of a connection before its first byte.
//!
//! Owns reading it, its bounds and what it means; `ppp` takes it apart. Only listeners that are configured for it read
//! one, and there it is required: no client can be mistaken for a balancer, nor a balancer for a client. Both versions,
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Whom a head speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This client.
    Client(SocketAddr),
    /// The balancer itself (`LOCAL`, a health check), or a client of a kind that has no address here (`UNKNOWN`, Unix
    /// sockets): the connection's own peer stands.
    Peer,
}

/// Why a connection does not begin as it has to.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// The connection ended or failed.
    #[error("cannot read the head of the PROXY protocol")]
    Read(#[from] io::Error),
    /// These bytes are none.
    #[error("this is no head of the PROXY protocol")]
    Malformed,
    /// It is longer than any that is meant.
    #[error("the head of the PROXY protocol is too long")]
    TooLong,
}

/// Reads one head, and not a byte behind it. The deadline is the caller's.
///
/// Version 1 has no length, so that its line is read byte by byte: some 50 calls for a connection. Balancers that
/// open many use version 2.
///
/// # Errors
/// See [`HeadError`].
///
/// # Cancel safety
/// Not cancel safe: the bytes of a head that was cut short are gone.
pub async fn read<R: AsyncRead + Unpin>(connection: &mut R) -> Result<Source, HeadError> {
    let mut head = vec![0; SIGNATURE_BYTES];
    connection.read_exact(&mut head).await?;
    if head == ppp::v2::PROTOCOL_PREFIX {
        head.resize(V2_FIXED_BYTES, 0);
        connection.read_exact(&mut head[SIGNATURE_BYTES..]).await?;
        let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
        if length > V2_REST_BYTES_MAX {
            return Err(HeadError::TooLong);
        }
        head.resize(V2_FIXED_BYTES + length, 0);
        connection.read_exact(&mut head[V2_FIXED_BYTES..]).await?;
    } else if head.starts_with(V1_BEGINNING) {
        while !head.ends_with(b"\r\n") {
            if head.len() == V1_BYTES_MAX {
                return Err(HeadError::TooLong);
            }
            head.push(connection.read_u8().await?);
        }
    }
    parse(&head).ok_or(HeadError::Malformed)
}

/// What a whole head says; none if it is malformed.
fn parse(head: &[u8]) -> Option<Source> {
    if head.starts_with(V1_BEGINNING) {
        // "US-ASCII" (s2.1); `ppp` panics on some that is not.
        let text = std::str::from_utf8(head)
            .ok()
            .filter(|text| text.is_ascii())?;
        if text.starts_with(V1_UNKNOWN) {
            // "the receiver must ignore anything presented before the CRLF is found" (s2.1); `ppp` counts words.
            return Some(Source::Peer);
        }
        let head = ppp::v1::Header::try_from(text).ok()?;
        return Some(match head.addresses {
            ppp::v1::Addresses::Tcp4(ip) => client(ip.source_address.into(), ip.source_port),
            ppp::v1::Addresses::Tcp6(ip) => client(ip.source_address.into(), ip.source_port),
            ppp::v1::Addresses::Unknown => Source::Peer,
        });
    }
    let head = ppp::v2::Header::try_from(head).ok()?;
    if head.command == ppp::v2::Command::Local {
        return Some(Source::Peer);
    }
    if head.protocol == ppp::v2::Protocol::Datagram {
        return None;
    }
    Some(match head.addresses {
        ppp::v2::Addresses::IPv4(ip) => client(ip.source_address.into(), ip.source_port),
        ppp::v2::Addresses::IPv6(ip) => client(ip.source_address.into(), ip.source_port),
        ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => Source::Peer,
    })
}

fn client(ip: IpAddr, port: u16) -> Source {
    Source::Client(SocketAddr::new(ip.to_canonical(), port))
}

const V1_BEGINNING: &[u8] = b"PROXY ";
const V1_UNKNOWN: &str = "PROXY UNKNOWN ";
/// Of version 2; the shortest head of version 1 has 15 bytes.
const SIGNATURE_BYTES: usize = 12;
/// Signature, version, family and length of version 2.
const V2_FIXED_BYTES: usize = 16;
/// Addresses and TLVs of version 2. Those with a whole client certificate stay below it.
const V2_REST_BYTES_MAX: usize = 4096;
/// "A 107-byte buffer is always enough to store all the line and a trailing zero" (s2.1).
const V1_BYTES_MAX: usize = 107;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn take(bytes: &[u8]) -> Result<(Source, usize), HeadError> {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let source = runtime.expect("a runtime").block_on(read(&mut rest))?;
        Ok((source, bytes.len() - rest.len()))
    }

    fn v2(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short");
        let mut head = ppp::v2::PROTOCOL_PREFIX.to_vec();
        head.extend([version_and_command, family]);
        head.extend(length.to_be_bytes());
        head.extend(rest);
        head
    }

    const V4: [u8; 12] = [203, 0, 113, 1, 10, 0, 0, 1, 0x12, 0x34, 1, 0xbb];

    #[test]
    fn a_head_names_the_client_or_leaves_the_peer() {
        let named = |text: &str| Source::Client(text.parse().expect("an address"));
        let mut mapped = vec![0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 203, 0, 113, 1]);
        mapped[33] = 7;
        let with_tlvs = [&V4[..], &[4, 0, 3, 1, 2, 3, 0xee, 0, 0]].concat();
        let line = |text: &str| format!("PROXY {text}\r\n").into_bytes();
        let table = [
            (
                line("TCP4 203.0.113.1 10.0.0.1 4660 443"),
                named("203.0.113.1:4660"),
            ),
            (
                line("TCP6 2001:db8::1 2001:db8::2 1 2"),
                named("[2001:db8::1]:1"),
            ),
            (
                line("TCP6 ::ffff:203.0.113.1 ::1 1 2"),
                named("203.0.113.1:1"),
            ),
            (line("UNKNOWN"), Source::Peer),
            (line("UNKNOWN ffff:f...f:ffff whatever"), Source::Peer),
            (line("UNKNOWN 1 2 3 4 5 6"), Source::Peer),
            (v2(0x21, 0x11, &V4), named("203.0.113.1:4660")),
            (v2(0x21, 0x11, &with_tlvs), named("203.0.113.1:4660")),
            (v2(0x21, 0x21, &mapped), named("203.0.113.1:7")),
            (v2(0x20, 0x00, &[]), Source::Peer),
            (v2(0x20, 0x11, &V4), Source::Peer),
            (v2(0x21, 0x00, &[]), Source::Peer),
            (v2(0x21, 0x31, &[0; 216]), Source::Peer),
        ];
        for (head, source) in table {
            let bytes = [&head[..], b"GET / HTTP/1.1\r\n"].concat();
            let (found, taken) = take(&bytes).expect("a head");
            assert_eq!((found, taken), (source, head.len()), "{head:?}");
        }
    }

    #[test]
    fn what_is_no_head_is_refused() {
        let mut wrong_signature = v2(0x21, 0x11, &V4);
        wrong_signature[11] = 0;
        let table = [
            b"GET / HTTP/1.1\r\nhost: mana.so\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\0".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 1 65536\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.256 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4  203.0.113.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 1 2 3\r\n".to_vec(),
            b"PROXY UDP4 203.0.113.1 10.0.0.1 1 2\r\n".to_vec(),
            b"proxy TCP4 203.0.113.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1 10.0.0.1 1 \xff\r\n".to_vec(),
            "PROXY TCP4 192.0.2.1 10.0.0.1 0 2PROx-real-ipXY TCP4 c\r\u{c206}\u{4}\non 2\r\n"
                .as_bytes()
                .to_vec(),
            wrong_signature,
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x12, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x21, &V4),
        ];
        for head in table {
            let refused = take(&head).expect_err("it is no head");
            assert!(
                matches!(refused, HeadError::Malformed),
                "{head:?}: {refused}"
            );
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107));
        assert!(matches!(take(long.as_bytes()), Err(HeadError::TooLong)));
        let long = v2(0x21, 0x11, &vec![0; V2_REST_BYTES_MAX + 1]);
        assert!(matches!(take(&long), Err(HeadError::TooLong)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_behind_the_head_are_taken(
            version in 0_u8..3,
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let beginning: &[u8] = match version {
                1 => b"PROXY TCP",
                2 => ppp::v2::PROTOCOL_PREFIX,
                _ => b"",
            };
            let bytes = [beginning, &bytes].concat();
            if let Ok((_, taken)) = take(&bytes) {
                prop_assert!(parse(&bytes[..taken]).is_some());
            }
        }

        #[test]
        fn what_a_balancer_writes_is_read(ip in any::<[u8; 16]>(), port in any::<u16>(), is_v4 in any::<bool>()) {
            let ip = if is_v4 { IpAddr::from([ip[0], ip[1], ip[2], ip[3]]) } else { IpAddr::from(ip) };
            let (family, name, unspecified) = match ip {
                IpAddr::V4(_) => (0x11, "TCP4", "0.0.0.0"),
                IpAddr::V6(_) => (0x21, "TCP6", "::"),
            };
            let expected = client(ip, port);
            let line = format!("PROXY {name} {ip} {unspecified} {port} 443\r\n");
            let (found, taken) = take(line.as_bytes()).expect("a head");
            prop_assert_eq!((found, taken), (expected, line.len()));
            let mut rest = match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            rest.resize(rest.len() * 2, 0);
            rest.extend(port.to_be_bytes());
            rest.extend([1, 0xbb]);
            let head = v2(0x21, family, &rest);
            let (found, taken) = take(&head).expect("a head");
            prop_assert_eq!((found, taken), (expected, head.len()));
        }
    }
}
