//! Tables of files with faults: each is named with its line, key and reason.

use super::*;

/// What is appended to [`SMALLEST`], and the one fault that it makes.
#[rustfmt::skip]
const FAULTS_OF_APPENDED: &[(&str, &str)] = &[
    // unknown keys, in every section
    ("[servr]", "10: servr: unknown key; did you mean server?"),
    ("helth = {}", "10: site.helth: unknown key; did you mean health?"),
    ("zzzz = 1", "10: site.zzzz: unknown key"),
    ("\"a\\nb\" = 1", "10: site.a\\nb: unknown key"),
    ("[server]\nworker = 2", "11: server.worker: unknown key; did you mean workers?"),
    ("[control]\npath = 2", "11: control.path: unknown key"),
    ("[state]\ndirs = 2", "11: state.dirs: unknown key; did you mean dir?"),
    ("[admin]\nlisten = \"[::1]:1\"\nport = 2", "12: admin.port: unknown key"),
    ("[access_log]\nfile = 2", "11: access_log.file: unknown key"),
    ("[timeouts]\nhandshakes = 2", "11: timeouts.handshakes: unknown key; did you mean handshake?"),
    ("[limits]\nstreams = 2", "11: limits.streams: unknown key"),
    ("health = {\n  pth = 2 }", "11: site.health.pth: unknown key; did you mean path?"),
    ("drain = { request = 2 }", "10: site.drain.request: unknown key; did you mean requests?"),
    ("pause = { max = 2 }", "10: site.pause.max: unknown key"),
    // units
    ("health.interval = \"1 sec\"", "10: site.health.interval: \"1 sec\" is no duration: write 500ms, 30s, 5m or 1h"),
    ("[timeouts]\nidle = 75", "11: timeouts.idle: 75 has no unit: write 500ms, 30s, 5m or 1h"),
    ("[timeouts]\nidle = true", "11: timeouts.idle: this is a boolean; it has to be a duration as a string"),
    ("[timeouts]\nidle = \"0s\"", "11: timeouts.idle: \"0s\" is out of range: it has to be from 1ms to 24h"),
    ("[timeouts]\nidle = \"25h\"", "11: timeouts.idle: \"25h\" is out of range: it has to be from 1ms to 24h"),
    ("[limits]\nhead_bytes = \"16KB\"", "11: limits.head_bytes: \"16KB\" is no size: write 512B, 16KiB, 10MiB or 1GiB, or a number of bytes"),
    ("[limits]\nhead_bytes = 10", "11: limits.head_bytes: 10B is out of range: it has to be from 1KiB to 1MiB"),
    ("[limits]\nbody_bytes = -1", "11: limits.body_bytes: -1 is no size: write 512B, 16KiB, 10MiB or 1GiB, or a number of bytes"),
    ("[limits]\nbody_bytes = 1.5", "11: limits.body_bytes: this is a float; it has to be a size as a string, or a number of bytes"),
    // numbers: nothing is clamped
    ("[server]\nworkers = 0", "11: server.workers: 0 is out of range: it has to be from 1 to 256"),
    ("[server]\nworkers = 257", "11: server.workers: 257 is out of range: it has to be from 1 to 256"),
    ("[server]\nworkers = \"2\"", "11: server.workers: this is a string; it has to be a whole number"),
    ("[limits]\nattempts = 99999999999999999999", "11: limits.attempts: 99999999999999999999 is out of range: it has to be from 1 to 10"),
    ("[control]\nallow_uids = [1, -1]", "11: control.allow_uids: -1 is out of range: it has to be from 0 to 4294967295"),
    ("[control]\nallow_uids = 1", "11: control.allow_uids: this is an integer; it has to be an array: [ ... ]"),
    ("health.expect = 600", "10: site.health.expect: 600 is out of range: it has to be from 100 to 599"),
    ("health = { pass = 4 }", "10: site.health.pass: 4 of 3 probes cannot pass: pass <= of"),
    ("[timeouts]\nconnect = \"5s\"", "11: timeouts.connect: one attempt cannot take longer than all of them: connect <= connect_total"),
    ("[limits]\nrequests_burst = 199", "11: limits.requests_burst: one second has more than it permits at once: requests_burst >= requests_per_address"),
    ("[limits]\nh2_control_frames = 10", "11: limits.h2_control_frames: 10 is out of range: it has to be from 100 to 1000000"),
    // words and forms
    ("initial = \"red\"", "10: site.initial: \"red\" is no slot: it is blue or green"),
    ("health.method = \"POST\"", "10: site.health.method: \"POST\" is no method of a probe: write GET or HEAD"),
    ("health.path = \"ping\"", "10: site.health.path: \"ping\" is no request path: it starts with / and has neither spaces nor #"),
    ("health.host = \"a:b\"", "10: site.health.host: \"a:b\" is no host: \"b\" is no port"),
    ("health = \"/ping\"", "10: site.health: this is a string; it has to be a table"),
    ("[access_log]\nto = \"stdot\"", "11: access_log.to: \"stdot\" is no place for a log: write stdout, off, or a path with a / in it, for example ./stdot"),
    ("[state]\ndir = \"\"", "11: state.dir: \"\" is no path"),
    ("[admin]", "10: admin.listen: is missing: write listen = \"127.0.0.1:9090\""),
    ("[admin]\nlisten = \"9090\"", "11: admin.listen: \"9090\" is no address to listen on: write 127.0.0.1:8080 or [::]:443"),
    ("[admin]\nlisten = \"[::]:9090\"", "11: admin.listen: [::]:9090 is reachable from elsewhere and asks for no password: listen on 127.0.0.1 or [::1], or write allow_remote = true"),
    ("hsts = \"includeSubDomains\"", "10: site.hsts: max-age is missing: write max-age=31536000, then ; includeSubDomains and ; preload if meant"),
    ("hsts = \"max-age=1; max-age=2\"", "10: site.hsts: max-age is there twice: write max-age=31536000, then ; includeSubDomains and ; preload if meant"),
    ("hsts = \"max-age=1y\"", "10: site.hsts: \"max-age=1y\" is no directive of HSTS: write max-age=31536000, then ; includeSubDomains and ; preload if meant"),
    // names
    ("aliases = [\"www.mana.so\",\n\"mana.so\"]", "11: site.aliases: mana.so is already a host in line 6"),
    ("aliases = [\"www.mana.so\", \"WWW.mana.so\"]", "10: site.aliases: www.mana.so is already an alias in line 10"),
    ("aliases = [\"a b\"]", "10: site.aliases: \"a b\" is not a host name: only letters, digits, hyphens and dots (write other names as xn--...)"),
    ("aliases = [\"127.0.0.256\"]", "10: site.aliases: \"127.0.0.256\" is neither a host name nor an IPv4 address"),
    // clients
    ("[client]\ntrust = []", "11: client.trust: unknown key; did you mean trusted?"),
    ("[client]\ntrusted = [\"10.0.0.1/8\"]", "11: client.trusted: \"10.0.0.1/8\" has bits behind its prefix: write 10.0.0.0/8"),
    ("[client]\ntrusted = [\"::/0\"]", "11: client.trusted: \"::/0\" is everybody"),
    ("[client]\ntrusted = [\"::ffff:10.0.0.0/104\"]", "11: client.trusted: \"::ffff:10.0.0.0/104\" is IPv4 inside IPv6: write it as IPv4"),
    ("[client]\nunlimited = [\"localhost\"]", "11: client.unlimited: \"localhost\" is no network: write 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1"),
    ("[client]\naddress_headers = [\"forwarded\"]", "11: client.address_headers: \"forwarded\" is not believed: write x-forwarded-for, cf-connecting-ip, true-client-ip or x-real-ip"),
    ("only_trusted = true", "10: site.only_trusted: nobody is trusted: write the networks of the CDN under client.trusted"),
    // fields of responses
    ("response_headers = { a = \"b\\r\\nc: d\" }", "10: site.response_headers: \"b\\r\\nc: d\" is no value of a field: printable ASCII in one line, at most 8192 bytes, without spaces at its ends"),
    ("response_headers = { a = \" b\" }", "10: site.response_headers: \" b\" is no value of a field: printable ASCII in one line, at most 8192 bytes, without spaces at its ends"),
    ("response_headers = { a = \"\\u00e4\" }", "10: site.response_headers: \"\u{e4}\" is no value of a field: printable ASCII in one line, at most 8192 bytes, without spaces at its ends"),
    ("response_headers = { \"a\\r\\nb\" = \"c\" }", "10: site.response_headers: \"a\\r\\nb\" is no name of a field"),
    ("response_headers = { \"\" = \"c\" }", "10: site.response_headers: \"\" is no name of a field"),
    ("response_headers = { a = 1 }", "10: site.response_headers: this is an integer; it has to be a string"),
    ("response_headers = { Content-Length = \"1\" }", "10: site.response_headers: content-length belongs to the connection or says where the body ends; it cannot be changed"),
    ("response_headers = { Proxy-Authenticate = \"1\" }", "10: site.response_headers: proxy-authenticate belongs to the connection or says where the body ends; it cannot be changed"),
    ("response_headers = { Strict-Transport-Security = \"max-age=1\" }", "10: site.response_headers: strict-transport-security is set by hsts"),
    ("response_headers = { A = \"1\", a = \"1\" }", "10: site.response_headers: a is there twice"),
    ("response_headers = [\"a: b\"]", "10: site.response_headers: this is an array; it has to be a table: { name = \"value\" }"),
    ("remove_response_headers = [\"Connection\"]", "10: site.remove_response_headers: connection belongs to the connection or says where the body ends; it cannot be changed"),
    ("remove_response_headers = [\"x-request-id\"]", "10: site.remove_response_headers: x-request-id is set by the proxy"),
    ("response_headers = { a = \"1\" }\nremove_response_headers = [\"A\"]", "11: site.remove_response_headers: a is set by response_headers, which replaces what was there"),
    // TOML
    ("initial = \"blue\"\ninitial = \"green\"", "11: initial: is written twice"),
];

#[test]
fn each_fault_is_named_with_its_line_key_and_reason() {
    for (appended, expected) in FAULTS_OF_APPENDED {
        let found = faults(&format!("{SMALLEST}{appended}\n"));
        assert_eq!(found, [format!("f.toml:{expected}")], "{appended}");
    }
}

/// What in [`SMALLEST`] is replaced by what, and the one fault that it makes.
#[rustfmt::skip]
const FAULTS_OF_REPLACED: &[(&str, &str, &str)] = &[
    ("http = [\"127.0.0.1:0\"]", "", "2: listen: nothing to listen on: write http = [\"127.0.0.1:8080\"] or https = [...]"),
    ("http =", "htp =", "2: listen: nothing to listen on: write http = [\"127.0.0.1:8080\"] or https = [...]|3: listen.htp: unknown key; did you mean http?"),
    ("127.0.0.1:0", "localhost:80", "3: listen.http: \"localhost:80\" is no address to listen on: write 127.0.0.1:8080 or [::]:443"),
    ("[\"127.0.0.1:0\"]", "[\"127.0.0.1:80\", \"127.0.0.1:80\"]", "3: listen.http: 127.0.0.1:80 is already listened on in line 3"),
    ("[\"127.0.0.1:0\"]", "[\"[::1]:80\"]\nhttps = [\"[::]:80\"]", "4: listen.https: [::]:80 overlaps with [::1]:80 in line 3"),
    ("127.0.0.1:0", "127.0.0.1:4001", "9: site.green: 127.0.0.1:4001 is this proxy itself: listen.http in line 3"),
    ("127.0.0.1:0", "0.0.0.0:4000", "8: site.blue: 127.0.0.1:4000 is this proxy itself: listen.http in line 3"),
    ("[[site]]", "[site]", "5: site: write [[site]], with two brackets"),
    ("host = \"mana.so\"", "", "5: site.host: is missing: write host = \"mana.so\""),
    ("\"mana.so\"", "7", "6: site.host: this is an integer; it has to be a string"),
    ("certificate = \"self-signed\"", "", "5: site.certificate: is missing: write certificate = \"self-signed\" or { chain = \"cert.pem\", key = \"key.pem\" }"),
    ("\"self-signed\"", "\"acme\"", "7: site.certificate: this build orders no certificates by ACME yet: write \"self-signed\" or { chain = \"cert.pem\", key = \"key.pem\" }"),
    ("\"self-signed\"", "\"self\"", "7: site.certificate: \"self\" is no certificate source: write \"self-signed\" or { chain = \"cert.pem\", key = \"key.pem\" }"),
    ("\"self-signed\"", "{ chain = \"c\" }", "7: site.certificate.key: is missing: write key = \"key.pem\""),
    ("\"self-signed\"", "{ chain = \"c\", key = \"k\", pem = 1 }", "7: site.certificate.pem: unknown key"),
    ("blue = [\"127.0.0.1:4000\"]", "", "5: site.blue: is missing: write blue = [\"localhost:4000\"]"),
    ("blue = [\"127.0.0.1:4000\"]", "blue = []", "8: site.blue: 0 upstreams are out of range: a slot has from 1 to 64"),
    ("blue = [\"127.0.0.1:4000\"]", "blue = \"127.0.0.1:4000\"", "8: site.blue: this is a string; it has to be an array: [\"localhost:4000\"]"),
    ("127.0.0.1:4000", "127.0.0.1", "8: site.blue: \"127.0.0.1\" is no upstream address: write 127.0.0.1:4000, [::1]:4000 or localhost:4000"),
    ("127.0.0.1:4000", "::1:4000", "8: site.blue: \"::1:4000\" is no upstream address: write 127.0.0.1:4000, [::1]:4000 or localhost:4000"),
    ("127.0.0.1:4000", "localhost:0", "8: site.blue: \"localhost:0\" is no upstream address: \"0\" is no port, write 127.0.0.1:4000, [::1]:4000 or localhost:4000"),
    ("127.0.0.1:4000", "127.0.0.1:0", "8: site.blue: \"127.0.0.1:0\" is no upstream address: port 0 cannot be connected to"),
    ("127.0.0.1:4000", "0.0.0.0:4000", "8: site.blue: \"0.0.0.0:4000\" is no upstream address: 0.0.0.0 is only an address to listen on"),
    ("127.0.0.1:4000", "http://a:80", "8: site.blue: \"http://a:80\" is no upstream address: write 127.0.0.1:4000, [::1]:4000 or localhost:4000"),
    // an upstream address used twice: in both slots, in one slot, under another name
    ("127.0.0.1:4000", "127.0.0.1:4001", "9: site.green: 127.0.0.1:4001 is already an upstream of blue in line 8"),
    ("[\"127.0.0.1:4000\"]", "[\"a:1\", \"A:1\"]", "8: site.blue: A:1 is already an upstream of blue in line 8, as a:1"),
    ("127.0.0.1:4000", "localhost:4001", "9: site.green: 127.0.0.1:4001 is already an upstream of blue in line 8, as localhost:4001"),
    ("127.0.0.1:4000", "[::ffff:127.0.0.1]:4001", "9: site.green: 127.0.0.1:4001 is already an upstream of blue in line 8, as [::ffff:127.0.0.1]:4001"),
];

#[test]
fn each_fault_in_what_must_be_there_is_named() {
    for (from, to, expected) in FAULTS_OF_REPLACED {
        assert!(SMALLEST.contains(from), "{from}");
        let found = faults(&SMALLEST.replacen(from, to, 1));
        let expected: Vec<String> = expected.split('|').map(|f| format!("f.toml:{f}")).collect();
        assert_eq!(found, expected, "{from} -> {to}");
    }
}

#[test]
fn sites_share_neither_names_nor_upstreams() {
    let second = r#"[[site]]
host = "mana.so"
aliases = ["www.mana.so"]
certificate = "self-signed"
blue = ["127.0.0.1:4001"]
green = ["127.0.0.1:5001"]
[[site]]
host = "www.mana.so"
certificate = "self-signed"
blue = ["127.0.0.1:6000"]
green = ["127.0.0.1:6001"]
"#;
    assert_eq!(
        faults(&format!("{SMALLEST}{second}")),
        [
            "f.toml:11: site.host: mana.so is already a host in line 6",
            "f.toml:12: site.aliases: www.mana.so is already a host in line 17",
            "f.toml:14: site.blue: 127.0.0.1:4001 is already an upstream of green in line 9",
        ]
    );
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_file() {
    let text = r#"[server]
workers = 0
[listen]
http = ["nowhere", "127.0.0.1:80", "127.0.0.1:80"]
[timeout]
[[site]]
host = "mana.so"
aliases = ["mana.so"]
health = { path = "ping", interval = 1 }
blue = ["localhost"]
"#;
    let keys: Vec<(usize, String)> = Config::parse(text, "f.toml")
        .unwrap_err()
        .into_iter()
        .map(|fault| (fault.line, fault.key))
        .collect();
    let expected = [
        (2, "server.workers"),
        (4, "listen.http"),
        (4, "listen.http"),
        (5, "timeout"),
        (6, "site.certificate"),
        (6, "site.green"),
        (8, "site.aliases"),
        (9, "site.health.interval"),
        (9, "site.health.path"),
        (10, "site.blue"),
    ];
    assert_eq!(keys, expected.map(|(line, key)| (line, key.to_owned())));
}
