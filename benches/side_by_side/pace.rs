//! Requests at a constant rate, whatever the answers do, and how long each took from when it was due.
//!
//! Owns the child that asks and what it says. Time counts from when a request was due and not from when it was sent: who
//! is slow once makes those wait that come after, and that is seen. A timer of the kernel gives the beat: those of tokio are
//! as coarse as the latency is long, and a thread of its own falls behind first where the core is busy.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::{try_join, try_join_all};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

use crate::Outcome;
use crate::client::{Client, Target};
use crate::load::{self, Load, line};
use crate::process::pinned_self;

/// The word after which this program is the clients.
pub const ROLE: &str = "pace";

/// Asks `127.0.0.1:port` `rate` times a second, over TLS if there is a chain.
///
/// `Ok(None)` if the server cannot keep up: it has no latency, only a queue that grows.
///
/// # Errors
/// A request fails.
pub fn run(
    core: usize,
    port: u16,
    chain_and_key: Option<&Path>,
    rate: u32,
    seconds: u32,
) -> Outcome<Option<Load>> {
    let mut command = pinned_self(core)?;
    command.args([
        ROLE,
        &port.to_string(),
        &rate.to_string(),
        &seconds.to_string(),
    ]);
    command.args(chain_and_key);
    parse(&load::output(ROLE, command)?, rate)
}

/// The child: `PORT RATE SECONDS [CHAIN_AND_KEY]`.
pub fn play(arguments: &[String]) -> Outcome<()> {
    let (port, rate, seconds, chain_and_key) = match arguments {
        [port, rate, seconds] => (port, rate, seconds, None),
        [port, rate, seconds, path] => (port, rate, seconds, Some(Path::new(path))),
        _ => return Err("the clients want PORT RATE SECONDS [CHAIN_AND_KEY]".into()),
    };
    let target = Target::new(port.parse()?, chain_and_key)?;
    let (rate, seconds): (u32, u32) = (rate.parse()?, seconds.parse()?);
    let run = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(ask(&target, rate, seconds))?;
    print!("{}", run.text()?);
    Ok(())
}

/// What the child saw.
struct Run {
    took: Duration,
    /// Of each answer, in no order.
    times_us: Vec<u64>,
    /// Requests that were due when too many others were waiting already. They were not sent.
    given_up: u64,
}

/// Requests that are due, in order.
struct Queue {
    due: RefCell<VecDeque<Instant>>,
    is_over: Cell<bool>,
    changed: Notify,
    longest: usize,
}

async fn ask(target: &Target, rate: u32, seconds: u32) -> Outcome<Run> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = target.connect(Ipv4Addr::LOCALHOST).await?;
        client.get().await?;
        clients.push(client);
    }
    let queue = Queue {
        due: RefCell::default(),
        is_over: Cell::new(false),
        changed: Notify::new(),
        longest: (rate as usize * WAIT_MS_MAX / 1000).max(CONNECTIONS),
    };
    let asking = try_join_all(clients.into_iter().map(|client| queue.work_off(client)));
    let ((start, given_up), times) = try_join(queue.fill(rate, seconds), asking).await?;
    Ok(Run {
        took: start.elapsed(),
        times_us: times.into_iter().flatten().collect(),
        given_up,
    })
}

// === impl Queue ===

impl Queue {
    /// Puts requests in as they fall due; returns since when, and how many found it full.
    async fn fill(&self, rate: u32, seconds: u32) -> Outcome<(Instant, u64)> {
        let period = Duration::from_secs(1) / rate;
        let (mut timer, start) = every(period)?;
        let total = rate * seconds;
        let (mut begun, mut given_up) = (0, 0);
        while begun < total {
            // How often it was due since the last look, as eight bytes in the order of this machine. The buffer is larger,
            // so that tokio sees that there is no more without another try.
            let mut bytes = [0; 16];
            let read = timer.read(&mut bytes).await?;
            let eight = bytes.first_chunk().filter(|_| read == 8);
            let expirations = u64::from_ne_bytes(*eight.ok_or("the timer has no beat")?);
            let expirations = expirations.min(u64::from(total - begun));
            for _ in 0..expirations {
                begun += 1;
                let mut due = self.due.borrow_mut();
                if due.len() < self.longest {
                    due.push_back(start + period * begun);
                    self.changed.notify_one();
                } else {
                    given_up += 1;
                }
            }
        }
        self.is_over.set(true);
        self.changed.notify_waiters();
        Ok((start, given_up))
    }

    /// One connection: takes what is due next, again and again; returns what each took, in microseconds.
    async fn work_off(&self, mut client: Client) -> Outcome<Vec<u64>> {
        let mut times_us = Vec::new();
        loop {
            let next = self.due.borrow_mut().pop_front();
            match next {
                Some(due) => {
                    client.get().await?;
                    let took_us = due.elapsed().as_micros();
                    times_us.push(u64::try_from(took_us).unwrap_or(u64::MAX));
                }
                None if self.is_over.get() => return Ok(times_us),
                // Nothing comes between the look and the wait: all of this is one thread.
                None => self.changed.notified().await,
            }
        }
    }
}

/// A timer of the kernel that can be read every `period`, and since when; the first time is after one.
///
/// It is no pipe, but it is read as one, and tokio has no other way to wait for a descriptor of any kind without unsafe
/// code.
fn every(period: Duration) -> Outcome<(Receiver, Instant)> {
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
    )?;
    let period = Timespec::try_from(period)?;
    let beat = Itimerspec {
        it_interval: period,
        it_value: period,
    };
    let readable = Receiver::from_owned_fd_unchecked(timer.try_clone()?)?;
    let start = Instant::now();
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &beat)?;
    Ok((readable, start))
}

// === impl Run ===

impl Run {
    /// One `name: number` a line, as [`parse`] reads it.
    fn text(mut self) -> Outcome<String> {
        self.times_us.sort_unstable();
        let mut text = String::new();
        writeln!(text, "answered: {}", self.times_us.len())?;
        writeln!(text, "given up: {}", self.given_up)?;
        writeln!(text, "took us: {}", self.took.as_micros())?;
        writeln!(text, "p50 us: {}", load::percentile(&self.times_us, 50)?)?;
        writeln!(text, "p99 us: {}", load::percentile(&self.times_us, 99)?)?;
        Ok(text)
    }
}

/// None if requests were given up, or answered later and later.
fn parse(said: &str, rate: u32) -> Outcome<Option<Load>> {
    let number = |label| -> Outcome<u64> {
        let value = line(ROLE, said, label)?.trim_start_matches(label);
        Ok(value.trim().parse()?)
    };
    let (answered, given_up) = (number("answered:")?, number("given up:")?);
    let took = Duration::from_micros(number("took us:")?);
    let reached = answered as f64 / took.as_secs_f64();
    if given_up * GIVEN_UP_SHARE > answered || reached < f64::from(rate) * REACHED_SHARE {
        return Ok(None);
    }
    Ok(Some(Load {
        requests: answered,
        took,
        p50: Duration::from_micros(number("p50 us:")?),
        p99: Duration::from_micros(number("p99 us:")?),
    }))
}

/// More than are ever in use at half load, unless something stalls.
const CONNECTIONS: usize = 64;
/// So much may be due and wait before further requests are given up.
const WAIT_MS_MAX: usize = 250;
/// One in so many may be given up: less than what would move the 99th percentile by much.
const GIVEN_UP_SHARE: u64 = 500;
/// Of the rate: what is answered in the end, but so late, is a queue too.
const REACHED_SHARE: f64 = 0.9;

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What 1000 answers in 1.5 seconds are.
    const RATE: u32 = 666;

    fn run(given_up: u64) -> Run {
        Run {
            took: Duration::from_millis(1500),
            times_us: (1..=1000).rev().collect(),
            given_up,
        }
    }

    #[test]
    fn what_the_child_says_is_what_is_read() {
        let load = parse(&run(1).text().unwrap(), RATE).unwrap().unwrap();
        assert_eq!(load.requests, 1000);
        assert_eq!(load.took, Duration::from_millis(1500));
        assert_eq!(load.p50, Duration::from_micros(501));
        assert_eq!(load.p99, Duration::from_micros(991));
    }

    #[test]
    fn who_cannot_keep_up_has_no_latency() {
        let is_late = |run: Run, rate| parse(&run.text().unwrap(), rate).unwrap().is_none();
        assert!(!is_late(run(0), RATE) && !is_late(run(0), RATE + 70));
        assert!(is_late(run(3), RATE) && is_late(run(0), RATE + 80));
    }

    #[test]
    fn a_missing_line_is_an_error_and_never_a_zero() {
        let said = run(0).text().unwrap();
        for missing in said.lines() {
            let rest = said.replace(missing, "");
            assert!(parse(&rest, RATE).is_err(), "{missing}");
        }
    }
}
