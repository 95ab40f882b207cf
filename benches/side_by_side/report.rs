//! From samples to a table of medians, and to the files of a run.

use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::contender::Contender;
use crate::load::Load;
use crate::machine;
use crate::scenario::Scenario;

/// One measurement.
#[derive(Debug)]
pub struct Sample {
    pub scenario: Scenario,
    pub contender: Contender,
    /// What all threads of the contender used meanwhile.
    pub cpu: Duration,
    pub load: Load,
}

/// All measurements of a run, with the round that each belongs to.
#[derive(Default)]
pub struct Report {
    samples: Vec<(u32, Sample)>,
}

// === impl Sample ===

impl Sample {
    fn cpu_us_per_request(&self) -> f64 {
        microseconds(self.cpu) / self.load.requests.max(1) as f64
    }

    fn requests_per_second(&self) -> f64 {
        self.load.requests as f64 / self.load.took.as_secs_f64()
    }
}

impl Display for Sample {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<17} {:<12} {:>7.1} us CPU/request {:>7.0} requests/s",
            self.scenario.name(),
            self.contender.name(),
            self.cpu_us_per_request(),
            self.requests_per_second()
        )
    }
}

// === impl Report ===

impl Report {
    /// Keeps a measurement.
    pub fn add(&mut self, round: u32, sample: Sample) {
        self.samples.push((round, sample));
    }

    /// Markdown: medians of CPU time per request with the ratios that matter, then what the clients saw.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "CPU microseconds per request, medians; ratios are medians of the ratios within a round, lowest to highest in brackets.\n\n\
             | scenario | nginx-legacy | nginx-tuned | mana-proxy | ours / tuned | ours / legacy |\n|---|---|---|---|---|---|\n",
        );
        for scenario in Scenario::ALL {
            text.push_str(&format!("| {} ", scenario.name()));
            for contender in Contender::ALL {
                text.push_str(&format!(
                    "| {:.1} ",
                    self.median_of(scenario, contender, Sample::cpu_us_per_request)
                ));
            }
            for other in [Contender::NginxTuned, Contender::NginxLegacy] {
                let ratios = self.ratios(scenario, other);
                let (lowest, highest) = (quantile(&ratios, 0.0), quantile(&ratios, 1.0));
                text.push_str(&format!(
                    "| {:.2} ({lowest:.2}-{highest:.2}) ",
                    quantile(&ratios, 0.5)
                ));
            }
            text.push_str("|\n");
        }
        text.push_str(
            "\nRequests per second and latency in milliseconds as the clients saw them, medians. The load is as much as the \
             contender can take, so latency is mostly waiting.\n\n\
             | scenario | contender | requests/s | p50 | p99 |\n|---|---|---|---|---|\n",
        );
        for scenario in Scenario::ALL {
            for contender in Contender::ALL {
                text.push_str(&format!(
                    "| {} | {} | {:.0} | {:.2} | {:.2} |\n",
                    scenario.name(),
                    contender.name(),
                    self.median_of(scenario, contender, Sample::requests_per_second),
                    self.median_of(scenario, contender, |sample| sample.load.p50.as_secs_f64()
                        * 1e3),
                    self.median_of(scenario, contender, |sample| sample.load.p99.as_secs_f64()
                        * 1e3),
                ));
            }
        }
        text
    }

    /// Writes `samples.csv`, `table.md` and `machine.txt` to a new directory under `runs`, and returns its name.
    pub fn write(&self, runs: &Path, table: &str, machine: &str) -> Outcome<String> {
        let name = machine::date()?;
        let directory = runs.join(&name);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("samples.csv"), self.csv()?)?;
        fs::write(directory.join("table.md"), table)?;
        fs::write(directory.join("machine.txt"), machine)?;
        Ok(name)
    }

    fn csv(&self) -> Outcome<String> {
        let mut text = String::from(
            "round,scenario,contender,requests,took_s,cpu_us,cpu_us_per_request,p50_us,p99_us\n",
        );
        for (round, sample) in &self.samples {
            writeln!(
                text,
                "{round},{},{},{},{:.3},{:.0},{:.2},{:.0},{:.0}",
                sample.scenario.name(),
                sample.contender.name(),
                sample.load.requests,
                sample.load.took.as_secs_f64(),
                microseconds(sample.cpu),
                sample.cpu_us_per_request(),
                microseconds(sample.load.p50),
                microseconds(sample.load.p99),
            )?;
        }
        Ok(text)
    }

    fn median_of(
        &self,
        scenario: Scenario,
        contender: Contender,
        figure: impl Fn(&Sample) -> f64,
    ) -> f64 {
        let figures: Vec<f64> = self.of(scenario, contender).map(figure).collect();
        quantile(&figures, 0.5)
    }

    /// Ours over theirs, round by round: what slowed both down in a round falls out.
    fn ratios(&self, scenario: Scenario, other: Contender) -> Vec<f64> {
        let ours = self
            .of(scenario, Contender::ManaProxy)
            .map(Sample::cpu_us_per_request);
        let theirs = self.of(scenario, other).map(Sample::cpu_us_per_request);
        ours.zip(theirs)
            .map(|(ours, theirs)| ours / theirs)
            .collect()
    }

    /// In the order of the rounds.
    fn of(&self, scenario: Scenario, contender: Contender) -> impl Iterator<Item = &Sample> {
        self.samples
            .iter()
            .map(|(_, sample)| sample)
            .filter(move |sample| sample.scenario == scenario && sample.contender == contender)
    }
}

/// `share` from 0 to 1: the lowest, the median at 0.5, the highest. NaN of nothing.
fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
