//! Inputs that `cargo test` makes up. `PROPTEST_CASES` sets how many each property gets.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 28] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "expect",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-anything",
    "x-real-ip",
    "x-request-id",
    "x-middleware-subrequest",
    "cookie",
    "set-cookie",
    "accept",
    "accept-encoding",
    "cache-control",
    "content-type",
    "content-encoding",
    "etag",
    "vary",
    "x-kept",
    "x-hop",
];

const VALUES: [&str; 20] = [
    "",
    "close",
    "keep-alive, X-Hop",
    "host, content-length, x-real-ip",
    "upgrade",
    "websocket",
    "chunked",
    "5",
    "5, 5",
    "gzip;q=0.5, br;q=1.5;q=0, *",
    "zstd;q=",
    "no-transform",
    "text/html; charset=utf-8",
    "*/*",
    "W/\"a\"",
    "\"a",
    "a=1",
    "mana.so:443",
    "x",
    "a, b",
];

fn fields() -> impl Strategy<Value = HeaderMap> {
    let value = prop_oneof![
        8 => prop::sample::select(VALUES.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(prop_oneof![Just(b'\t'), 0x20_u8..0x7f, 0x80_u8..=0xff], 0..40),
    ];
    let field = (prop::sample::select(NAMES.to_vec()), value);
    prop::collection::vec(field, 0..12).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(&value).expect("valid bytes");
            map.append(HeaderName::from_static(name), value);
        }
        map
    })
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Empty),
        Just(Framing::Chunked),
        (1_u64..u64::MAX).prop_map(Framing::Length),
    ]
}

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2])
}

proptest! {
    #[test]
    fn requests(
        fields in fields(), version in version(), framing in framing(), is_upgrade in any::<bool>()
    ) {
        what_goes_to_the_upstream_can_be_read_in_one_way(fields, version, framing, is_upgrade);
    }

    #[test]
    fn responses(
        fields in fields(), asked in fields(), version in version(),
        status in prop::sample::select(vec![200_u16, 204, 206, 304, 404, 500])
    ) {
        let status = StatusCode::from_u16(status).expect("a status");
        what_goes_to_the_client_can_be_read_in_one_way(fields, asked, version, status);
    }

    #[test]
    fn clients(
        chain in prop::collection::vec(
            prop::sample::select(vec![
                "192.0.2.1", "10.0.0.2", "10.0.0.2:80", "[2001:db8::1]:443", "::ffff:192.0.2.2", "unknown", "", " 10.0.0.1 ",
            ]),
            0..6,
        ),
        name in prop::sample::select(AddressHeader::ALL.to_vec()),
        is_trusted in any::<bool>(),
    ) {
        let mut fields = Fields::default();
        fields.push(name.as_str().as_bytes(), chain.join(",").as_bytes());
        a_client_is_its_peer_or_whom_a_trusted_one_names(&fields, is_trusted);
    }

    #[test]
    fn bodies_in_pieces(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "\r\n", "3\r\nabc\r\n", "3;x=y\r\nabc\r\n", "0\r\n", "0\r\n\r\n", "x: 1\r\n", "a", "\n", "\r", "GET / HTTP/1.1\r\n",
                "ffffffffffffffff\r\n", " fold\r\n",
            ]),
            0..14,
        ),
        size in 1_usize..9,
    ) {
        it_does_not_matter_how_the_bytes_of_a_body_are_cut(pieces.concat().as_bytes(), size);
    }

    #[test]
    fn websockets_in_pieces(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..9) {
        it_does_not_matter_how_the_frames_of_a_websocket_are_cut(&bytes, size);
    }
}
