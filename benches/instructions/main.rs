//! The guard of instructions per request: counts five scenarios under callgrind and compares them with stored figures.
//!
//! Owns the options, the order and the report; the parts are `scenario` (what is asked), `client` and `upstream` (who asks
//! and who answers), `counted` (the proxy under callgrind), `machine` (on what kind of machine) and `stored` (the figures
//! and the verdict). `make instructions` runs it, and so does `.ci/run`. What it does not see: the kernel, and
//! how long anything takes; that is what `side_by_side` measures. Linux only.

#[path = "../common/answering.rs"]
mod answering;
mod client;
mod counted;
mod machine;
mod scenario;
mod stored;
mod upstream;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use scenario::Scenario;
use stored::{Figures, Machine, Stored, TOLERANCE_PERCENT, Verdict, judge, percent};

/// What went wrong, for the person who reads the terminal; nothing here is handled by kind.
type Outcome<T> = Result<T, Box<dyn Error>>;

/// The name that clients ask for and the certificate covers.
const HOST: &str = "localhost";

/// What the command line asks for.
enum Order {
    /// Compare with the stored figures.
    Compare,
    /// Store what is counted, for this reason.
    Store(String),
    /// Print the processor as this process sees it.
    Cpu,
}

fn main() -> ExitCode {
    let outcome = Order::from_arguments(std::env::args().skip(1)).and_then(|order| run(&order));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprint!("error: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(order: &Order) -> Outcome<ExitCode> {
    if let Order::Cpu = order {
        println!("{}", machine::cpu());
        return Ok(ExitCode::SUCCESS);
    }
    let machine = machine::here()?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(STORED);
    let mut stored = Stored::parse(&fs::read_to_string(&path)?)?;
    if let Order::Store(reason) = order {
        // Before minutes of counting: whether there is a reason, and room.
        let empty = figures(reason, &machine, BTreeMap::new());
        stored.clone().store(empty)?;
    }
    let counts = count()?;
    match order {
        Order::Store(reason) => {
            stored.store(figures(reason, &machine, counts))?;
            fs::write(&path, stored.text())?;
            eprintln!(
                "stored; commit benches/{FILE} together with what has made the figures change"
            );
            Ok(ExitCode::SUCCESS)
        }
        Order::Compare | Order::Cpu => Ok(compare(&stored, &machine, &counts)),
    }
}

/// Counts all scenarios, each in two lives of the proxy: what the longer one has more was done for the requests that it
/// had more. Start, end and the connection's begin are in both, and cancel out.
fn count() -> Outcome<BTreeMap<String, u64>> {
    let binary = std::env::var_os("MANA_PROXY_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_mana-proxy").into(), PathBuf::from);
    let mut counts = BTreeMap::new();
    for scenario in Scenario::ALL {
        let short = life(scenario, &binary, scenario.short())?;
        let long = life(scenario, &binary, scenario.long())?;
        let requests = u64::from(scenario.long() - scenario.short());
        let count = long.saturating_sub(short) / requests;
        eprintln!("{}: {count} instructions a request", scenario.name());
        counts.insert(scenario.name().to_owned(), count);
    }
    Ok(counts)
}

/// One life that came to its end. Another program may take the port that was chosen, or the machine stand still for longer
/// than a deadline: neither says anything about the product, so it is said and tried again.
fn life(scenario: Scenario, binary: &Path, requests: u32) -> Outcome<u64> {
    let mut attempt = 1;
    loop {
        match counted::life(scenario, binary, requests) {
            Err(error) if attempt < ATTEMPTS => {
                eprintln!("{}: tried again, since {error}", scenario.name());
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// Prints the table, and fails if a scenario became dearer. Where nothing was counted on such a machine before there is
/// nothing to compare with: that is said, and passes, since a false alarm would stop a release that is good.
fn compare(stored: &Stored, machine: &Machine, counts: &BTreeMap<String, u64>) -> ExitCode {
    let same = stored.of(machine);
    let shown = same.or_else(|| stored.nearest(machine));
    println!("| scenario | stored | counted | change |");
    println!("|---|---|---|---|");
    let mut dearer = Vec::new();
    let mut cheaper = Vec::new();
    for (scenario, &count) in counts {
        let before = shown.and_then(|figures| figures.instructions.get(scenario).copied());
        let change = before.map_or("new".to_owned(), |before| {
            format!("{:+.1} %", percent(before, count))
        });
        let before_text = before.map_or("-".to_owned(), |before| before.to_string());
        println!("| {scenario} | {before_text} | {count} | {change} |");
        let line = format!("{scenario}: stored {before_text}, counted {count}, {change}");
        match judge(before, count) {
            Verdict::Same => {}
            Verdict::Dearer | Verdict::New => dearer.push(line),
            Verdict::Cheaper => cheaper.push(line),
        }
    }
    let Some(same) = same else {
        eprintln!("not compared: no figures of this kind of machine are stored.");
        if let Some(nearest) = shown {
            for difference in machine.differences(&nearest.machine) {
                eprintln!("  {difference}");
            }
        }
        eprintln!("hint: on a build that is good, {STORE}");
        return ExitCode::SUCCESS;
    };
    if !cheaper.is_empty() {
        eprintln!(
            "cheaper by more than {TOLERANCE_PERCENT} %:\n  {}",
            cheaper.join("\n  ")
        );
        eprintln!("hint: keep the gain: {STORE}");
    }
    if dearer.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "error: a request takes more than {TOLERANCE_PERCENT} % more instructions than stored (\"{}\"):\n  {}",
        same.reason,
        dearer.join("\n  ")
    );
    eprintln!("hint: find what has made it dearer; if that is worth it, {STORE}");
    ExitCode::FAILURE
}

fn figures(reason: &str, machine: &Machine, instructions: BTreeMap<String, u64>) -> Figures {
    Figures {
        reason: reason.to_owned(),
        machine: machine.clone(),
        instructions,
    }
}

// === impl Order ===

impl Order {
    /// `--store REASON`, or nothing. Cargo adds `--bench`, which says nothing new.
    fn from_arguments(arguments: impl Iterator<Item = String>) -> Outcome<Order> {
        let mut order = Order::Compare;
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            order = match argument.as_str() {
                "--store" => Order::Store(arguments.next().unwrap_or_default()),
                machine::CPU => Order::Cpu,
                _ => {
                    return Err(
                        format!("unknown option {argument}; there is --store REASON").into(),
                    );
                }
            };
        }
        Ok(order)
    }
}

const STORED: &str = "../benches/instructions/stored.toml";
const FILE: &str = "instructions/stored.toml";
const STORE: &str = "make instructions-store REASON=\"what has made them change\"";
/// Of each life.
const ATTEMPTS: u32 = 3;
