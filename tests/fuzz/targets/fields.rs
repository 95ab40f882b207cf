//! The two rewrites of heads: whatever fields come in, what goes out can be read in one way.
#![no_main]

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Version};
use libfuzzer_sys::fuzz_target;
use mana_proxy::headers::Framing;
use mana_proxy::properties;

fuzz_target!(|input: (u8, u64, &[u8], &[u8])| {
    let (choices, length, fields, asked) = input;
    let fields = read(fields);
    let asked = read(asked);
    let version = match choices & 3 {
        0 => Version::HTTP_10,
        1 => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let framing = match choices >> 2 & 3 {
        0 => Framing::Chunked,
        1 => Framing::Empty,
        _ => Framing::Length(length.max(1)),
    };
    let is_upgrade = choices & 16 != 0;
    properties::what_goes_to_the_upstream_can_be_read_in_one_way(
        asked.clone(),
        version,
        framing,
        is_upgrade,
    );
    let status = StatusCode::from_u16(200 + u16::from(choices >> 5) * 51).expect("from 200 to 557");
    properties::what_goes_to_the_client_can_be_read_in_one_way(fields, asked, version, status);
});

/// `name: value` lines; those that no session would let through are left out.
fn read(bytes: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(64) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    map
}
