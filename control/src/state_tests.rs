//! What the state file survives, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn sample() -> State {
    let site = SiteState {
        active: Slot::Green,
        previous: Some(Slot::Blue),
        generation: 7,
        maintenance: false,
        drained: vec![Slot::Blue],
    };
    State {
        generation: 9,
        sites: BTreeMap::from([("mana.so".parse().expect("host"), site)]),
    }
}

fn opened() -> (tempfile::TempDir, StateDir) {
    let temp = tempfile::tempdir().expect("dir");
    let dir = StateDir::open(&temp.path().join("state")).expect("open");
    (temp, dir)
}

fn refusal_of(content: &[u8]) -> String {
    let (_temp, dir) = opened();
    std::fs::write(dir.file(), content).expect("write");
    let error = dir.load().expect_err("refused").to_string();
    assert_eq!(
        std::fs::read(dir.file()).expect("read"),
        content,
        "the file is left as it was"
    );
    error
}

#[test]
fn what_was_stored_is_loaded_and_no_temp_file_is_left() {
    let (_temp, dir) = opened();
    assert_eq!(dir.load().expect("load"), None);
    dir.store(&sample()).expect("store");
    assert_eq!(dir.load().expect("load"), Some(sample()));
    let names: Vec<_> = std::fs::read_dir(dir.path())
        .expect("list")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let mode = std::fs::metadata(dir.file())
        .expect("metadata")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_damaged_file_is_refused_and_says_what_to_do() {
    let whole = sample().to_bytes();
    for content in [
        &b""[..],
        b"\0\0\0\0",
        b"[]",
        b"{}",
        b"{\"schema\":\"1\"}",
        &whole[..whole.len() / 2],
    ] {
        let error = refusal_of(content);
        assert!(error.contains("delete it to start"), "{error}");
    }
    assert!(refusal_of(&vec![b' '; STATE_BYTES_MAX as usize + 1]).contains("1 MiB"));
}

#[test]
fn a_file_that_says_what_cannot_be_is_refused() {
    let text = String::from_utf8(sample().to_bytes()).expect("text");
    assert!(refusal_of(text.replace(": 7", ": 10").as_bytes()).contains("has generation 10"));
    assert!(
        refusal_of(
            text.replace("\"active\": \"green\"", "\"active\": \"blue\"")
                .as_bytes()
        )
        .contains("drained")
    );
    assert!(refusal_of(text.replace("mana.so", "mana..so").as_bytes()).contains("host name"));
}

#[test]
fn a_newer_schema_is_refused_and_names_its_writer() {
    let error = refusal_of(br#"{"schema":2,"written_by":"mana-proxy 9.9.9","colours":[]}"#);
    assert!(
        error.contains("mana-proxy 9.9.9") && error.contains("schema 2"),
        "{error}"
    );
}

#[test]
fn an_unknown_field_of_the_same_schema_is_ignored() {
    let text = String::from_utf8(sample().to_bytes()).expect("text");
    let text = text.replace("\"schema\": 1", "\"schema\": 1, \"extra\": {\"a\": [1]}");
    assert_eq!(State::from_bytes(text.as_bytes()).ok(), Some(sample()));
}

#[test]
fn a_second_daemon_does_not_get_the_directory() {
    let (_temp, dir) = opened();
    assert!(matches!(
        StateDir::open(dir.path()),
        Err(StateError::Locked { .. })
    ));
    let path = dir.path().to_owned();
    drop(dir);
    assert!(StateDir::open(&path).is_ok());
}

#[test]
fn a_stranger_is_not_trusted() {
    assert!(is_trusted(1000, 1000));
    assert!(is_trusted(0, 1000));
    assert!(!is_trusted(1001, 1000));
    let (_temp, dir) = opened();
    dir.store(&sample()).expect("store");
    // Only root can give a file away; elsewhere the rule above is all that can be shown.
    if std::os::unix::fs::chown(dir.file(), Some(54_321), None).is_ok() {
        assert!(matches!(
            dir.load(),
            Err(StateError::WrongOwner { owner: 54_321, .. })
        ));
    }
}

#[test]
fn a_missing_directory_is_made_and_what_a_crash_left_in_it_is_removed() {
    let temp = tempfile::tempdir().expect("dir");
    let path = temp.path().join("a/b");
    drop(StateDir::open(&path).expect("made"));
    let mode = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    let half_written = path.join("state.json.tmp");
    std::fs::write(&half_written, "{").expect("write");
    drop(StateDir::open(&path).expect("opened"));
    assert!(!half_written.exists());
}

#[test]
fn a_directory_that_cannot_be_used_is_refused() {
    let temp = tempfile::tempdir().expect("dir");
    let file = temp.path().join("file");
    std::fs::write(&file, "").expect("write");
    assert!(matches!(
        StateDir::open(&file),
        Err(StateError::Directory { .. })
    ));
    let open = temp.path().join("open");
    std::fs::create_dir(&open).expect("dir");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("mode");
    assert!(matches!(
        StateDir::open(&open),
        Err(StateError::OpenToAll { .. })
    ));
}

#[test]
fn a_disk_that_takes_nothing_leaves_the_old_state() {
    let (_temp, dir) = opened();
    dir.store(&sample()).expect("store");
    // A directory in the place of the temp file stands for a disk that refuses the write, for root too.
    std::fs::create_dir(dir.path().join("state.json.tmp")).expect("dir");
    let newer = State {
        generation: 10,
        ..sample()
    };
    assert!(matches!(dir.store(&newer), Err(StateError::Store { .. })));
    assert_eq!(dir.load().expect("load"), Some(sample()));
}

#[test]
fn a_temp_file_of_a_crash_is_written_over() {
    let (_temp, dir) = opened();
    std::fs::write(dir.path().join("state.json.tmp"), vec![b'x'; 9000]).expect("write");
    dir.store(&sample()).expect("store");
    assert_eq!(dir.load().expect("load"), Some(sample()));
}

prop_compose! {
    fn any_site()(
        is_green: bool,
        has_previous: bool,
        generation in 0_u64..100,
        maintenance: bool,
        is_drained: bool,
    ) -> SiteState {
        let active = if is_green { Slot::Green } else { Slot::Blue };
        SiteState {
            active,
            previous: has_previous.then_some(active.other()),
            generation,
            maintenance,
            drained: if is_drained { vec![active.other()] } else { vec![] },
        }
    }
}

proptest! {
    #[test]
    fn a_state_comes_back_from_its_bytes(
        generation in 100_u64..,
        sites in proptest::collection::btree_map("[a-z]{1,8}\\.so", any_site(), 0..5),
    ) {
        let sites = sites.into_iter().map(|(name, site)| (name.parse().expect("host"), site)).collect();
        let state = State { generation, sites };
        prop_assert_eq!(State::from_bytes(&state.to_bytes()).ok(), Some(state));
    }

    #[test]
    fn a_truncated_state_is_never_read_as_another(cut in 0_usize..400) {
        let bytes = sample().to_bytes();
        let cut = cut.min(bytes.len());
        match State::from_bytes(&bytes[..cut]) {
            Ok(state) => prop_assert_eq!(state, sample()),
            Err(Unreadable::Damaged(_)) => {}
            Err(Unreadable::Newer { .. }) => prop_assert!(false, "no other schema"),
        }
    }

    #[test]
    fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        State::from_bytes(&bytes).ok();
    }

    #[test]
    fn a_flipped_byte_does_not_panic_the_reader(at in 0_usize..400, byte: u8) {
        let mut bytes = sample().to_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        State::from_bytes(&bytes).ok();
    }
}
