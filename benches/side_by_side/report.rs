//! All samples of a run: medians, ratios, raw figures, and the files of a run.
//!
//! What they look like is a matter of `table` and `chart`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::contender::Contender;
use crate::machine;
use crate::sample::{Row, Sample, Seen, microseconds};
use crate::scenario::Scenario;

/// All measurements of a run, with the round that each belongs to.
#[derive(Default)]
pub struct Report {
    samples: Vec<(u32, Sample)>,
}

/// A ratio of two contenders: the median over the rounds, with the lowest and the highest round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    pub lowest: f64,
    pub median: f64,
    pub highest: f64,
}

// === impl Report ===

impl Report {
    /// Keeps a measurement.
    pub fn add(&mut self, round: u32, sample: Sample) {
        self.samples.push((round, sample));
    }

    /// Who was measured on anything, in the usual order.
    pub fn contenders(&self) -> Vec<Contender> {
        let all = Contender::ALL.into_iter();
        all.filter(|one| self.samples.iter().any(|(_, s)| s.contender == *one))
            .collect()
    }

    /// What was measured of anybody, in the usual order.
    pub fn rows(&self) -> Vec<Row> {
        let all = Scenario::ALL.into_iter();
        all.filter(|one| self.samples.iter().any(|(_, s)| s.scenario == *one))
            .flat_map(Row::of)
            .collect()
    }

    /// The median over the rounds; none if there is no figure of that contender.
    pub fn median(&self, row: Row, contender: Contender) -> Option<f64> {
        quantile(&self.figures(row, contender), 0.5)
    }

    /// The median of something else than a figure of the table.
    pub fn median_of(
        &self,
        scenario: Scenario,
        contender: Contender,
        figure: impl Fn(&Sample) -> Option<f64>,
    ) -> Option<f64> {
        let of = |(_, s): &(u32, Sample)| {
            let is_it = s.scenario == scenario && s.contender == contender;
            is_it.then(|| figure(s)).flatten()
        };
        quantile(&self.samples.iter().filter_map(of).collect::<Vec<_>>(), 0.5)
    }

    /// One over another, round by round: what slowed both down in a round falls out.
    ///
    /// None if there is no round with both. A round in which the other has nothing, or less, to compare with does not
    /// count.
    pub fn ratio(&self, row: Row, one: Contender, other: Contender) -> Option<Ratio> {
        let rounds = self.samples.iter().map(|(round, _)| *round).max()?;
        let of = |round| {
            let other = self
                .figure(round, row, other)
                .filter(|other| *other > 0.0)?;
            Some(self.figure(round, row, one)? / other)
        };
        let ratios: Vec<f64> = (1..=rounds).filter_map(of).collect();
        Some(Ratio {
            lowest: quantile(&ratios, 0.0)?,
            median: quantile(&ratios, 0.5)?,
            highest: quantile(&ratios, 1.0)?,
        })
    }

    /// Whether the rate was too much for it in any round.
    pub fn was_too_much(&self, scenario: Scenario, contender: Contender) -> bool {
        self.samples.iter().any(|(_, sample)| {
            sample.scenario == scenario
                && sample.contender == contender
                && matches!(sample.seen, Seen::TooMuch)
        })
    }

    /// Writes `samples.csv`, `table.md`, `chart.svg` and `machine.txt` to a new directory under `runs`, and returns its
    /// name.
    pub fn write(&self, runs: &Path, table: &str, machine: &str) -> Outcome<String> {
        let name = machine::date()?;
        let directory = runs.join(&name);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("samples.csv"), self.csv()?)?;
        fs::write(directory.join("table.md"), table)?;
        fs::write(directory.join("machine.txt"), machine)?;
        Ok(name)
    }

    /// A line for each sample; what a scenario does not measure is empty.
    pub fn csv(&self) -> Outcome<String> {
        let mut text = String::from(
            "round,scenario,contender,requests,took_s,cpu_us,cpu_us_per_request,p50_us,p99_us,\
             memory_before_bytes,memory_open_bytes,connections\n",
        );
        for (round, sample) in &self.samples {
            let (scenario, contender) = (sample.scenario.name(), sample.contender.name());
            write!(text, "{round},{scenario},{contender},")?;
            let cpu = sample.cpu.map(|cpu| format!("{:.0}", microseconds(cpu)));
            let cpu = cpu.unwrap_or_default();
            match &sample.seen {
                Seen::Answers(load) => writeln!(
                    text,
                    "{},{:.3},{cpu},{},{:.0},{:.0},,,",
                    load.requests,
                    load.took.as_secs_f64(),
                    sample
                        .cpu_us_per_request()
                        .map_or_else(String::new, |us| format!("{us:.2}")),
                    microseconds(load.p50),
                    microseconds(load.p99),
                )?,
                Seen::TooMuch => writeln!(text, ",,{cpu},,,,,,")?,
                Seen::Rest(memory) => writeln!(
                    text,
                    ",,,,,,{},{},{}",
                    memory.before_bytes, memory.open_bytes, memory.connections
                )?,
            }
        }
        Ok(text)
    }

    /// In the order of the rounds.
    fn figures(&self, row: Row, contender: Contender) -> Vec<f64> {
        let rounds = self.samples.iter().map(|(round, _)| *round).max();
        (1..=rounds.unwrap_or(0))
            .filter_map(|round| self.figure(round, row, contender))
            .collect()
    }

    fn figure(&self, round: u32, row: Row, contender: Contender) -> Option<f64> {
        let sample = |contender| {
            let mut samples = self.samples.iter();
            let found = samples.find(|(of, sample)| {
                *of == round && sample.scenario == row.scenario && sample.contender == contender
            });
            found.map(|(_, sample)| sample)
        };
        row.figure(sample(contender)?, sample(Contender::Direct))
    }
}

/// `share` from 0 to 1: the lowest, the median at 0.5, the highest. None of nothing.
fn quantile(figures: &[f64], share: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).copied()
}
