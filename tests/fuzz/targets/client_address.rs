//! Who the client is, from what X-Forwarded-For and its like say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_proxy::client_address::AddressHeader;
use mana_proxy::fields::Fields;
use mana_proxy::properties;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (which, is_trusted, bytes) = input;
    let header = AddressHeader::ALL[usize::from(which) % AddressHeader::ALL.len()];
    let mut fields = Fields::default();
    for line in bytes.split(|byte| *byte == b'\n').take(16) {
        fields.push(header.as_str().as_bytes(), line);
        fields.push(b"x-forwarded-proto", line);
    }
    properties::a_client_is_its_peer_or_whom_a_trusted_one_names(&fields, is_trusted);
});
