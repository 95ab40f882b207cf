//! What a request line may say, in both forms.

use proptest::prelude::*;

use super::*;

fn read(line: &str) -> Result<Request, WireError> {
    Request::parse(line.as_bytes())
}

#[test]
fn words_and_json_say_the_same() {
    let words = r#"switch green --site mana.so --note "text with spaces" --if-generation 4 --drain-timeout 30s --no-wait --force"#;
    let keys = "switch green site=mana.so note='text with spaces' if_generation=4 drain_timeout=30s no-wait force=true";
    let json = r#"{"verb":"switch","slot":"green","site":"mana.so","drain_timeout_ms":30000,"no_wait":true,"force":true,
        "if_generation":4,"note":"text with spaces"}"#;
    let expected = Request {
        verb: Verb::Switch(Slot::Green),
        site: Some("mana.so".parse().expect("host")),
        note: Some("text with spaces".to_owned()),
        options: Options {
            drain_timeout: Some(Duration::from_secs(30)),
            no_wait: true,
            force: true,
            if_generation: Some(4),
            ..Options::default()
        },
        binary: None,
        progress: false,
    };
    assert_eq!(read(words), Ok(expected.clone()));
    assert_eq!(read(json), Ok(expected.clone()));
    // `no-wait` without dashes is no option; with a value it is.
    assert!(read(keys).is_err());
    assert_eq!(read(&keys.replace("no-wait", "no-wait=true")), Ok(expected));
}

#[test]
fn every_verb_is_read_from_words() {
    for (line, verb) in [
        ("status\n", Verb::Status),
        ("probe blue", Verb::Probe(Slot::Blue)),
        ("reserve green", Verb::Reserve(Slot::Green)),
        ("switch green\r\n", Verb::Switch(Slot::Green)),
        ("  rollback ", Verb::Rollback),
        ("drain blue", Verb::Drain(Slot::Blue)),
        ("drain blue undo", Verb::Undrain(Slot::Blue)),
        ("maintenance on", Verb::Maintenance(true)),
        ("maintenance off", Verb::Maintenance(false)),
        ("pause", Verb::Pause),
        ("resume", Verb::Resume),
        ("reload", Verb::Reload),
        ("history", Verb::History { last: 20 }),
        ("history 5", Verb::History { last: 5 }),
        ("upgrade", Verb::Upgrade),
    ] {
        assert_eq!(read(line), Ok(Request::new(verb)), "{line:?}");
    }
}

#[test]
fn what_is_no_request_is_refused_in_words_that_help() {
    for (line, part) in [
        ("", "empty"),
        (" \t", "empty"),
        ("swich green", "no verb"),
        ("switch", "needs a slot"),
        ("maintenance", "on or off"),
        ("probe", "needs a slot"),
        ("note", "needs a text"),
        ("note one two", "twice"),
        ("status --force", "does not take force"),
        ("reload --site mana.so", "does not take site"),
        ("history 0", "1 to 1000"),
        ("certs", "list or renew"),
        ("certs import", "too many"),
        ("certs list --force", "does not take force"),
        ("certs renew --note why", "does not take note"),
        ("history 1001", "1 to 1000"),
        ("switch green --drain-timeout 25h", "24h"),
        ("switch green --site a..b", "host name"),
        ("{", "cannot be read"),
        ("{}", "verb"),
        (r#"{"verb":"switch","slot":"green","colour":1}"#, "colour"),
        (r#"{"verb":"status","verb":"reload"}"#, "duplicate"),
        (
            r#"{"verb":"pause","note":"a\u0007b"}"#,
            "control characters",
        ),
    ] {
        let error = read(line).expect_err(line).to_string();
        assert!(error.contains(part), "{line:?}: {error}");
    }
    assert_eq!(Request::parse(b"\xff\xfe"), Err(WireError::NotText));
}

#[test]
fn a_line_and_a_note_have_a_size() {
    let line = vec![b'a'; LINE_BYTES_MAX + 1];
    assert_eq!(Request::parse(&line), Err(WireError::TooLong));
    let longest = format!("pause note={}", "n".repeat(NOTE_BYTES_MAX));
    assert!(read(&longest).is_ok());
    assert!(read(&format!("{longest}n")).is_err());
}

fn any_slot() -> impl Strategy<Value = Slot> {
    prop_oneof![Just(Slot::Blue), Just(Slot::Green)]
}

fn any_verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        Just(Verb::Status),
        any_slot().prop_map(Verb::Probe),
        Just(Verb::Note),
        any_slot().prop_map(Verb::Reserve),
        any_slot().prop_map(Verb::Switch),
        Just(Verb::Rollback),
        any_slot().prop_map(Verb::Drain),
        any_slot().prop_map(Verb::Undrain),
        any::<bool>().prop_map(Verb::Maintenance),
        Just(Verb::Pause),
        Just(Verb::Resume),
        Just(Verb::Reload),
        Just(Verb::CertsList),
        Just(Verb::CertsRenew),
        Just(Verb::Upgrade),
        (1..=HISTORY_LAST_MAX).prop_map(|last| Verb::History { last }),
    ]
}

prop_compose! {
    fn any_request()(
        verb in any_verb(),
        site in proptest::option::of("[a-z][a-z0-9]{0,9}\\.so"),
        note in proptest::option::of("[^\\p{Cc}]{0,40}"),
        drain_timeout in proptest::option::of(0_u64..=86_400_000),
        no_wait: bool,
        force: bool,
        if_generation in proptest::option::of(any::<u64>()),
        binary in proptest::option::of("/[a-z/]{1,20}"),
        timeout in proptest::option::of(1_u64..=600_000),
        wait: bool,
        progress: bool,
    ) -> Request {
        Request {
            verb,
            site: site.filter(|_| verb.takes("site")).map(|site| site.parse().expect("host")),
            note: match verb {
                Verb::Note => Some(note.unwrap_or_default()),
                _ => note.filter(|_| verb.takes("note")),
            },
            options: Options {
                drain_timeout: drain_timeout.filter(|_| verb.takes("drain_timeout")).map(Duration::from_millis),
                no_wait: no_wait && verb.takes("no_wait"),
                force: force && verb.takes("force"),
                if_generation: if_generation.filter(|_| verb.takes("if_generation")),
                timeout: timeout.filter(|_| verb.takes("timeout")).map(Duration::from_millis),
                wait: wait && verb.takes("wait"),
            },
            binary: binary.filter(|_| verb.takes("binary")).map(PathBuf::from),
            progress,
        }
    }
}

proptest! {
    #[test]
    fn a_request_comes_back_from_its_line(request in any_request()) {
        let line = request.to_json_line();
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert_eq!(Request::parse(line.as_bytes()), Ok(request));
    }

    #[test]
    fn no_bytes_panic_the_reader(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        Request::parse(&line).ok();
    }

    #[test]
    fn no_words_panic_the_reader(
        line in "(switch|drain|history|maintenance|status)( (--)?(note|site|force|drain-timeout|undo|[a-z]{1,5})(=| )?['\"\\\\ 0-9a-z]{0,6}){0,4}",
    ) {
        Request::parse(line.as_bytes()).ok();
    }

    #[test]
    fn no_json_panics_the_reader(tail in "[\\[\\]{}:,\"a-z0-9.\\\\-]{0,60}") {
        Request::parse(format!("{{\"verb\":{tail}").as_bytes()).ok();
    }
}
