//! The head guard: no bytes panic it, a resumed scan says the same, and what passes is read alike by another parser, also
//! without a host that it repeats.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_proxy::head::{HeadLimits, HeadScan, repeated_authority, scan};

const LIMITS: HeadLimits = HeadLimits {
    head_bytes: 4096,
    uri_bytes: 1024,
    headers: 32,
};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = scan(bytes, 0, LIMITS);
    let cut = usize::from(cut).min(bytes.len());
    if scan(&bytes[..cut], 0, LIMITS) == HeadScan::Partial {
        assert_eq!(scan(bytes, cut, LIMITS), whole);
    }
    let HeadScan::Complete { end } = whole else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(end)));
    let count = |name: &str| {
        let named = request
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        named.count()
    };
    assert!(count("host") <= 1);
    assert!(count("content-length") + count("transfer-encoding") <= 1);
    let Some(repeated) = repeated_authority(&bytes[..end]) else {
        return;
    };
    // As the connection's loop does it.
    let path: &[u8] = match bytes[repeated.end] {
        b'/' => b"",
        _ => b"/",
    };
    let origin_form = [&bytes[..repeated.start], path, &bytes[repeated.end..end]].concat();
    let whole = HeadScan::Complete {
        end: origin_form.len(),
    };
    assert_eq!(scan(&origin_form, 0, LIMITS), whole);
    assert_eq!(repeated_authority(&origin_form), None);
});
