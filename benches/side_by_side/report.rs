//! All samples of a run: medians, ratios, raw figures, and the files of a run.
//!
//! What they look like is a matter of `table` and `chart`.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::Outcome;
use crate::chart;
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
    /// None if there is no round with both. A round in which either has nothing, or less than nothing, does not count:
    /// a latency that noise made shorter than that of a direct request has no ratio.
    pub fn ratio(&self, row: Row, one: Contender, other: Contender) -> Option<Ratio> {
        let rounds = self.samples.iter().map(|(round, _)| *round).max()?;
        let of = |round| {
            let above_nothing = |contender| {
                let figure = self.figure(round, row, contender);
                figure.filter(|figure| *figure > 0.0)
            };
            Some(above_nothing(one)? / above_nothing(other)?)
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
        fs::write(directory.join("chart.svg"), chart::of(self)?)?;
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

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hold::Memory;
    use crate::load::Load;

    fn answers(contender: Contender, scenario: Scenario, cpu_us: u64, p50_us: u64) -> Sample {
        Sample {
            scenario,
            contender,
            cpu: (contender != Contender::Direct).then(|| Duration::from_micros(cpu_us * 100)),
            seen: Seen::Answers(Load {
                requests: 100,
                took: Duration::from_secs(2),
                p50: Duration::from_micros(p50_us),
                p99: Duration::from_micros(p50_us * 10),
            }),
        }
    }

    fn row(scenario: Scenario) -> Row {
        Row::of(scenario)[0]
    }

    /// Rounds of nginx-tuned and mana-proxy, in CPU microseconds.
    fn flood(rounds: &[(u64, u64)]) -> Report {
        let mut report = Report::default();
        for (round, (theirs, ours)) in (1..).zip(rounds) {
            for (contender, cpu_us) in [
                (Contender::NginxTuned, *theirs),
                (Contender::ManaProxy, *ours),
            ] {
                report.add(round, answers(contender, Scenario::H1Tls, cpu_us, 7));
            }
        }
        report
    }

    #[test]
    fn a_ratio_is_of_each_round_and_then_the_median() {
        let report = flood(&[(10, 5), (100, 200), (20, 20)]);
        let ratio = report.ratio(
            row(Scenario::H1Tls),
            Contender::ManaProxy,
            Contender::NginxTuned,
        );
        let expected = Ratio {
            lowest: 0.5,
            median: 1.0,
            highest: 2.0,
        };
        assert_eq!(ratio, Some(expected));
        let median = report.median(row(Scenario::H1Tls), Contender::NginxTuned);
        assert_eq!(median, Some(20.0));
    }

    #[test]
    fn what_was_not_measured_has_no_figure() {
        let report = flood(&[(10, 5)]);
        let of = |scenario, one, other| report.ratio(row(scenario), one, other);
        let (ours, tuned) = (Contender::ManaProxy, Contender::NginxTuned);
        assert_eq!(of(Scenario::H2Tls, ours, tuned), None);
        assert_eq!(of(Scenario::H1Tls, Contender::Caddy, tuned), None);
        assert_eq!(of(Scenario::H1Tls, ours, Contender::Caddy), None);
        assert_eq!(Report::default().rows(), []);
        assert_eq!(report.contenders(), [tuned, ours]);
        assert_eq!(report.rows(), [row(Scenario::H1Tls)]);
    }

    #[test]
    fn latency_is_what_is_added_to_the_direct_way_of_the_same_round() {
        let mut report = Report::default();
        for (round, direct, tuned, ours) in [(1, 100, 150, 125), (2, 200, 300, 400)] {
            for (contender, p50_us) in [
                (Contender::NginxTuned, tuned),
                (Contender::ManaProxy, ours),
                (Contender::Direct, direct),
            ] {
                report.add(round, answers(contender, Scenario::HalfLoad, 1, p50_us));
            }
        }
        let [p50, p99] = Row::of(Scenario::HalfLoad)[..] else {
            panic!("two rows");
        };
        let ratio = report.ratio(p50, Contender::ManaProxy, Contender::NginxTuned);
        assert!(ratio.is_some_and(|ratio| ratio.lowest == 0.5 && ratio.highest == 2.0));
        let added = report.median(p99, Contender::NginxTuned).unwrap();
        assert!((added - 1000.0).abs() < 0.01, "{added}");
    }

    #[test]
    fn less_than_the_direct_way_is_nothing_to_compare_with() {
        for (tuned, ours) in [(90, 120), (120, 90), (100, 100)] {
            let mut report = Report::default();
            for (contender, p50_us) in [
                (Contender::NginxTuned, tuned),
                (Contender::ManaProxy, ours),
                (Contender::Direct, 100),
            ] {
                report.add(1, answers(contender, Scenario::HalfLoad, 1, p50_us));
            }
            let row = row(Scenario::HalfLoad);
            let ratio = report.ratio(row, Contender::ManaProxy, Contender::NginxTuned);
            assert_eq!(ratio, None, "{tuned} {ours}");
        }
    }

    #[test]
    fn every_line_of_the_raw_figures_has_every_column() {
        let mut report = flood(&[(10, 5)]);
        report.add(1, answers(Contender::Direct, Scenario::HalfLoad, 1, 9));
        for (scenario, seen) in [
            (Scenario::HalfLoad, Seen::TooMuch),
            (
                Scenario::IdleTls,
                Seen::Rest(Memory {
                    before_bytes: 1,
                    open_bytes: 2,
                    connections: 3,
                }),
            ),
        ] {
            report.add(
                1,
                Sample {
                    scenario,
                    contender: Contender::Caddy,
                    cpu: None,
                    seen,
                },
            );
        }
        let csv = report.csv().unwrap();
        let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [12; 6]);
        assert!(
            csv.contains("1,h1-tls-1k,nginx-tuned,100,2.000,1000,10.00,7,70,,,\n"),
            "{csv}"
        );
        assert!(csv.ends_with("1,idle-tls-10k,caddy,,,,,,,1,2,3\n"), "{csv}");
    }
}
