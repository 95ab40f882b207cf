//! No text panics; every valid file parses.

use proptest::prelude::*;

use super::*;

/// Lines and pieces of which most generated files are nearly right.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "[server]", "[listen]", "[control]", "[[site]]", "[site]", "[site.health]", "[timeouts]", "[limits]",
    "[admin]", "host = ", "aliases = ", "blue = ", "green = ", "certificate = ", "health = ", "workers = ",
    "http = ", "idle = ", "head_bytes = ", "hsts = ", "[", "]", "{", "}", "\"", "\"mana.so\"",
    "\"127.0.0.1:80\"", "\"[::1]:80\"", "1", "-1", "0x10", "1e400", "true", "\"1s\"", "\"1KiB\"", ",", "=",
    ".", "\n", "\n", "\n", "\u{e4}", "a", "1979-05-27",
];

fn valid_site(index: u16) -> impl Strategy<Value = String> {
    let slots = (1u16..=3, 1u16..=3);
    (slots, any::<bool>(), 1u32..=9, 1u32..=5000, any::<bool>()).prop_map(
        move |((blue, green), is_green, pass, ms, has_files)| {
            let list = |from: u16, count: u16| -> String {
                let upstreams: Vec<String> =
                    (from..from + count).map(|port| format!("\"localhost:{port}\"")).collect();
                upstreams.join(", ")
            };
            let port = 1000 + index * 10;
            let initial = if is_green { "green" } else { "blue" };
            let certificate =
                if has_files { r#"{ chain = "c", key = "k" }"# } else { r#""self-signed""# };
            format!(
                "[[site]]\nhost = \"s{index}.so\"\naliases = [\"www.s{index}.so\"]\ninitial = \"{initial}\"\n\
                 certificate = {certificate}\nblue = [{}]\ngreen = [{}]\n\
                 health = {{ interval = \"{ms}ms\", pass = {pass}, of = 9 }}\n",
                list(port, blue),
                list(port + 5, green),
            )
        },
    )
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*") {
        let _ = Config::parse(&text, "f.toml");
    }

    #[test]
    fn no_nearly_valid_text_panics(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        let appended = pieces.concat();
        let _ = Config::parse(&appended, "f.toml");
        if let Err(faults) = Config::parse(&format!("{SMALLEST}{appended}"), "f.toml") {
            for fault in faults {
                prop_assert!(fault.line >= 1);
                prop_assert!(!fault.to_string().contains('\n'), "one line: {fault:?}");
            }
        }
    }

    #[test]
    fn random_valid_files_parse(
        sites in (1u16..=4).prop_flat_map(|count| (0..count).map(valid_site).collect::<Vec<_>>()),
        workers in 1usize..=256,
        idle_s in 1u64..=86_400,
        headers in 10usize..=256,
    ) {
        let text = format!(
            "[server]\nworkers = {workers}\n[listen]\nhttp = [\"[::]:80\"]\n[timeouts]\nidle = \"{idle_s}s\"\n\
             [limits]\nheaders = {headers}\n{}",
            sites.concat()
        );
        let config = Config::parse(&text, "f.toml");
        prop_assert!(config.is_ok(), "{config:?}\n{text}");
        let config = config.unwrap();
        prop_assert_eq!(config.sites.len(), sites.len());
        prop_assert_eq!(config.server.workers, workers);
        prop_assert_eq!(config.timeouts.idle, Duration::from_secs(idle_s));
        prop_assert_eq!(config.limits.headers, headers);
    }
}
