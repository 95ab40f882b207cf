//! `mana-proxy status` as text: each site with its slots and their upstreams, in aligned columns. Pure.
//!
//! ```text
//! mana.so  active blue  generation 7  serving
//!   blue   active   healthy    3 in flight  1204 requests
//!     127.0.0.1:4000  up    3 in flight  1204 requests
//!   green  standby  unhealthy  0 in flight  0 requests
//!     127.0.0.1:4001  down  0 in flight  0 requests     connection refused
//! ```

use mana_control::Slot;
use serde_json::{Map, Value};

use super::render::{Cell, aligned, counted, number, plain, slot_color, slot_text, text};
use super::terminal::{Color, Paint};

type Fields = Map<String, Value>;

/// All sites of a status reply.
pub(super) fn render(fields: &Fields, paint: Paint) -> String {
    let sites = fields.get("sites").and_then(Value::as_array);
    let sites: Vec<String> = sites
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|site| render_site(site, paint))
        .collect();
    let sites = if sites.is_empty() {
        "no sites\n".to_owned()
    } else {
        sites.join("\n")
    };
    let about = about(fields);
    let lines: Vec<String> = about.into_iter().chain(predecessor(fields)).collect();
    match lines.is_empty() {
        false => format!("{}\n\n{sites}", lines.join("\n")),
        true => sites,
    }
}

/// `mana-proxy 0.1.0  pid 42  up 3h 5m  120 connections`
fn about(fields: &Fields) -> Option<String> {
    let mut parts = vec![format!("mana-proxy {}", text(fields, "version")?)];
    parts.extend(number(fields, "pid").map(|pid| format!("pid {pid}")));
    parts.extend(number(fields, "uptime_s").map(|seconds| format!("up {}", rough(seconds))));
    for (name, noun) in [("connections", "connection"), ("tunnels", "tunnel")] {
        parts.extend(number(fields, name).map(|count| counted(count, noun)));
    }
    Some(parts.join("  "))
}

/// `the process before it: version 0.1.0  pid 41  3 requests  1 tunnel  at most 55m 3s`
fn predecessor(fields: &Fields) -> Option<String> {
    let before = fields.get("predecessor")?.as_object()?;
    let mut parts = vec![format!(
        "the process before it: version {}",
        text(before, "version")?
    )];
    parts.extend(number(before, "pid").map(|pid| format!("pid {pid}")));
    for (name, noun) in [
        ("requests", "request"),
        ("tunnels", "tunnel"),
        ("connections", "connection"),
    ] {
        parts.extend(number(before, name).map(|count| counted(count, noun)));
    }
    let at_most = number(before, "at_most_s");
    parts.extend(at_most.map(|seconds| format!("at most {} more", rough(seconds))));
    Some(parts.join("  "))
}

/// A time in its two largest units: `3d 2h`, `5m 10s`.
fn rough(seconds: u64) -> String {
    match (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

fn render_site(site: &Fields, paint: Paint) -> String {
    let active: Option<Slot> = text(site, "active").and_then(|slot| slot.parse().ok());
    let mut lines = vec![headline(site, active, paint)];
    let slots: Vec<(Slot, &Fields)> = Slot::BOTH
        .into_iter()
        .filter_map(|slot| Some((slot, find_slot(site, slot)?)))
        .collect();
    let rows: Vec<Vec<Cell>> = slots
        .iter()
        .map(|(slot, view)| slot_row(*slot, active, view))
        .collect();
    let upstreams: Vec<Vec<Cell>> = slots
        .iter()
        .flat_map(|(_, view)| upstreams_of(view))
        .map(upstream_row)
        .collect();
    // All upstreams of a site are aligned with each other, and then put behind their slots.
    let mut upstreams = aligned(&upstreams, "    ", paint).into_iter();
    for ((_, view), line) in slots.iter().zip(aligned(&rows, "  ", paint)) {
        lines.push(line);
        lines.extend(upstreams.by_ref().take(upstreams_of(view).count()));
    }
    lines.join("\n") + "\n"
}

/// `mana.so  active blue  generation 7  serving`
fn headline(site: &Fields, active: Option<Slot>, paint: Paint) -> String {
    let mut parts = vec![
        text(site, "host")
            .or_else(|| text(site, "site"))
            .unwrap_or_default(),
    ];
    if let Some(slot) = active {
        parts.push(format!("active {}", slot_text(slot, paint)));
    }
    if let Some(generation) = number(site, "generation") {
        parts.push(format!("generation {generation}"));
    }
    match text(site, "mode") {
        Some(mode) if mode == "serving" => parts.push(mode),
        Some(mode) => parts.push(paint.color(Color::Yellow, &mode)),
        None => {}
    }
    if let Some(waiting) = number(site, "waiting").filter(|waiting| *waiting > 0) {
        parts.push(format!("{waiting} waiting"));
    }
    if let Some(stage) = text(site, "cutover").filter(|stage| stage != "steady") {
        parts.push(paint.color(Color::Yellow, &stage));
    }
    if let Some(holder) = site.get("holder").filter(|holder| !holder.is_null()) {
        parts.push(format!("held by {}", holder_text(holder)));
    }
    parts.join("  ")
}

/// `deploy.sh (uid 0, pid 42)`
fn holder_text(holder: &Value) -> String {
    let Some(fields) = holder.as_object() else {
        return plain(holder);
    };
    let command = text(fields, "command").unwrap_or_else(|| "an unknown process".to_owned());
    let ids = ["uid", "pid"]
        .iter()
        .filter_map(|id| Some(format!("{id} {}", number(fields, id)?)));
    let ids: Vec<String> = ids.collect();
    if ids.is_empty() {
        command
    } else {
        format!("{command} ({})", ids.join(", "))
    }
}

/// `slots` is an object by slot, or an array of objects that name theirs.
fn find_slot(site: &Fields, slot: Slot) -> Option<&Fields> {
    match site.get("slots")? {
        Value::Object(slots) => slots.get(slot.as_str())?.as_object(),
        Value::Array(slots) => slots
            .iter()
            .filter_map(Value::as_object)
            .find(|view| text(view, "slot").as_deref() == Some(slot.as_str())),
        _ => None,
    }
}

fn slot_row(slot: Slot, active: Option<Slot>, view: &Fields) -> Vec<Cell> {
    let is_drained = view.get("drained").and_then(Value::as_bool) == Some(true);
    let role = match active {
        Some(active) if active == slot => Cell::new("active"),
        _ if is_drained => Cell::in_color("drained", Color::Yellow),
        _ => Cell::new("standby"),
    };
    let mut row = vec![
        Cell::in_color(slot.as_str(), slot_color(slot)),
        role,
        health_of(view),
    ];
    let sum = |name| {
        upstreams_of(view)
            .filter_map(|upstream| number(upstream, name))
            .sum::<u64>()
    };
    for (name, unit) in COUNTS {
        row.push(Cell::new(format!(
            "{} {unit}",
            number(view, name).unwrap_or_else(|| sum(name))
        )));
    }
    if let Some(tunnels) = number(view, "tunnels").filter(|tunnels| *tunnels > 0) {
        row.push(Cell::new(counted(tunnels, "tunnel")));
    }
    row
}

fn upstream_row(upstream: &Fields) -> Vec<Cell> {
    let health = text(upstream, "health").unwrap_or_else(|| "unknown".to_owned());
    let color = match health.as_str() {
        "up" => Color::Green,
        "down" => Color::Red,
        _ => Color::Yellow,
    };
    let mut row = vec![
        Cell::new(text(upstream, "address").unwrap_or_default()),
        Cell::in_color(health, color),
    ];
    for (name, unit) in COUNTS {
        row.push(Cell::new(format!(
            "{} {unit}",
            number(upstream, name).unwrap_or(0)
        )));
    }
    // Traffic passes a marked upstream over for a while, whatever the probes say.
    let is_marked = upstream.get("marked") == Some(&Value::Bool(true));
    let notes = is_marked.then(|| "passed over".to_owned()).into_iter();
    let notes: Vec<String> = notes.chain(text(upstream, "last_failure")).collect();
    row.push(Cell::new(notes.join(", ")));
    row
}

/// Fields that are counted, and what they count.
const COUNTS: [(&str, &str); 2] = [("in_flight", "in flight"), ("requests", "requests")];

/// A slot is as healthy as its worst upstream.
fn health_of(view: &Fields) -> Cell {
    let healths: Vec<String> = upstreams_of(view)
        .map(|upstream| text(upstream, "health").unwrap_or_default())
        .collect();
    if healths.iter().any(|health| health == "down") {
        Cell::in_color("unhealthy", Color::Red)
    } else if !healths.is_empty() && healths.iter().all(|health| health == "up") {
        Cell::in_color("healthy", Color::Green)
    } else {
        Cell::in_color("unknown", Color::Yellow)
    }
}

fn upstreams_of(view: &Fields) -> impl Iterator<Item = &Fields> {
    let upstreams = view.get("upstreams").and_then(Value::as_array);
    upstreams.into_iter().flatten().filter_map(Value::as_object)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const STATUS: &str = r#"{"ok":true,"generation":7,"sites":[{
        "host":"mana.so","active":"blue","generation":7,"mode":"serving","cutover":"steady","holder":null,
        "slots":{
          "blue":{"in_flight":3,"upstreams":[
            {"address":"127.0.0.1:4000","health":"up","in_flight":3,"requests":1204}]},
          "green":{"upstreams":[
            {"address":"127.0.0.1:4001","health":"down","in_flight":0,"requests":0,"last_failure":"connection refused\n"},
            {"address":"[::1]:4001","health":"unknown","in_flight":0,"requests":12}]}}}]}"#;

    fn rendered(status: &str, paint: Paint) -> String {
        render(
            serde_json::from_str::<Value>(status)
                .unwrap()
                .as_object()
                .unwrap(),
            paint,
        )
    }

    #[test]
    fn a_site_is_shown_with_its_slots_in_columns() {
        let expected = "\
mana.so  active blue  generation 7  serving
  blue   active   healthy    3 in flight  1204 requests
    127.0.0.1:4000  up       3 in flight  1204 requests
  green  standby  unhealthy  0 in flight  12 requests
    127.0.0.1:4001  down     0 in flight  0 requests     connection refused\\n
    [::1]:4001      unknown  0 in flight  12 requests
";
        assert_eq!(rendered(STATUS, Paint::Plain), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let coloured = rendered(STATUS, Paint::Coloured);
        assert!(coloured.contains("active \x1b[34mblue\x1b[0m"));
        assert!(coloured.contains("\x1b[31munhealthy\x1b[0m"));
        let mut plain = coloured;
        for code in ["\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[34m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, rendered(STATUS, Paint::Plain));
    }

    #[test]
    fn what_is_unusual_is_shown_in_the_first_line() {
        let status = r#"{"sites":[
            {"host":"a.so","active":"green","generation":2,"mode":"paused","waiting":4,"cutover":"gating",
             "holder":{"command":"deploy.sh","uid":0,"pid":42},
             "slots":[{"slot":"blue","drained":true,"upstreams":[]}]},
            {"host":"b.so","mode":"maintenance","holder":"root"}]}"#;
        let expected = "\
a.so  active green  generation 2  paused  4 waiting  gating  held by deploy.sh (uid 0, pid 42)
  blue  drained  unknown  0 in flight  0 requests

b.so  maintenance  held by root
";
        assert_eq!(rendered(status, Paint::Plain), expected);
    }

    #[test]
    fn the_daemon_and_what_traffic_found_are_shown() {
        let status = r#"{"version":"0.1.0","pid":42,"uptime_s":11100,"connections":120,"tunnels":1,"sites":[
            {"host":"a.so","slots":{"blue":{"tunnels":2,"upstreams":[
              {"address":"[::1]:1","health":"up","marked":true,"last_failure":"reset"}]}}}]}"#;
        let expected = "\
mana-proxy 0.1.0  pid 42  up 3h 5m  120 connections  1 tunnel

a.so
  blue  standby  healthy  0 in flight  0 requests  2 tunnels
    [::1]:1  up  0 in flight  0 requests  passed over, reset
";
        assert_eq!(rendered(status, Paint::Plain), expected);
        let times = [(5, "5s"), (310, "5m 10s"), (86_400, "1d 0h")];
        for (seconds, expected) in times {
            assert_eq!(rough(seconds), expected);
        }
    }

    #[test]
    fn any_object_is_rendered_without_panic() {
        for status in [
            "{}",
            r#"{"sites":5}"#,
            r#"{"sites":[1,{}]}"#,
            r#"{"sites":[{"slots":[1,{"slot":2}]}]}"#,
        ] {
            assert!(rendered(status, Paint::Plain).ends_with('\n'));
        }
        assert_eq!(rendered("{}", Paint::Plain), "no sites\n");
    }
}
