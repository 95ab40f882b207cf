//! Side by side: what one request costs mana-proxy, and what it costs nginx, on this machine and in this run.
//!
//! Owns the order of measuring and the options; the parts are `bed` (files, ports, upstream), `contender` (who is
//! measured), `scenario` (what is asked), `load` (the generators), `stalled` (clients that are in the way), `process`
//! (pinning, CPU time), `machine` and `report`. `make bench` runs it. Linux only: CPU time comes from `/proc`. How to read
//! the result: `benches/README.md`.

mod bed;
mod contender;
mod load;
mod machine;
mod process;
mod report;
mod scenario;
mod stalled;

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use bed::Bed;
use contender::{Contender, Scheme, Server};
use process::Cores;
use report::{Report, Sample};
use scenario::Scenario;

/// What went wrong, for the person who reads the terminal; nothing here is handled by kind.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// What the command line asks for.
struct Options {
    /// How often each scenario is measured on each contender.
    rounds: u32,
    /// How long each measurement loads the contender.
    seconds: u32,
    /// Whether the raw figures are written to `benches/runs/`.
    keep: Keep,
}

/// Whether a run leaves files.
#[derive(PartialEq)]
enum Keep {
    Run,
    Nothing,
}

fn main() -> ExitCode {
    let outcome =
        Options::from_arguments(std::env::args().skip(1)).and_then(|options| run(&options));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Starts everything once, then measures round by round, so that a change of the machine's mood meets all contenders.
fn run(options: &Options) -> Outcome<()> {
    let cores = Cores::of_this_process()?;
    let bed = Bed::new(&cores)?;
    let mut servers = Vec::new();
    for contender in Contender::ALL {
        for scheme in [Scheme::Plain, Scheme::Tls] {
            servers.push(contender.start(scheme, &bed, &cores)?);
        }
    }
    let mut machine = machine::describe()?;

    let mut report = Report::default();
    for round in 1..=options.rounds {
        for scenario in Scenario::ALL {
            for contender in Contender::ALL {
                let server = servers
                    .iter()
                    .find(|server| {
                        server.contender == contender && server.scheme == scenario.scheme()
                    })
                    .ok_or("a contender was not started")?;
                let sample = measure(scenario, server, &bed, &cores, options.seconds)?;
                eprintln!("round {round} of {}: {sample}", options.rounds);
                report.add(round, sample);
            }
        }
    }
    writeln!(
        machine,
        "load average at the end: {}",
        machine::load_average()?
    )?;

    let table = report.table();
    println!("{table}");
    if options.keep == Keep::Run {
        let runs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/runs");
        let kept = report.write(&runs, &table, &machine)?;
        eprintln!("raw figures: benches/runs/{kept}/");
    }
    Ok(())
}

/// Loads one server for some seconds and reads what its process spent meanwhile.
fn measure(
    scenario: Scenario,
    server: &Server,
    bed: &Bed,
    cores: &Cores,
    seconds: u32,
) -> Outcome<Sample> {
    let before = server.process.cpu_time()?;
    let load = scenario.load(server.port, bed.path(), cores, seconds)?;
    // What the end of the load leaves to do, such as closing connections, belongs to it.
    thread::sleep(Duration::from_millis(50));
    let cpu = server.process.cpu_time()?.saturating_sub(before);
    server.empty_log()?;
    Ok(Sample {
        scenario,
        contender: server.contender,
        cpu,
        load,
    })
}

// === impl Options ===

impl Options {
    /// `--quick`, `--rounds N`, `--seconds N`. Cargo adds `--bench`, which says nothing new.
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
        let mut options = Options {
            rounds: ROUNDS,
            seconds: SECONDS,
            keep: Keep::Run,
        };
        while let Some(argument) = arguments.next() {
            let mut number = |most: u32| -> Outcome<u32> {
                let text = arguments.next().unwrap_or_default();
                match text.parse() {
                    Ok(number) if (1..=most).contains(&number) => Ok(number),
                    _ => Err(format!("{argument} wants a number from 1 to {most}").into()),
                }
            };
            match argument.as_str() {
                "--bench" => {}
                "--quick" => {
                    options.rounds = 1;
                    options.keep = Keep::Nothing;
                }
                "--rounds" => options.rounds = number(ROUNDS_MAX)?,
                "--seconds" => options.seconds = number(SECONDS_MAX)?,
                _ => {
                    return Err(format!(
                        "unknown option {argument}; there are --quick, --rounds N, --seconds N"
                    )
                    .into());
                }
            }
        }
        Ok(options)
    }
}

/// Odd, so that the median is one that was measured.
const ROUNDS: u32 = 5;
const ROUNDS_MAX: u32 = 99;
/// Two seconds are some ten thousand requests; a whole run is then about four minutes.
const SECONDS: u32 = 2;
const SECONDS_MAX: u32 = 60;
