//! What is read in whatever pieces it comes: bodies, websocket frames, HTTP/2 frame headers.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use mana_proxy::h2_frames::FrameBudget;
use mana_proxy::properties;

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    if bytes.is_empty() {
        return;
    }
    let size = usize::from(size).max(1);
    properties::it_does_not_matter_how_the_bytes_of_a_body_are_cut(bytes, size);
    properties::it_does_not_matter_how_the_frames_of_a_websocket_are_cut(bytes, size);
    let now = Instant::now();
    let mut whole = FrameBudget::new(100_000, now);
    let mut cut = FrameBudget::new(100_000, now);
    let is_flood = whole.received(bytes, now).is_err();
    assert!(!is_flood, "an input has fewer frames than tokens");
    for piece in bytes.chunks(size) {
        assert_eq!(cut.received(piece, now), Ok(()));
    }
    assert_eq!(whole.unfinished_since(), cut.unfinished_since());
});
