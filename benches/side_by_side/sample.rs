//! One measurement, and the figures that it has.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::contender::Contender;
use crate::hold::Memory;
use crate::load::Load;
use crate::scenario::{Kind, Scenario};

/// One measurement.
#[derive(Debug)]
pub struct Sample {
    pub scenario: Scenario,
    pub contender: Contender,
    /// What all threads of the contender used meanwhile; none of the direct way, or where memory was measured.
    pub cpu: Option<Duration>,
    pub seen: Seen,
}

/// What clients saw.
#[derive(Debug)]
pub enum Seen {
    Answers(Load),
    /// The rate was more than the contender can take.
    TooMuch,
    Rest(Memory),
}

/// A row of the table: a scenario, and which of its figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    pub scenario: Scenario,
    pub figure: Figure,
}

/// What is compared. Less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figure {
    /// CPU time of a request.
    CpuMicroseconds,
    /// Memory of a connection at rest.
    ConnectionBytes,
    /// The median of the time to an answer, less that of a direct request.
    AddedP50Microseconds,
    /// The same of the 99th percentile.
    AddedP99Microseconds,
}

// === impl Row ===

impl Row {
    /// The figures of a scenario, in the order of the table.
    pub fn of(scenario: Scenario) -> Vec<Row> {
        let figures: &[Figure] = match scenario.kind() {
            Kind::Flood => &[Figure::CpuMicroseconds],
            Kind::Rest => &[Figure::ConnectionBytes],
            Kind::Pace => &[Figure::AddedP50Microseconds, Figure::AddedP99Microseconds],
        };
        let row = |figure: &Figure| Row {
            scenario,
            figure: *figure,
        };
        figures.iter().map(row).collect()
    }

    /// The scenario, and if there are several what of it.
    pub fn name(self) -> String {
        match self.figure {
            Figure::CpuMicroseconds | Figure::ConnectionBytes => self.scenario.name().to_owned(),
            Figure::AddedP50Microseconds => format!("{}, p50", self.scenario.name()),
            Figure::AddedP99Microseconds => format!("{}, p99", self.scenario.name()),
        }
    }

    /// What the figure counts.
    pub fn unit(self) -> &'static str {
        match self.figure {
            Figure::CpuMicroseconds => "us CPU/request",
            Figure::ConnectionBytes => "bytes/connection",
            Figure::AddedP50Microseconds | Figure::AddedP99Microseconds => "us added",
        }
    }

    /// The figure of a sample. `direct` is that of the direct way in the same round, if there is one.
    pub fn figure(self, sample: &Sample, direct: Option<&Sample>) -> Option<f64> {
        let added = |percentile: fn(&Load) -> Duration| {
            let through = microseconds(percentile(sample.answers()?));
            Some(through - microseconds(percentile(direct?.answers()?)))
        };
        match self.figure {
            Figure::CpuMicroseconds => sample.cpu_us_per_request(),
            Figure::ConnectionBytes => match &sample.seen {
                Seen::Rest(memory) => Some(memory.bytes_per_connection()),
                Seen::Answers(_) | Seen::TooMuch => None,
            },
            Figure::AddedP50Microseconds => added(|load| load.p50),
            Figure::AddedP99Microseconds => added(|load| load.p99),
        }
    }
}

// === impl Sample ===

impl Sample {
    /// What was answered, if that was looked at.
    pub fn answers(&self) -> Option<&Load> {
        match &self.seen {
            Seen::Answers(load) => Some(load),
            Seen::TooMuch | Seen::Rest(_) => None,
        }
    }

    /// CPU time of the contender for each request.
    pub fn cpu_us_per_request(&self) -> Option<f64> {
        let requests = self.answers()?.requests.max(1);
        Some(microseconds(self.cpu?) / requests as f64)
    }

    /// As the clients counted.
    pub fn requests_per_second(&self) -> Option<f64> {
        let load = self.answers()?;
        Some(load.requests as f64 / load.took.as_secs_f64())
    }
}

impl Display for Sample {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (scenario, contender) = (self.scenario.name(), self.contender.name());
        write!(f, "{scenario:<17} {contender:<12} ")?;
        match &self.seen {
            Seen::Rest(memory) => {
                write!(f, "{:>7.0} bytes/connection", memory.bytes_per_connection())
            }
            Seen::TooMuch => write!(f, "cannot keep up"),
            Seen::Answers(load) => {
                if let Some(cpu) = self.cpu_us_per_request() {
                    write!(f, "{cpu:>7.1} us CPU/request ")?;
                }
                write!(
                    f,
                    "{:>7.0} requests/s, p50 {:.0} us, p99 {:.0} us",
                    self.requests_per_second().unwrap_or(0.0),
                    microseconds(load.p50),
                    microseconds(load.p99)
                )
            }
        }
    }
}

/// As figures are given.
pub fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
