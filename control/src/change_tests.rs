//! What changes keep and what they replace.

use super::*;
use crate::testing::settings;

fn host() -> Host {
    "mana.so".parse().expect("host")
}

fn start() -> (State, Table) {
    let sites = [
        settings("mana.so", "127.0.0.1:4000", "127.0.0.1:4001"),
        settings("other.so", "127.0.0.1:5000", "127.0.0.1:5001"),
    ];
    let mut state = State {
        generation: 1,
        ..State::default()
    };
    add_new_sites(&mut state, &sites);
    let table = first_table(&state, &sites);
    (state, table)
}

fn made(change: &Change, state: &State, table: &Table) -> (State, Next) {
    let state = change.to_state(state);
    let next = change.to_table(table, &state);
    (state, next)
}

#[test]
fn a_cutover_brings_new_counters_to_its_site_and_leaves_the_others_alone() {
    let (state, table) = start();
    let (state, next) = made(
        &Change::Activate(host(), Slot::Green, Trust::Probed),
        &state,
        &table,
    );
    let (old, new) = (&table.sites()[0], &next.table.sites()[0]);
    assert_eq!(
        (new.active, new.generation, next.table.generation),
        (Slot::Green, 2, 2)
    );
    assert_eq!(state.sites[&host()].previous, Some(Slot::Blue));
    assert_eq!(next.retired.len(), 2);
    assert!(next.retired.iter().all(|retired| retired.is_to_be_closed));
    for slot in Slot::BOTH {
        assert!(!Arc::ptr_eq(
            &old.slot(slot).inflight,
            &new.slot(slot).inflight
        ));
        assert!(Arc::ptr_eq(
            &old.slot(slot).upstreams[0],
            &new.slot(slot).upstreams[0]
        ));
    }
    assert!(Arc::ptr_eq(&table.sites()[1], &next.table.sites()[1]));
}

#[test]
fn a_drained_slot_is_closed_alone_and_comes_back_by_a_cutover() {
    let (state, table) = start();
    let (state, next) = made(
        &Change::MarkDrained(host(), Slot::Green, true),
        &state,
        &table,
    );
    assert_eq!(state.sites[&host()].drained, [Slot::Green]);
    assert_eq!(
        next.retired
            .iter()
            .map(|retired| retired.slot)
            .collect::<Vec<_>>(),
        [Slot::Green]
    );
    assert!(next.table.sites()[0].slot(Slot::Green).is_drained);
    let (state, next) = made(
        &Change::Activate(host(), Slot::Green, Trust::Probed),
        &state,
        &next.table,
    );
    assert!(state.sites[&host()].drained.is_empty());
    assert!(!next.table.sites()[0].slot(Slot::Green).is_drained);
}

#[test]
fn maintenance_keeps_the_counters() {
    let (state, table) = start();
    let (state, next) = made(&Change::Maintenance(host(), true), &state, &table);
    assert!(state.sites[&host()].maintenance && next.retired.is_empty());
    assert!(matches!(next.table.sites()[0].mode, Mode::Maintenance));
    assert!(matches!(
        first_table(&state, &[settings("mana.so", "a:1", "a:2")]).sites()[0].mode,
        Mode::Maintenance
    ));
}

#[test]
fn a_reload_keeps_what_did_not_change() {
    let (state, table) = start();
    let mut changed = settings("mana.so", "127.0.0.1:4000", "127.0.0.1:4001");
    changed.upstreams[1].push("127.0.0.1:4002".to_owned());
    changed.initial = Slot::Green;
    let new = settings("new.so", "127.0.0.1:6000", "127.0.0.1:6001");
    let (state, next) = {
        let sites = [changed, new];
        let resolved = Arc::new(resolve(&sites));
        made(&Change::Sites(sites.into(), resolved), &state, &table)
    };
    let (old, site) = (&table.sites()[0], &next.table.sites()[0]);
    assert_eq!(site.active, Slot::Blue, "the state wins over `initial`");
    assert!(Arc::ptr_eq(
        &old.slot(Slot::Blue).inflight,
        &site.slot(Slot::Blue).inflight
    ));
    assert!(!Arc::ptr_eq(
        &old.slot(Slot::Green).inflight,
        &site.slot(Slot::Green).inflight
    ));
    assert!(Arc::ptr_eq(
        &old.slot(Slot::Green).upstreams[0],
        &site.slot(Slot::Green).upstreams[0]
    ));
    // The changed slot and both of the site that is gone; their requests end in their own time.
    assert_eq!(next.retired.len(), 3);
    assert!(next.retired.iter().all(|retired| !retired.is_to_be_closed));
    assert!(next.table.by_name("other.so").is_none());
    assert!(
        state.sites.contains_key("other.so"),
        "a site taken out by mistake comes back with its slot"
    );
}

#[test]
fn a_reload_takes_the_addresses_that_were_looked_up_beforehand() {
    let (state, table) = start();
    // No resolver knows these names, so that an address of them can only have come along.
    let sites = [settings("new.so", "blue.invalid:1", "green.invalid:1")];
    let address: SocketAddr = "192.0.2.7:1".parse().expect("address");
    let resolved = Resolved::from([("blue.invalid:1".to_owned(), vec![address])]);
    let change = Change::Sites(sites.into(), Arc::new(resolved));
    let (_, next) = made(&change, &state, &table);
    let addresses = |slot| {
        let view = next.table.sites()[0].slot(slot);
        view.upstreams[0].addresses.load().to_vec()
    };
    assert_eq!(addresses(Slot::Blue), [address]);
    assert!(addresses(Slot::Green).is_empty());
}

#[test]
fn every_address_of_every_site_is_looked_up() {
    let sites = [
        settings("mana.so", "127.0.0.1:4000", "no-such-name.invalid:1"),
        settings("other.so", "127.0.0.1:4000", "[::1]:5001"),
    ];
    let address = |text: &str| text.parse::<SocketAddr>().expect("address");
    let expected = Resolved::from([
        ("127.0.0.1:4000".to_owned(), vec![address("127.0.0.1:4000")]),
        ("[::1]:5001".to_owned(), vec![address("[::1]:5001")]),
        ("no-such-name.invalid:1".to_owned(), Vec::new()),
    ]);
    assert_eq!(resolve(&sites), expected);
}

#[test]
fn an_address_that_cannot_be_resolved_does_not_stop_the_start() {
    let sites = [settings("mana.so", "no-such-name.invalid:1", "127.0.0.1:2")];
    let mut state = State::default();
    add_new_sites(&mut state, &sites);
    let table = first_table(&state, &sites);
    assert!(
        table.sites()[0].slot(Slot::Blue).upstreams[0]
            .addresses
            .load()
            .is_empty()
    );
}
