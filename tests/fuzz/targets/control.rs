//! A line on the control socket, as JSON or in words: none panics, and what is understood is understood again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_control::Request;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = Request::parse(bytes) else {
        return;
    };
    let line = request.to_json_line();
    let again = Request::parse(line.as_bytes()).expect("what it writes, it reads");
    assert_eq!(again.to_json_line(), line);
});
