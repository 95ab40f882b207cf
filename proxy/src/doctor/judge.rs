//! From facts to findings. Pure.
//!
//! Owns the order of danger and the marks from which something is too little. What loses requests or serves the wrong
//! thing is red, what might is yellow. One file for each kind of fact below `judge/`.

mod certificates;
mod machine;
mod network;
mod services;
#[cfg(test)]
mod tests;

use super::facts::{ConfigFact, Facts};
use super::{Level, Report};
use crate::config::Config;

/// All findings, the worst first.
pub fn judge(facts: &Facts) -> Report {
    let mut report = Report::default();
    // Of two findings of one level the earlier stays the earlier, so that this is the order of danger.
    match &facts.config {
        ConfigFact::Good(config) => {
            report.green(facts.file.display().to_string(), "no faults");
            judge_by(config, facts, &mut report);
        }
        ConfigFact::Faulty(faults) => {
            for fault in faults {
                report.red(
                    facts.file.display().to_string(),
                    fault,
                    format!(
                        "sudoedit {}; a daemon that runs goes on with what it has, and would not start again",
                        facts.file.display()
                    ),
                );
            }
            unknown_config(&mut report);
        }
        ConfigFact::Unreadable(why) => {
            report.red(
                facts.file.display().to_string(),
                why,
                "name the file with --config, or use sudo",
            );
            unknown_config(&mut report);
        }
    }
    machine::clock(facts, &mut report);
    report.findings.sort_by_key(|finding| finding.level);
    report
}

fn judge_by(config: &Config, facts: &Facts, report: &mut Report) {
    certificates::certificates(facts, report);
    network::other_processes(config, facts, report);
    network::published_ports(config, facts, report);
    services::stop_timeout(config, facts, report);
    services::daemon(facts, report);
    machine::disks(facts, report);
    machine::permissions(facts, report);
    machine::file_limit(config, facts, report);
    network::challenges(facts, report);
    network::names(config, facts, report);
    network::other_published_ports(config, facts, report);
    services::others(config, facts, report);
    services::containers(config, facts, report);
    services::deploys(config, facts, report);
}

fn unknown_config(report: &mut Report) {
    report.gap(
        "ports, names, certificates, limits, disks",
        "they follow from the configuration; mend it first",
    );
}

/// What is shown of a level that has nothing to mend.
impl Level {
    /// `red`, `yellow`, `green`
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Red => "red",
            Level::Yellow => "yellow",
            Level::Green => "green",
        }
    }
}
