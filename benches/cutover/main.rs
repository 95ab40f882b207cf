//! Cutovers under load: how soon the new slot answers, and what the requests of that moment notice.
//!
//! Owns the order of measuring, the options and the table; the parts are `contender` (who is measured and how it is told),
//! `load` (clients at a constant rate), `upstream` (the two slots). `make bench-cutover` runs it. Linux only. How to read
//! the result: `benches/README.md`.

#[path = "../common/answering.rs"]
mod answering;
#[path = "../common/asking.rs"]
mod asking;
mod contender;
#[path = "../common/kept.rs"]
mod kept;
mod load;
#[path = "../side_by_side/process.rs"]
#[allow(dead_code, reason = "CPU time is not measured here")]
mod process;
mod upstream;

use std::error::Error;
use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use contender::{Contender, Server};
use load::{Asked, Load, Pace};
use process::Cores;
use upstream::Slot;

/// What went wrong, for the person who reads the terminal; nothing here is handled by kind.
pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// What was seen of one contender.
struct Seen {
    contender: Contender,
    /// Requests a second that were asked for, 90 % of what it could do.
    rate: f64,
    /// 99 of 100 requests were answered within this while nothing was switched.
    p99_before: Duration,
    max_before: Duration,
    cutovers: Vec<Cutover>,
}

/// One cutover, and the requests that were due from its beginning on, for [`AROUND`].
struct Cutover {
    /// From the command to the first answer of the new slot.
    first: Duration,
    /// From the command to the last answer of the old slot.
    last_old: Duration,
    /// From the store to the first request in the new slot, where the contender tells it.
    stored_to_first: Option<Duration>,
    requests: usize,
    failed: usize,
    /// Slower than the p99 without a cutover. One in a hundred would be so anyway.
    slow: usize,
    max: Duration,
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

/// One contender after the other: each is asked for what it can do, then at 90 % of it without and with cutovers.
fn run(is_quick: bool) -> Outcome<()> {
    let cores = Cores::of_this_process()?;
    // This process, with its clients and upstreams, stays away from the contender's core.
    let own = std::process::id().to_string();
    let core = cores.around.to_string();
    let pinned = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", &core, &own])
        .output()?;
    if !pinned.status.success() {
        return Err(String::from_utf8_lossy(&pinned.stderr).into());
    }
    let directory = tempfile::tempdir()?;
    let slots = [upstream::start(Slot::Blue)?, upstream::start(Slot::Green)?];
    let cutovers = if is_quick { 2 } else { CUTOVERS };
    let mut all = Vec::new();
    for contender in Contender::ALL {
        let server = contender.start(slots, directory.path(), &cores)?;
        let seen = measure(contender, &server, cutovers)?;
        eprintln!("{}", row(&seen));
        all.push(seen);
    }
    let table = table(&all);
    println!("{table}");
    if !is_quick {
        let kept = keep(&all, &table)?;
        eprintln!("raw figures: benches/runs/{kept}/");
    }
    Ok(())
}

fn measure(contender: Contender, server: &Server, cutovers: u32) -> Outcome<Seen> {
    let flat_out = Load::start(server.address, Pace::AsFastAsItGoes);
    let began = Instant::now();
    thread::sleep(CALM);
    let answered = flat_out.end()?.len();
    let rate = answered as f64 / began.elapsed().as_secs_f64() * LOAD;

    let calm = Load::start(server.address, Pace::Rate(rate));
    thread::sleep(CALM);
    let mut times = times(&calm.end()?);
    times.sort_unstable();
    let p99 = times
        .get(times.len() * 99 / 100)
        .copied()
        .ok_or("nothing was answered")?;
    let mut seen = Seen {
        contender,
        rate,
        p99_before: p99,
        max_before: times.last().copied().unwrap_or(p99),
        cutovers: Vec::new(),
    };

    let mut to = Slot::Green;
    for _ in 0..cutovers {
        let load = Load::start(server.address, Pace::Rate(rate));
        thread::sleep(AROUND);
        let told = Instant::now();
        let stored_to_first = server.switch(to)?.map(Duration::from_micros);
        thread::sleep(AROUND);
        let asked = load.end()?;
        seen.cutovers
            .push(Cutover::of(&asked, to, told, stored_to_first, p99)?);
        to = to.other();
    }
    Ok(seen)
}

fn times(asked: &[Asked]) -> Vec<Duration> {
    asked
        .iter()
        .map(|asked| asked.ended.saturating_duration_since(asked.due))
        .collect()
}

// === impl Cutover ===

impl Cutover {
    /// What the requests say that were not yet answered when the order was given, or were due after it.
    fn of(
        asked: &[Asked],
        to: Slot,
        told: Instant,
        stored_to_first: Option<Duration>,
        slow: Duration,
    ) -> Outcome<Cutover> {
        let asked: Vec<Asked> = asked
            .iter()
            .copied()
            .filter(|asked| asked.ended > told)
            .collect();
        let answered = |slot| {
            asked
                .iter()
                .filter(move |asked| asked.by == Some(slot))
                .map(|asked| asked.ended.saturating_duration_since(told))
        };
        let times = times(&asked);
        Ok(Cutover {
            first: answered(to)
                .min()
                .ok_or("the new slot has answered nothing")?,
            last_old: answered(to.other()).max().unwrap_or_default(),
            stored_to_first,
            requests: asked.len(),
            failed: asked.iter().filter(|asked| asked.by.is_none()).count(),
            slow: times.iter().filter(|&&time| time > slow).count(),
            max: times.iter().copied().max().unwrap_or_default(),
        })
    }
}

fn table(all: &[Seen]) -> String {
    let mut table = String::from(
        "| | requests/s | command to first, median | highest | store to first, highest | command to last of the old slot, median | failed | slow | p99 without | max without | max with |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for seen in all {
        table.push_str(&row(seen));
        table.push('\n');
    }
    table
}

fn row(seen: &Seen) -> String {
    let of = |value: fn(&Cutover) -> Duration| {
        let mut values: Vec<Duration> = seen.cutovers.iter().map(value).collect();
        values.sort_unstable();
        let median = values.get(values.len() / 2).copied().unwrap_or_default();
        (median, values.last().copied().unwrap_or_default())
    };
    let total = |value: fn(&Cutover) -> usize| seen.cutovers.iter().map(value).sum::<usize>();
    let (first, first_highest) = of(|cutover| cutover.first);
    let stored = seen
        .cutovers
        .iter()
        .filter_map(|cutover| cutover.stored_to_first)
        .max();
    format!(
        "| {} | {:.0} | {} | {} | {} | {} | {} of {} | {:.1} % | {} | {} | {} |",
        seen.contender.name(),
        seen.rate,
        ms(first),
        ms(first_highest),
        stored.map_or("-".to_owned(), ms),
        ms(of(|cutover| cutover.last_old).0),
        total(|cutover| cutover.failed),
        total(|cutover| cutover.requests),
        total(|cutover| cutover.slow) as f64 * 100.0
            / total(|cutover| cutover.requests).max(1) as f64,
        ms(seen.p99_before),
        ms(seen.max_before),
        ms(of(|cutover| cutover.max).1),
    )
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// Writes the table and every cutover to a directory of `benches/runs/`, and returns its name.
fn keep(all: &[Seen], table: &str) -> Outcome<String> {
    let mut csv = String::from(
        "contender,rate_per_s,p99_without_us,cutover,first_us,stored_to_first_us,last_old_us,requests,failed,slow,max_us\n",
    );
    for seen in all {
        for (number, cutover) in (1..).zip(&seen.cutovers) {
            let stored = cutover
                .stored_to_first
                .map_or(String::new(), |time| time.as_micros().to_string());
            writeln!(
                csv,
                "{},{:.0},{},{number},{},{stored},{},{},{},{},{}",
                seen.contender.name(),
                seen.rate,
                seen.p99_before.as_micros(),
                cutover.first.as_micros(),
                cutover.last_old.as_micros(),
                cutover.requests,
                cutover.failed,
                cutover.slow,
                cutover.max.as_micros()
            )?;
        }
    }
    kept::keep("cutover", ("cutovers.csv", &csv), table)
}

/// Of each contender.
const CUTOVERS: u32 = 10;
/// Of what it can do.
const LOAD: f64 = 0.9;
/// How long the load runs without a cutover, to know what is usual.
const CALM: Duration = Duration::from_secs(3);
/// How long it runs before and after each cutover.
const AROUND: Duration = Duration::from_millis(700);
