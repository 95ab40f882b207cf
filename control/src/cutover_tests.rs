//! The cutover step by step.

use super::*;

const TICKET: Ticket = Ticket(1);
const SECOND: Ticket = Ticket(2);

fn order(ticket: Ticket, intent: Intent) -> Order {
    Order {
        ticket,
        holder: Arc::new(Holder {
            command: format!("caller {}", ticket.0),
            ..Holder::default()
        }),
        intent,
        force: false,
        no_wait: false,
        if_generation: None,
        limits: DrainLimits {
            requests: Duration::from_secs(30),
            tunnels: Duration::from_secs(10),
        },
    }
}

fn blue_at_one() -> Cutover {
    Cutover::new(Slot::Blue, None, 1)
}

/// Carries an order through to its drain.
fn published(cutover: &mut Cutover, order: Order, generation: u64, now: Instant) -> Vec<Effect> {
    let ticket = order.ticket;
    cutover.handle(Event::Ordered(order), now);
    cutover.handle(Event::GatePassed(ticket), now);
    cutover.handle(Event::Persisted(ticket), now);
    cutover.handle(Event::Published(ticket, generation), now)
}

#[test]
fn a_cutover_goes_through_its_steps_in_order() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let activate = Step::Activate(Slot::Green);
    let effects = cutover.handle(
        Event::Ordered(order(TICKET, Intent::Switch(Slot::Green))),
        now,
    );
    assert_eq!(effects, [Effect::Gate(TICKET, Slot::Green)]);
    assert_eq!(
        cutover.handle(Event::GatePassed(TICKET), now),
        [Effect::Persist(TICKET, activate)]
    );
    assert_eq!(
        cutover.handle(Event::Persisted(TICKET), now),
        [Effect::Publish(TICKET, activate)]
    );
    assert_eq!(
        (cutover.active(), cutover.stage_name()),
        (Slot::Blue, "publishing")
    );
    let effects = cutover.handle(Event::Published(TICKET, 2), now);
    let wake = Effect::WakeAt(now + Duration::from_secs(10));
    assert_eq!(effects, [Effect::AwaitDrained(TICKET, Slot::Blue), wake]);
    assert_eq!(
        (cutover.active(), cutover.generation(), cutover.stage_name()),
        (Slot::Green, 2, "draining")
    );
    let effects = cutover.handle(Event::Drained(TICKET), now);
    assert_eq!(effects, [Effect::Reply(TICKET, Outcome::Drained)]);
    assert_eq!(cutover.stage_name(), "steady");
}

#[test]
fn a_gate_that_fails_changes_nothing() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    cutover.handle(
        Event::Ordered(order(TICKET, Intent::Switch(Slot::Green))),
        now,
    );
    let effects = cutover.handle(Event::GateFailed(TICKET, "500".to_owned()), now);
    assert_eq!(
        effects,
        [Effect::Reply(TICKET, Outcome::GateFailed("500".to_owned()))]
    );
    assert_eq!(
        (cutover.active(), cutover.generation(), cutover.stage_name()),
        (Slot::Blue, 1, "steady")
    );
}

#[test]
fn a_caller_who_goes_away_ends_the_gate_but_not_what_follows() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    cutover.handle(
        Event::Ordered(order(TICKET, Intent::Switch(Slot::Green))),
        now,
    );
    let effects = cutover.handle(Event::CallerGone(TICKET), now);
    assert_eq!(
        effects,
        [
            Effect::StopGate(TICKET),
            Effect::Reply(TICKET, Outcome::Abandoned)
        ]
    );
    assert!(cutover.handle(Event::GatePassed(TICKET), now).is_empty());
    cutover.handle(
        Event::Ordered(order(SECOND, Intent::Switch(Slot::Green))),
        now,
    );
    cutover.handle(Event::GatePassed(SECOND), now);
    assert!(cutover.handle(Event::CallerGone(SECOND), now).is_empty());
    assert_eq!(cutover.stage_name(), "persisting");
}

#[test]
fn a_second_caller_is_told_who_holds_the_site() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let first = order(TICKET, Intent::Switch(Slot::Green));
    let busy = [Effect::Reply(
        SECOND,
        Outcome::Busy(Arc::clone(&first.holder)),
    )];
    cutover.handle(Event::Ordered(first), now);
    for (event, stage) in [
        (Event::Tick, "gating"),
        (Event::GatePassed(TICKET), "persisting"),
        (Event::Persisted(TICKET), "publishing"),
    ] {
        cutover.handle(event, now);
        assert_eq!(cutover.stage_name(), stage);
        for intent in [
            Intent::Switch(Slot::Blue),
            Intent::Rollback,
            Intent::Drain(Slot::Green),
        ] {
            assert_eq!(
                cutover.handle(Event::Ordered(order(SECOND, intent)), now),
                busy
            );
        }
    }
}

#[test]
fn what_cannot_be_stored_is_not_published() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let forced = Order {
        force: true,
        ..order(TICKET, Intent::Switch(Slot::Green))
    };
    let effects = cutover.handle(Event::Ordered(forced), now);
    assert_eq!(
        effects,
        [Effect::Persist(TICKET, Step::Activate(Slot::Green))]
    );
    let effects = cutover.handle(Event::PersistFailed(TICKET, "full".to_owned()), now);
    assert_eq!(
        effects,
        [Effect::Reply(
            TICKET,
            Outcome::PersistFailed("full".to_owned())
        )]
    );
    assert_eq!(
        (cutover.active(), cutover.stage_name()),
        (Slot::Blue, "steady")
    );
}

#[test]
fn the_active_slot_is_no_cutover_also_while_the_other_drains() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let already = |ticket| [Effect::Reply(ticket, Outcome::AlreadyActive)];
    let effects = cutover.handle(
        Event::Ordered(order(TICKET, Intent::Switch(Slot::Blue))),
        now,
    );
    assert_eq!(effects, already(TICKET));
    published(
        &mut cutover,
        order(TICKET, Intent::Switch(Slot::Green)),
        2,
        now,
    );
    let effects = cutover.handle(
        Event::Ordered(order(SECOND, Intent::Switch(Slot::Green))),
        now,
    );
    assert_eq!(effects, already(SECOND));
    assert_eq!(cutover.stage_name(), "draining");
}

#[test]
fn a_generation_that_has_moved_on_is_a_conflict() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let stale = Order {
        if_generation: Some(4),
        ..order(TICKET, Intent::Switch(Slot::Green))
    };
    assert_eq!(
        cutover.handle(Event::Ordered(stale), now),
        [Effect::Reply(TICKET, Outcome::Conflict(1))]
    );
}

#[test]
fn a_rollback_needs_a_cutover_before_it() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let effects = cutover.handle(Event::Ordered(order(TICKET, Intent::Rollback)), now);
    assert_eq!(effects, [Effect::Reply(TICKET, Outcome::NoPrevious)]);
    published(
        &mut cutover,
        order(TICKET, Intent::Switch(Slot::Green)),
        2,
        now,
    );
    let effects = cutover.handle(Event::Ordered(order(SECOND, Intent::Rollback)), now);
    assert_eq!(effects, [Effect::Gate(SECOND, Slot::Blue)]);
}

#[test]
fn a_stuck_drain_does_not_hold_up_the_way_back() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    published(
        &mut cutover,
        order(TICKET, Intent::Switch(Slot::Green)),
        2,
        now,
    );
    let effects = published(&mut cutover, order(SECOND, Intent::Rollback), 3, now);
    assert_eq!(
        effects[..2],
        [
            Effect::StopWaiting(TICKET),
            Effect::Reply(TICKET, Outcome::Superseded(3))
        ]
    );
    assert_eq!(effects[2], Effect::AwaitDrained(SECOND, Slot::Green));
    assert_eq!(
        (cutover.active(), cutover.previous()),
        (Slot::Blue, Some(Slot::Green))
    );
}

#[test]
fn a_drain_goes_on_behind_a_gate_that_fails() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    published(
        &mut cutover,
        order(TICKET, Intent::Switch(Slot::Green)),
        2,
        now,
    );
    cutover.handle(Event::Ordered(order(SECOND, Intent::Rollback)), now);
    cutover.handle(Event::GateFailed(SECOND, "down".to_owned()), now);
    assert_eq!(cutover.stage_name(), "draining");
    let effects = cutover.handle(Event::Drained(TICKET), now);
    assert_eq!(effects, [Effect::Reply(TICKET, Outcome::Drained)]);
}

#[test]
fn tunnels_are_cut_at_their_deadline_and_the_reply_comes_at_that_of_the_requests() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let at = |seconds| now + Duration::from_secs(seconds);
    published(
        &mut cutover,
        order(TICKET, Intent::Switch(Slot::Green)),
        2,
        now,
    );
    assert_eq!(cutover.handle(Event::Tick, at(9)), [Effect::WakeAt(at(10))]);
    let effects = cutover.handle(Event::Tick, at(10));
    assert_eq!(
        effects,
        [Effect::CutTunnels(Slot::Blue), Effect::WakeAt(at(30))]
    );
    let effects = cutover.handle(Event::Tick, at(30));
    assert_eq!(
        effects,
        [
            Effect::Reply(TICKET, Outcome::DeadlinePassed),
            Effect::StopWaiting(TICKET)
        ]
    );
    assert_eq!(cutover.stage_name(), "steady");
}

#[test]
fn tunnels_may_outlive_the_reply() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let at = |seconds| now + Duration::from_secs(seconds);
    let limits = DrainLimits {
        requests: Duration::from_secs(5),
        tunnels: Duration::from_secs(60),
    };
    let patient = Order {
        limits,
        ..order(TICKET, Intent::Switch(Slot::Green))
    };
    published(&mut cutover, patient, 2, now);
    let effects = cutover.handle(Event::Tick, at(5));
    assert_eq!(
        effects,
        [
            Effect::Reply(TICKET, Outcome::DeadlinePassed),
            Effect::WakeAt(at(60))
        ]
    );
    let effects = cutover.handle(Event::Tick, at(60));
    assert_eq!(
        effects,
        [Effect::CutTunnels(Slot::Blue), Effect::StopWaiting(TICKET)]
    );
}

#[test]
fn who_does_not_wait_is_told_at_once_and_the_drain_goes_on() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let hasty = Order {
        no_wait: true,
        ..order(TICKET, Intent::Switch(Slot::Green))
    };
    let effects = published(&mut cutover, hasty, 2, now);
    assert_eq!(effects[0], Effect::Reply(TICKET, Outcome::Published));
    assert_eq!(effects[1], Effect::AwaitDrained(TICKET, Slot::Blue));
    assert!(cutover.handle(Event::Drained(TICKET), now).is_empty());
    assert_eq!(cutover.stage_name(), "steady");
}

#[test]
fn only_a_standby_is_drained_and_the_mark_can_be_taken_back() {
    let (now, mut cutover) = (Instant::now(), blue_at_one());
    let effects = cutover.handle(
        Event::Ordered(order(TICKET, Intent::Drain(Slot::Blue))),
        now,
    );
    assert_eq!(effects, [Effect::Reply(TICKET, Outcome::DrainOfActive)]);
    let effects = cutover.handle(
        Event::Ordered(order(TICKET, Intent::Drain(Slot::Green))),
        now,
    );
    assert_eq!(
        effects,
        [Effect::Persist(
            TICKET,
            Step::MarkDrained(Slot::Green, true)
        )]
    );
    cutover.handle(Event::Persisted(TICKET), now);
    cutover.handle(Event::Published(TICKET, 2), now);
    assert_eq!(
        (cutover.stage_name(), cutover.generation()),
        ("draining", 1)
    );
    cutover.handle(
        Event::Ordered(order(SECOND, Intent::Undrain(Slot::Green))),
        now,
    );
    cutover.handle(Event::Persisted(SECOND), now);
    let effects = cutover.handle(Event::Published(SECOND, 3), now);
    assert_eq!(effects[1], Effect::Reply(TICKET, Outcome::Superseded(3)));
    assert_eq!(effects[2], Effect::Reply(SECOND, Outcome::Published));
}

#[test]
fn a_caller_may_bound_the_drain() {
    let seconds = Duration::from_secs;
    let site = DrainLimits {
        requests: seconds(30),
        tunnels: seconds(10),
    };
    assert_eq!(drain_limits(site, None), site);
    let short = drain_limits(site, Some(seconds(5)));
    assert_eq!(
        (short.requests, short.tunnels),
        (seconds(5), Duration::from_millis(4500))
    );
    let long = drain_limits(site, Some(seconds(60)));
    assert_eq!((long.requests, long.tunnels), (seconds(60), seconds(10)));
    let none = drain_limits(site, Some(Duration::ZERO));
    assert_eq!(
        (none.requests, none.tunnels),
        (Duration::ZERO, Duration::ZERO)
    );
}
