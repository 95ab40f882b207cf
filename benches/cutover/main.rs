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
    /// Requests a second that were asked for: 90 % of what it could do without letting them wait.
    rate: f64,
    cutovers: Vec<Cutover>,
    /// Around the commands.
    with: Around<Times>,
    /// Around moments at which no command was given: what the machine does by itself.
    without: Around<Times>,
}

/// What is seen around a moment.
struct Around<T> {
    /// Of the requests that were over by then.
    before: T,
    /// Of those that were not, or were due after it.
    after: T,
}

/// How long requests took, from when they were due.
struct Times {
    p99: Duration,
    max: Duration,
}

/// One cutover, and the requests around it: those of [`AROUND`] before it, but for the first, and those of [`AROUND`] after.
struct Cutover {
    /// From the command to the first answer of the new slot.
    first: Duration,
    /// From the command to the last answer of the old slot.
    last_old: Duration,
    /// From the store to the first request in the new slot, where the contender tells it.
    stored_to_first: Option<Duration>,
    failed: usize,
    times: Around<Vec<Duration>>,
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

/// One contender after the other: each is asked for what it can do, then it is switched at 90 % of that.
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
    let rate = sustained(server)? * LOAD;
    let mut seen = Vec::new();
    let mut without = Vec::new();
    let mut to = Slot::Green;
    for _ in 0..cutovers {
        let (asked, moment, ()) = around(server, rate, || Ok(()))?;
        without.push(Around::of(&asked, moment));
        let (asked, told, stored_to_first) = around(server, rate, || server.switch(to))?;
        seen.push(Cutover::of(&asked, to, told, stored_to_first)?);
        to = to.other();
    }
    Ok(Seen {
        contender,
        rate,
        with: Around::all(seen.iter().map(|cutover| &cutover.times))?,
        without: Around::all(without.iter())?,
        cutovers: seen,
    })
}

/// Does something in the middle of a load. Returns the requests that were due once it had settled, when that was done, and what
/// came of it.
fn around<T>(
    server: &Server,
    rate: f64,
    act: impl FnOnce() -> Outcome<T>,
) -> Outcome<(Vec<Asked>, Instant, T)> {
    let settled = Instant::now() + SETTLING;
    let load = Load::start(server.address, Pace::Rate(rate));
    thread::sleep(SETTLING + AROUND);
    let moment = Instant::now();
    let outcome = act()?;
    thread::sleep(AROUND);
    let mut asked = load.end()?;
    asked.retain(|asked| asked.due > settled);
    Ok((asked, moment, outcome))
}

/// The requests a second that the contender answers without letting them wait: what it does flat out, less a tenth as
/// often as it takes, up to [`SLOWER_MAX`] times. Clients that keep a pace need more of their core than those that go flat out.
fn sustained(server: &Server) -> Outcome<f64> {
    let flat_out = Load::start(server.address, Pace::AsFastAsItGoes);
    let began = Instant::now();
    thread::sleep(CALM);
    let answered = flat_out.end()?.len();
    let mut rate = answered as f64 / began.elapsed().as_secs_f64();
    let mut slower = 0;
    let mut kept = 0;
    while slower < SLOWER_MAX && kept < KEPT {
        let began = Instant::now();
        let load = Load::start(server.address, Pace::Rate(rate));
        thread::sleep(CALM);
        let asked = load.end()?;
        let settled = asked.iter().filter(|asked| asked.due > began + SETTLING);
        if Times::of(settled.map(time))?.p99 <= WAITING {
            kept += 1;
        } else {
            (kept, slower) = (0, slower + 1);
            rate *= 0.9;
        }
    }
    // Whoever makes them wait at a third as well has that in the table.
    Ok(rate)
}

fn time(asked: &Asked) -> Duration {
    asked.ended.saturating_duration_since(asked.due)
}

// === impl Times ===

impl Times {
    fn of(times: impl Iterator<Item = Duration>) -> Outcome<Times> {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).copied();
        Ok(Times {
            p99: p99.ok_or("nothing was answered")?,
            max: times.last().copied().unwrap_or_default(),
        })
    }
}

// === impl Around ===

impl Around<Vec<Duration>> {
    fn of(asked: &[Asked], moment: Instant) -> Around<Vec<Duration>> {
        let (after, before): (Vec<&Asked>, Vec<&Asked>) =
            asked.iter().partition(|asked| asked.ended > moment);
        Around {
            before: before.into_iter().map(time).collect(),
            after: after.into_iter().map(time).collect(),
        }
    }
}

impl Around<Times> {
    fn all<'a>(
        moments: impl Iterator<Item = &'a Around<Vec<Duration>>> + Clone,
    ) -> Outcome<Around<Times>> {
        let before = moments.clone().flat_map(|one| &one.before);
        let after = moments.flat_map(|one| &one.after);
        Ok(Around {
            before: Times::of(before.copied())?,
            after: Times::of(after.copied())?,
        })
    }
}

// === impl Cutover ===

impl Cutover {
    fn of(
        asked: &[Asked],
        to: Slot,
        told: Instant,
        stored_to_first: Option<u64>,
    ) -> Outcome<Cutover> {
        let after = || asked.iter().filter(|asked| asked.ended > told);
        let answered = |slot| {
            after()
                .filter(move |asked| asked.by == Some(slot))
                .map(|asked| asked.ended.saturating_duration_since(told))
        };
        Ok(Cutover {
            first: answered(to)
                .min()
                .ok_or("the new slot has answered nothing")?,
            last_old: answered(to.other()).max().unwrap_or_default(),
            stored_to_first: stored_to_first.map(Duration::from_micros),
            failed: after().filter(|asked| asked.by.is_none()).count(),
            times: Around::of(asked, told),
        })
    }
}

fn table(all: &[Seen]) -> String {
    let mut table = String::from(
        "| | requests/s | command to first, median | highest | store to first, highest | command to last of the old slot, median | failed | p99 before, after | max before, after | p99 before, after a moment without a command | max |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
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
    let total = |value: &dyn Fn(&Cutover) -> usize| seen.cutovers.iter().map(value).sum::<usize>();
    let requests = total(&|cutover| cutover.times.after.len());
    let (first, first_highest) = of(|cutover| cutover.first);
    let stored = seen
        .cutovers
        .iter()
        .filter_map(|cutover| cutover.stored_to_first)
        .max();
    format!(
        "| {} | {:.0} | {} | {} | {} | {} | {} of {requests} | {} | {} | {} | {} |",
        seen.contender.name(),
        seen.rate,
        ms(first),
        ms(first_highest),
        stored.map_or("-".to_owned(), ms),
        ms(of(|cutover| cutover.last_old).0),
        total(&|cutover| cutover.failed),
        both(&seen.with, |times| times.p99),
        both(&seen.with, |times| times.max),
        both(&seen.without, |times| times.p99),
        both(&seen.without, |times| times.max),
    )
}

fn both(around: &Around<Times>, of: fn(&Times) -> Duration) -> String {
    format!("{}, {}", ms(of(&around.before)), ms(of(&around.after)))
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// Writes the table and every cutover to a directory of `benches/runs/`, and returns its name.
fn keep(all: &[Seen], table: &str) -> Outcome<String> {
    let mut csv = String::from(
        "contender,rate_per_s,cutover,first_us,stored_to_first_us,last_old_us,requests,failed,p99_before_us,p99_after_us,max_before_us,max_after_us\n",
    );
    for seen in all {
        for (number, cutover) in (1..).zip(&seen.cutovers) {
            let stored = cutover
                .stored_to_first
                .map_or(String::new(), |time| time.as_micros().to_string());
            let before = Times::of(cutover.times.before.iter().copied())?;
            let after = Times::of(cutover.times.after.iter().copied())?;
            writeln!(
                csv,
                "{},{:.0},{number},{},{stored},{},{},{},{},{},{},{}",
                seen.contender.name(),
                seen.rate,
                cutover.first.as_micros(),
                cutover.last_old.as_micros(),
                cutover.times.after.len(),
                cutover.failed,
                before.p99.as_micros(),
                after.p99.as_micros(),
                before.max.as_micros(),
                after.max.as_micros(),
            )?;
        }
    }
    kept::keep("cutover", ("cutovers.csv", &csv), table)
}

/// Of each contender.
const CUTOVERS: u32 = 10;
/// Of what it can do.
const LOAD: f64 = 0.9;
/// How long it is watched at one rate, to know whether it can keep that.
const CALM: Duration = Duration::from_secs(2);
/// So often in a row.
const KEPT: u32 = 3;
/// A p99 above this says that requests wait for their turn.
const WAITING: Duration = Duration::from_millis(5);
/// A tenth less so often is a third.
const SLOWER_MAX: u32 = 10;
/// The first moments of a load open its connections.
const SETTLING: Duration = Duration::from_millis(300);
/// How long the load runs before and after each cutover.
const AROUND: Duration = Duration::from_millis(700);
