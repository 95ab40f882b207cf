//! Scaling: what one request costs with more workers, more connections, more sites. Flat where it should be flat.
//!
//! Owns the list of what is measured, the options and the table; the parts are `setting` (the proxy and its upstream) and
//! `crowd` (clients that ask, and connections that do not). `make bench-scaling` runs it. Linux only. How to read the
//! result: `benches/README.md`.

#[path = "../common/asking.rs"]
mod asking;
mod crowd;
#[path = "../common/kept.rs"]
mod kept;
#[path = "../side_by_side/process.rs"]
#[allow(dead_code, reason = "workers are not pinned to one core here")]
mod process;
mod setting;

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use setting::Setting;

/// What went wrong, for the person who reads the terminal; nothing here is handled by kind.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// The name of the site of this number, from 0.
pub fn host(site: usize) -> String {
    format!("site{site}.example")
}

/// What is measured: one line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Threads that answer requests.
    pub workers: usize,
    /// Open connections; [`crowd::BUSY`] of them ask, the others have asked once and wait.
    pub connections: usize,
    /// Sites of the configuration; requests are for the last one.
    pub sites: usize,
    /// Of each slot. Table entries are sites x 2 slots x this.
    pub upstreams: usize,
}

/// What was measured in one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Requests a second, of all clients.
    pub requests_per_s: f64,
    /// CPU time per request of all threads, in user space and kernel, in microseconds.
    pub cpu_us: f64,
}

fn main() -> ExitCode {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    match run(is_quick) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(is_quick: bool) -> Outcome<()> {
    let descriptors = descriptors()?;
    let (rounds, seconds) = if is_quick {
        (1, QUICK)
    } else {
        (ROUNDS, SECONDS)
    };
    let mut table = String::from(
        "| workers | connections | sites | table entries | requests/s | CPU us/request |\n|---|---|---|---|---|---|\n",
    );
    let mut csv = String::from(
        "workers,connections,sites,upstreams_per_slot,round,requests_per_s,cpu_us_per_request\n",
    );
    for mut case in CASES {
        let most = descriptors.saturating_sub(SPARE) / 2;
        if case.connections > most {
            eprintln!(
                "{most} connections in place of {}: {descriptors} descriptors",
                case.connections
            );
            case.connections = most;
        }
        let setting = Setting::start(case)?;
        let mut crowd = crowd::Crowd::connect(setting.address, case)?;
        // What ten thousand first probes leave to do is done by then.
        crowd.ask(WARM_UP)?;
        let mut samples = Vec::new();
        for round in 1..=rounds {
            let sample = measure(&setting, &mut crowd, seconds)?;
            writeln!(
                csv,
                "{},{},{},{},{round},{:.0},{:.2}",
                case.workers,
                case.connections,
                case.sites,
                case.upstreams,
                sample.requests_per_s,
                sample.cpu_us
            )?;
            samples.push(sample);
        }
        let row = row(case, &samples);
        eprintln!("{row}");
        writeln!(table, "{row}")?;
    }
    println!("{table}");
    if !is_quick {
        let kept = kept::keep("scaling", ("samples.csv", &csv), &table)?;
        eprintln!("raw figures: benches/runs/{kept}/");
    }
    Ok(())
}

/// Raises the limit of descriptors as far as it goes, for this process and those that it starts: this one has an end of
/// every connection, and so has the proxy.
fn descriptors() -> Outcome<usize> {
    // Only root may raise the hard limit; others have what they have.
    let limit = match rlimit::setrlimit(rlimit::Resource::NOFILE, DESCRIPTORS, DESCRIPTORS) {
        Ok(()) => DESCRIPTORS,
        Err(_) => rlimit::increase_nofile_limit(DESCRIPTORS)?,
    };
    Ok(usize::try_from(limit)?)
}

fn measure(setting: &Setting, crowd: &mut crowd::Crowd, time: Duration) -> Outcome<Sample> {
    let before = setting.process.cpu_time()?;
    let (requests, took) = crowd.ask(time)?;
    let cpu = setting.process.cpu_time()?.saturating_sub(before);
    Ok(Sample {
        requests_per_s: requests as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / requests.max(1) as f64,
    })
}

fn row(case: Case, samples: &[Sample]) -> String {
    let median = |value: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(value).collect();
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    format!(
        "| {} | {} | {} | {} | {:.0} | {:.1} |",
        case.workers,
        case.connections,
        case.sites,
        case.sites * 2 * case.upstreams,
        median(|sample| sample.requests_per_s),
        median(|sample| sample.cpu_us)
    )
}

const fn case(workers: usize, connections: usize, sites: usize, upstreams: usize) -> Case {
    Case {
        workers,
        connections,
        sites,
        upstreams,
    }
}

/// One thing changes at a time.
const CASES: [Case; 10] = [
    case(1, 100, 1, 1),
    case(2, 100, 1, 1),
    case(1, 1, 1, 1),
    case(1, 1_000, 1, 1),
    case(1, 20_000, 1, 1),
    case(1, 100, 100, 1),
    case(1, 100, 1_000, 1),
    case(1, 100, 1, 50),
    case(1, 100, 100, 50),
    case(1, 100, 1_000, 5),
];
const ROUNDS: u32 = 5;
const SECONDS: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(3);
const QUICK: Duration = Duration::from_millis(500);
/// What a case does not use for connections of clients.
const SPARE: usize = 1_000;
/// Two for each connection, and some: what the proxy asks for.
const DESCRIPTORS: u64 = 65_536;
