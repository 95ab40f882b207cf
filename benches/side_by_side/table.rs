//! A run as Markdown: figures, ratios, what the clients saw.

use crate::contender::Contender;
use crate::report::{Ratio, Report};
use crate::sample::{Figure, Sample};
use crate::scenario::Kind;

/// Three tables. `rate` is that of the paced scenario, requests a second.
pub fn of(report: &Report, rate: Option<u32>) -> String {
    let mut text = figures(report);
    text.push_str(&ratios(report));
    text.push_str(&clients(report));
    if let Some(rate) = rate {
        text.push_str(&format!(
            "\nlatency-half-load: {rate} requests a second, half of what nginx-tuned answered on h1-tls-1k before the \
             first round. What cannot keep up at that rate has no figure.\n"
        ));
    }
    text
}

fn figures(report: &Report) -> String {
    let contenders = proxies(report);
    let mut text = String::from("Medians; less is better.\n\n");
    let mut head = vec!["scenario".to_owned(), "figure".to_owned()];
    head.extend(contenders.iter().map(|one| one.name().to_owned()));
    text.push_str(&header(&head));
    for row in report.rows() {
        let mut cells = vec![row.name(), row.unit().to_owned()];
        for contender in &contenders {
            let digits = match row.figure {
                Figure::CpuMicroseconds => 1,
                Figure::ConnectionBytes
                | Figure::AddedP50Microseconds
                | Figure::AddedP99Microseconds => 0,
            };
            cells.push(number(report.median(row, *contender), digits));
        }
        text.push_str(&line(&cells));
    }
    text
}

fn ratios(report: &Report) -> String {
    let all = proxies(report);
    let has = |contender| all.contains(&contender);
    let mut pairs: Vec<(Contender, Contender)> = Vec::new();
    if has(Contender::NginxTuned) {
        let others = all.iter().filter(|one| **one != Contender::NginxTuned);
        pairs.extend(others.map(|one| (*one, Contender::NginxTuned)));
    }
    if has(Contender::ManaProxy) && has(Contender::NginxLegacy) {
        pairs.push((Contender::ManaProxy, Contender::NginxLegacy));
    }
    if pairs.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nRatios: medians of the ratios within a round, lowest to highest in brackets; below 1 is less than the other.\n\n",
    );
    let mut head = vec!["scenario".to_owned()];
    head.extend(pairs.iter().map(|(one, other)| match other {
        Contender::NginxTuned => format!("{} / tuned", one.name()),
        _ => format!("{} / legacy", one.name()),
    }));
    text.push_str(&header(&head));
    for row in report.rows() {
        let mut cells = vec![row.name()];
        let ratios = pairs
            .iter()
            .map(|(one, other)| ratio(report.ratio(row, *one, *other)));
        cells.extend(ratios);
        text.push_str(&line(&cells));
    }
    text
}

fn clients(report: &Report) -> String {
    let mut text = String::from(
        "\nRequests per second and latency in milliseconds as the clients saw them, medians. But for latency-half-load the \
         load is as much as the contender can take, so latency is mostly waiting.\n\n",
    );
    let head = ["scenario", "contender", "requests/s", "p50", "p99"];
    text.push_str(&header(&head.map(str::to_owned)));
    let mut scenarios: Vec<_> = report.rows().iter().map(|row| row.scenario).collect();
    scenarios.dedup();
    scenarios.retain(|scenario| scenario.kind() != Kind::Rest);
    for scenario in scenarios {
        for contender in report.contenders() {
            let median = |figure: fn(&Sample) -> Option<f64>, digits| {
                number(report.median_of(scenario, contender, figure), digits)
            };
            let mut cells = vec![scenario.name().to_owned(), contender.name().to_owned()];
            if report.was_too_much(scenario, contender) {
                cells.extend(["cannot keep up", "-", "-"].map(str::to_owned));
            } else if contender.is_fit_for(scenario) {
                cells.push(median(Sample::requests_per_second, 0));
                cells.push(median(|s| Some(s.answers()?.p50.as_secs_f64() * 1e3), 2));
                cells.push(median(|s| Some(s.answers()?.p99.as_secs_f64() * 1e3), 2));
            } else {
                continue;
            }
            text.push_str(&line(&cells));
        }
    }
    text
}

/// Those with figures of their own.
fn proxies(report: &Report) -> Vec<Contender> {
    let mut all = report.contenders();
    all.retain(|contender| *contender != Contender::Direct);
    all
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

fn ratio(ratio: Option<Ratio>) -> String {
    ratio.map_or_else(
        || "-".to_owned(),
        |ratio| {
            format!(
                "{:.2} ({:.2}-{:.2})",
                ratio.median, ratio.lowest, ratio.highest
            )
        },
    )
}

fn header(cells: &[String]) -> String {
    format!("{}|{}\n", line(cells), "---|".repeat(cells.len()))
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hold::Memory;
    use crate::sample::Seen;
    use crate::scenario::Scenario;

    fn report(contenders: &[Contender]) -> Report {
        let mut report = Report::default();
        for contender in contenders {
            let seen = Seen::Rest(Memory {
                before_bytes: 0,
                open_bytes: 2000,
                connections: 10,
            });
            for (scenario, seen) in [
                (Scenario::IdleTls, seen),
                (Scenario::HalfLoad, Seen::TooMuch),
            ] {
                report.add(
                    1,
                    Sample {
                        scenario,
                        contender: *contender,
                        cpu: None,
                        seen,
                    },
                );
            }
        }
        report
    }

    #[test]
    fn cells_without_a_figure_are_dashes_and_rows_are_equally_long() {
        let text = of(
            &report(&[
                Contender::NginxLegacy,
                Contender::NginxTuned,
                Contender::ManaProxy,
            ]),
            Some(900),
        );
        assert!(text.contains("| idle-tls-10k | bytes/connection | 200 | 200 | 200 |\n"));
        assert!(text.contains("| latency-half-load, p99 | us added | - | - | - |\n"));
        assert!(text.contains("| mana-proxy / tuned | mana-proxy / legacy |\n"));
        assert!(text.contains("| 1.00 (1.00-1.00) | 1.00 (1.00-1.00) |\n"));
        assert!(text.contains("| latency-half-load | mana-proxy | cannot keep up | - | - |\n"));
        assert!(text.contains("latency-half-load: 900 requests a second"));
        for table in text.split("\n\n") {
            let mut rows = table.lines().filter(|line| line.starts_with('|'));
            let cells = |line: &str| line.matches('|').count();
            let head = rows.next().map(cells);
            assert!(rows.all(|row| Some(cells(row)) == head), "{table}");
        }
    }

    #[test]
    fn without_nginx_there_are_no_ratios() {
        let text = of(&report(&[Contender::ManaProxy]), None);
        assert!(!text.contains("/ tuned") && !text.contains("/ legacy"));
    }
}
