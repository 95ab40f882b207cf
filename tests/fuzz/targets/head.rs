//! The head guard: no bytes panic it, a resumed scan says the same, and what passes is read alike by another parser.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_proxy::head::{HeadLimits, HeadScan, scan};

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
    let HeadScan::Complete { end, head } = whole else {
        return;
    };
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(end)));
    assert_eq!(request.method, Some(head.method.as_str()));
    let theirs = request
        .headers
        .iter()
        .map(|field| (field.name.as_bytes(), field.value));
    assert!(theirs.eq(head.fields.iter().map(|field| (field.name, field.value))));
    let target = request.path.expect("a complete request has one");
    let path = head.path_and_query();
    assert!(target.ends_with(path.trim_start_matches('/')) || target == path);
    let count = |name: &str| {
        let named = request
            .headers
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name));
        named.count()
    };
    assert!(count("host") <= 1);
    assert!(count("content-length") + count("transfer-encoding") <= 1);
});
