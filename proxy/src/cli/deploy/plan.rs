//! `deploy --dry-run` as text. Pure.

use mana_control::deploy::course::Planned;
use serde_json::json;

/// Each step on a line of its own, commands as one could type them.
pub(super) fn render(planned: &Planned, is_json: bool) -> String {
    if is_json {
        let steps: Vec<_> = planned
            .steps
            .iter()
            .map(|(step, text)| json!({"step": step.as_str(), "text": text}))
            .collect();
        return format!(
            "{}\n",
            json!({"ok": true, "found": planned.found, "steps": steps})
        );
    }
    let width = planned
        .steps
        .iter()
        .map(|(step, _)| step.as_str().len())
        .max()
        .unwrap_or(0);
    let lines = planned
        .steps
        .iter()
        .map(|(step, text)| format!("  {:<width$}  {text}\n", step.as_str()));
    format!(
        "{}\nNothing was changed. A deploy would:\n{}",
        planned.found,
        lines.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use mana_control::deploy::steps::Step;

    use super::*;

    #[test]
    fn a_plan_is_a_list_of_steps() {
        let planned = Planned {
            found: "blue is active (generation 7)".to_owned(),
            steps: vec![
                (Step::Pull, "docker pull app:41".to_owned()),
                (Step::Switch, "switch green".to_owned()),
            ],
        };
        let expected = "blue is active (generation 7)\nNothing was changed. A deploy would:\n  pull    docker pull app:41\n  switch  switch green\n";
        assert_eq!(render(&planned, false), expected);
        let read: serde_json::Value = serde_json::from_str(&render(&planned, true)).expect("json");
        assert_eq!(read["steps"][1]["step"], "switch");
    }
}
