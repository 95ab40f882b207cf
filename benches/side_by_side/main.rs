//! Side by side: what one request costs mana-proxy, and what it costs others, on this machine and in this run.
//!
//! Owns the roles that this program has: the bench, and children of it that it starts as itself. The parts: `options`,
//! `run` (the order of measuring), `bed` (files, ports, upstream), `contender` and `relay` (who is measured), `scenario`
//! (what is asked), `load` (the generators), `pace`, `hold` and their `client` (loads that no generator makes), `stalled`
//! (clients that are in the way), `process` (pinning, CPU time, memory), `machine`; `sample`, `report`, `table` and
//! `chart`. `make bench` runs it; `parts` has the same files under `make test`. Linux only: CPU time comes from `/proc`.
//! How to read the result: `benches/README.md`.
//!
//! Cargo compiles the tests of these files here too, where nothing calls them: hence what is allowed in them.

mod bed;
mod chart;
mod client;
mod contender;
mod hold;
mod load;
mod machine;
mod options;
mod outcome;
mod pace;
mod process;
mod relay;
mod report;
mod run;
mod sample;
mod scenario;
mod stalled;
mod table;

use std::process::ExitCode;

use options::Options;
use outcome::Outcome;

// That of mana-proxy, so that the relay differs from it in what it does and not in how memory is had.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((role, rest)) if role == relay::ROLE => relay::play(rest),
        Some((role, rest)) if role == hold::ROLE => hold::play(rest),
        Some((role, rest)) if role == pace::ROLE => pace::play(rest),
        _ => Options::from_arguments(arguments.into_iter()).and_then(|options| run::run(&options)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
