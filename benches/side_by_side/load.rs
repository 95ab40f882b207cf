//! The load generators: how each is called, and what it said, in one shape.
//!
//! A line that is missing or reads otherwise is an error, never a zero.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::Outcome;
use crate::bed::HOST;
use crate::process::pinned;

/// What a generator measured. Every request counted here was answered with 200.
#[derive(Debug)]
pub struct Load {
    pub requests: u64,
    pub took: Duration,
    pub p50: Duration,
    pub p99: Duration,
}

/// HTTP/1.1 with `connections` of one request at a time.
pub fn wrk(core: usize, url: &str, connections: u32, more: &[&str], seconds: u32) -> Outcome<Load> {
    let mut command = pinned(core, Path::new("wrk"));
    command
        .args(["--threads", "1", "--latency", "--timeout", "10s"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .args(more)
        .arg(url);
    let said = output("wrk", command)?;
    // `  8543 requests in 2.01s, 10.30MB read`, and only if there were any `  Socket errors: ...` or
    // `  Non-2xx or 3xx responses: ...`.
    if said.contains("errors:") || said.contains("Non-2xx") {
        return Err(format!("wrk saw failures on {url}:\n{said}").into());
    }
    let total = line("wrk", &said, " requests in ")?;
    let (requests, rest) = total
        .split_once(" requests in ")
        .ok_or("wrk counted nothing")?;
    let took = rest.split(',').next().unwrap_or_default();
    let percentile = |label| {
        line("wrk", &said, label).and_then(|text| duration(text.trim_start_matches(label).trim()))
    };
    Ok(Load {
        requests: requests.trim().parse()?,
        took: duration(took)?,
        p50: percentile("50%")?,
        p99: percentile("99%")?,
    })
}

/// HTTP/2 over TLS with `connections` of `streams` requests at a time.
pub fn h2load(
    core: usize,
    port: u16,
    connections: u32,
    streams: u32,
    directory: &Path,
    seconds: u32,
) -> Outcome<Load> {
    // `start-us <TAB> status <TAB> took-us` for each request; h2load itself tells no percentiles. It appends.
    let log = directory.join("h2load.log");
    if log.exists() {
        fs::remove_file(&log)?;
    }
    let mut command = pinned(core, Path::new("h2load"));
    command
        .args(["--clients", &connections.to_string()])
        .args(["--max-concurrent-streams", &streams.to_string()])
        .args(["--duration", &seconds.to_string()])
        .arg(format!("--connect-to=127.0.0.1:{port}"))
        .arg("--log-file")
        .arg(&log)
        .arg(format!("https://{HOST}:{port}/1k"));
    let said = output("h2load", command)?;
    // `finished in 2.00s, 7487.50 req/s, 8.28MB/s`
    let finished = line("h2load", &said, "finished in ")?;
    let took = finished
        .trim_start_matches("finished in ")
        .split(',')
        .next()
        .unwrap_or_default();
    if !said.contains("Application protocol: h2")
        || !said.contains(" 0 failed, 0 errored, 0 timeout")
    {
        return Err(format!("h2load saw failures:\n{said}").into());
    }
    let mut times = Vec::new();
    for request in fs::read_to_string(&log)?.lines() {
        let mut fields = request.split('\t').skip(1);
        match (fields.next(), fields.next()) {
            (Some("200"), Some(took_us)) => times.push(took_us.parse::<u64>()?),
            _ => return Err(format!("h2load saw a failure: {request}").into()),
        }
    }
    times.sort_unstable();
    let percentile = |hundredths: usize| {
        let index = (times.len() * hundredths / 100).min(times.len().saturating_sub(1));
        times
            .get(index)
            .copied()
            .map(Duration::from_micros)
            .ok_or("h2load counted nothing")
    };
    Ok(Load {
        requests: times.len() as u64,
        took: duration(took)?,
        p50: percentile(50)?,
        p99: percentile(99)?,
    })
}

/// HTTP/1.0 over TLS 1.3, a new connection without a session for each request.
pub fn ab(
    core: usize,
    port: u16,
    connections: u32,
    directory: &Path,
    seconds: u32,
) -> Outcome<Load> {
    // `percent,milliseconds` for 0 to 100 %; what it prints is rounded to milliseconds.
    let percentiles = directory.join("ab.csv");
    let mut command = pinned(core, Path::new("ab"));
    command
        .args(["-q", "-f", "TLS1.3", "-c", &connections.to_string()])
        // -t also sets a count, so the count comes after it.
        .args(["-t", &seconds.to_string(), "-n", "1000000"])
        .args(["-H", &format!("Host: {HOST}")])
        .arg("-e")
        .arg(&percentiles)
        .arg(format!("https://127.0.0.1:{port}/1k"));
    let said = output("ab", command)?;
    let field = |label| line("ab", &said, label).map(|text| text.trim_start_matches(label).trim());
    if field("Failed requests:")? != "0"
        || said.contains("Non-2xx")
        || field("Document Length:")? != "1024 bytes"
    {
        return Err(format!("ab saw failures:\n{said}").into());
    }
    let took = field("Time taken for tests:")?.trim_end_matches(" seconds");
    let table = fs::read_to_string(&percentiles)?;
    let percentile = |label| {
        line("ab", &table, label).and_then(|text| duration(&format!("{}ms", &text[label.len()..])))
    };
    Ok(Load {
        requests: field("Complete requests:")?.parse()?,
        took: Duration::from_secs_f64(took.parse()?),
        p50: percentile("50,")?,
        p99: percentile("99,")?,
    })
}

/// Runs a generator to its end and returns what it printed.
fn output(name: &str, mut command: Command) -> Outcome<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let shown: Vec<&str> = complaint.lines().take(10).collect();
        return Err(format!(
            "{name} failed: {}\n{said}{}",
            output.status,
            shown.join("\n")
        )
        .into());
    }
    Ok(said)
}

/// The line that begins with a label, or else has it inside, without spaces around it.
fn line<'a>(name: &str, said: &'a str, label: &str) -> Outcome<&'a str> {
    let mut lines = said.lines().map(str::trim);
    lines
        .clone()
        .find(|line| line.starts_with(label))
        .or_else(|| lines.find(|line| line.contains(label)))
        .ok_or_else(|| format!("{name} did not say `{label}`:\n{said}").into())
}

/// `812us`, `7.68ms`, `2.01s` or `1.02m`.
fn duration(text: &str) -> Outcome<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let seconds = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("not a duration: `{text}`").into()),
    };
    Ok(Duration::from_secs_f64(digits.parse::<f64>()? * seconds))
}
