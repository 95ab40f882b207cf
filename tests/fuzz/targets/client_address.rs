//! Who the client is, from what X-Forwarded-For and its like say.
#![no_main]

use http::header::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mana_proxy::client_address::AddressHeader;
use mana_proxy::properties;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (which, is_trusted, bytes) = input;
    let header = AddressHeader::ALL[usize::from(which) % AddressHeader::ALL.len()];
    let mut fields = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            fields.append(header.name(), value.clone());
            fields.append("x-forwarded-proto", value);
        }
    }
    properties::a_client_is_its_peer_or_whom_a_trusted_one_names(&fields, is_trusted);
});
