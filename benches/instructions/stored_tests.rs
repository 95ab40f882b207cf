//! What the guard of instructions per request lets pass.

use std::collections::BTreeMap;

use crate::stored::{Error, Figures, MACHINES_MAX, Machine, Stored, Verdict, judge, percent};

#[test]
fn more_than_three_per_cent_fails_and_less_is_to_be_stored() {
    for (stored, counted, verdict) in [
        (Some(100_000), 100_000, Verdict::Same),
        (Some(100_000), 103_000, Verdict::Same),
        (Some(100_000), 103_001, Verdict::Dearer),
        (Some(100_000), 97_000, Verdict::Same),
        (Some(100_000), 96_999, Verdict::Cheaper),
        (Some(0), 1, Verdict::Dearer),
        (None, 1, Verdict::New),
    ] {
        assert_eq!(judge(stored, counted), verdict, "{stored:?} {counted}");
    }
    assert_eq!(percent(400, 500), 25.0);
}

#[test]
fn figures_are_read_as_they_were_written() {
    let mut stored = Stored::default();
    stored.store(figures("one", "aes", 7)).unwrap();
    stored
        .store(figures("a \"quoted\" reason", "sse", 8))
        .unwrap();
    assert_eq!(Stored::parse(&stored.text()).unwrap(), stored);
    assert_eq!(Stored::parse("").unwrap(), Stored::default());
}

#[test]
fn new_figures_take_the_place_of_those_of_the_same_machine_only() {
    let mut stored = Stored::default();
    stored.store(figures("one", "aes", 7)).unwrap();
    stored.store(figures("two", "sse", 8)).unwrap();
    stored.store(figures("three", "aes", 9)).unwrap();
    let of = |cpu: &str| {
        stored
            .of(&machine(cpu))
            .map(|figures| figures.instructions["h1"])
    };
    assert_eq!((of("aes"), of("sse"), of("neon")), (Some(9), Some(8), None));
    assert_eq!(
        stored.of(&machine("aes")).map(|figures| &*figures.reason),
        Some("three")
    );
}

#[test]
fn an_unknown_machine_is_told_what_is_not_the_same() {
    let mut stored = Stored::default();
    let mut far = figures("far", "neon", 1);
    far.machine.rustc = "rustc 1.0.0".to_owned();
    stored.store(far).unwrap();
    stored.store(figures("near", "sse", 2)).unwrap();
    let here = machine("aes");
    let nearest = stored.nearest(&here).unwrap();
    assert_eq!(nearest.reason, "near");
    assert_eq!(
        here.differences(&nearest.machine),
        ["cpu: stored `sse`, here `aes`"]
    );
}

#[test]
fn nothing_is_stored_without_a_reason_or_beyond_the_limit() {
    let mut stored = Stored::default();
    assert!(matches!(
        stored.store(figures("  ", "aes", 7)),
        Err(Error::NoReason)
    ));
    for number in 0..MACHINES_MAX {
        stored
            .store(figures("room", &number.to_string(), 7))
            .unwrap();
    }
    assert!(matches!(
        stored.store(figures("no room", "aes", 7)),
        Err(Error::Full)
    ));
    stored.store(figures("the same machine", "0", 8)).unwrap();
}

#[test]
fn a_file_with_a_fault_is_not_taken_for_an_empty_one() {
    for text in [
        "machines = []",
        "machine = 1",
        "[[machine]]\nreason = \"r\"",
    ] {
        let outcome = Stored::parse(text);
        assert!(matches!(outcome, Err(Error::Unreadable(_))), "{text}");
    }
}

#[test]
fn the_file_that_is_shipped_can_be_read() {
    let text = include_str!("stored.toml");
    assert_eq!(Stored::parse(text).unwrap().text(), text);
}

fn figures(reason: &str, cpu: &str, instructions: u64) -> Figures {
    Figures {
        reason: reason.to_owned(),
        machine: machine(cpu),
        instructions: BTreeMap::from([("h1".to_owned(), instructions)]),
    }
}

fn machine(cpu: &str) -> Machine {
    Machine {
        cpu: cpu.to_owned(),
        valgrind: "valgrind-3.19.0".to_owned(),
        libc: "glibc 2.36".to_owned(),
        rustc: "rustc 1.95.0".to_owned(),
    }
}
