//! The head of the PROXY protocol: no bytes panic its reader, which takes no byte behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mana_proxy::proxy_protocol::read;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let mut rest = bytes;
    let Ok(source) = runtime.block_on(read(&mut rest)) else {
        return;
    };
    let mut head = &bytes[..bytes.len() - rest.len()];
    let again = runtime
        .block_on(read(&mut head))
        .expect("the head alone is one too");
    assert_eq!(again, source);
    assert!(head.is_empty());
});
