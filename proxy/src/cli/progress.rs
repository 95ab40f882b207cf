//! What is said on stderr while a change is made: one line for each event. Pure.

use serde_json::{Map, Value};

use super::render::{plain, text};

/// `draining blue: 3 in flight`. An event that this version does not know is shown with all that it carries.
pub(super) fn line(event: &Map<String, Value>) -> String {
    let slot = || {
        text(event, "slot")
            .map(|slot| format!(" {slot}"))
            .unwrap_or_default()
    };
    let number = |name| event.get(name).and_then(Value::as_u64);
    match text(event, "event").as_deref() {
        Some("gating") => match (number("passed"), number("of")) {
            (Some(passed), Some(of)) => format!("gating{}: {passed} of {of} probes passed", slot()),
            _ => format!("gating{}: probing its upstreams", slot()),
        },
        Some("persisting") => format!("storing the new state{}", slot()),
        Some("published") => match number("generation") {
            Some(generation) => format!("published generation {generation}"),
            None => "published".to_owned(),
        },
        Some("draining") => match (number("in_flight"), number("tunnels")) {
            (Some(left), Some(tunnels)) if tunnels > 0 => {
                format!(
                    "draining{}: {left} in flight, {tunnels} of them tunnels",
                    slot()
                )
            }
            (Some(left), _) => format!("draining{}: {left} in flight", slot()),
            (None, _) => format!("draining{}", slot()),
        },
        other => {
            let rest = event.iter().filter(|(name, _)| *name != "event");
            let rest: Vec<String> = rest
                .map(|(name, value)| format!("{name}={}", plain(value)))
                .collect();
            format!("{} {}", other.unwrap_or("event"), rest.join(" "))
                .trim_end()
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_event_is_one_line() {
        for (event, expected) in [
            (
                r#"{"event":"gating","slot":"green"}"#,
                "gating green: probing its upstreams",
            ),
            (
                r#"{"event":"gating","slot":"green","passed":1,"of":3}"#,
                "gating green: 1 of 3 probes passed",
            ),
            (r#"{"event":"persisting"}"#, "storing the new state"),
            (
                r#"{"event":"published","generation":7}"#,
                "published generation 7",
            ),
            (
                r#"{"event":"draining","slot":"blue","in_flight":3}"#,
                "draining blue: 3 in flight",
            ),
            (
                r#"{"event":"draining","slot":"blue","in_flight":3,"tunnels":2}"#,
                "draining blue: 3 in flight, 2 of them tunnels",
            ),
            (r#"{"event":"draining"}"#, "draining"),
            (r#"{"event":"later","a":1,"b":"x\ny"}"#, "later a=1 b=x\\ny"),
            (r#"{"event":"later"}"#, "later"),
            (r#"{"event":5}"#, "event"),
        ] {
            assert_eq!(line(&serde_json::from_str(event).unwrap()), expected);
        }
    }
}
