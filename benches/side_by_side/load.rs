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
    parse_wrk(&output("wrk", command)?)
}

fn parse_wrk(said: &str) -> Outcome<Load> {
    // `  8543 requests in 2.01s, 10.30MB read`, and only if there were any `  Socket errors: ...` or
    // `  Non-2xx or 3xx responses: ...`.
    if said.contains("errors:") || said.contains("Non-2xx") {
        return Err(format!("wrk saw failures:\n{said}").into());
    }
    let total = line("wrk", said, " requests in ")?;
    let (requests, rest) = total
        .split_once(" requests in ")
        .ok_or("wrk counted nothing")?;
    let took = rest.split(',').next().unwrap_or_default();
    let percentile = |label| {
        line("wrk", said, label).and_then(|text| duration(text.trim_start_matches(label).trim()))
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
    parse_h2load(&said, &fs::read_to_string(&log)?)
}

fn parse_h2load(said: &str, log: &str) -> Outcome<Load> {
    // `finished in 2.00s, 7487.50 req/s, 8.28MB/s`
    let finished = line("h2load", said, "finished in ")?;
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
    for request in log.lines() {
        let mut fields = request.split('\t').skip(1);
        match (fields.next(), fields.next()) {
            (Some("200"), Some(took_us)) => times.push(took_us.parse::<u64>()?),
            _ => return Err(format!("h2load saw a failure: {request}").into()),
        }
    }
    times.sort_unstable();
    Ok(Load {
        requests: times.len() as u64,
        took: duration(took)?,
        p50: Duration::from_micros(percentile(&times, 50)?),
        p99: Duration::from_micros(percentile(&times, 99)?),
    })
}

/// Of sorted figures, the one that `hundredths` of them are below.
///
/// # Errors
/// There are none.
pub fn percentile(sorted: &[u64], hundredths: usize) -> Outcome<u64> {
    let index = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    let found = sorted.get(index).copied();
    found.ok_or_else(|| "nothing was answered".into())
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
    parse_ab(&said, &fs::read_to_string(&percentiles)?)
}

fn parse_ab(said: &str, percentiles: &str) -> Outcome<Load> {
    let field = |label| line("ab", said, label).map(|text| text.trim_start_matches(label).trim());
    if field("Failed requests:")? != "0"
        || said.contains("Non-2xx")
        || field("Document Length:")? != "1024 bytes"
    {
        return Err(format!("ab saw failures:\n{said}").into());
    }
    let took = field("Time taken for tests:")?.trim_end_matches(" seconds");
    let percentile = |label| {
        line("ab", percentiles, label)
            .and_then(|text| duration(&format!("{}ms", &text[label.len()..])))
    };
    Ok(Load {
        requests: field("Complete requests:")?.parse()?,
        took: Duration::from_secs_f64(took.parse()?),
        p50: percentile("50,")?,
        p99: percentile("99,")?,
    })
}

/// Runs a generator to its end and returns what it printed.
pub fn output(name: &str, mut command: Command) -> Outcome<String> {
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
pub fn line<'a>(name: &str, said: &'a str, label: &str) -> Outcome<&'a str> {
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

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;

    const WRK: &str = "Running 2s test @ http://localhost:4000/1k
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.22ms    1.19ms  17.99ms   92.38%
    Req/Sec    29.86k     2.75k   33.72k    80.00%
  Latency Distribution
     50%    0.89ms
     75%    1.20ms
     90%    2.04ms
     99%    6.62ms
  59433 requests in 2.01s, 71.42MB read
Requests/sec:  29636.23
";
    const H2LOAD: &str = "starting benchmark...
Application protocol: h2

finished in 2.00s, 1.50 req/s, 8.28MB/s
requests: 3 total, 3 started, 3 done, 3 succeeded, 0 failed, 0 errored, 0 timeout
";
    const AB: &str = "Document Length:        1024 bytes
Concurrency Level:      16
Time taken for tests:   2.001 seconds
Complete requests:      1980
Failed requests:        0
";
    const AB_PERCENTILES: &str =
        "Percentage served,Time in ms\n0,3.1\n1,4.0\n50,15.790\n99,27.770\n";

    #[test]
    fn wrk_is_read() {
        let load = parse_wrk(WRK).unwrap();
        assert_eq!(load.requests, 59433);
        assert_eq!(load.took, Duration::from_millis(2010));
        assert_eq!(load.p50, Duration::from_micros(890));
        assert_eq!(load.p99, Duration::from_micros(6620));
    }

    #[test]
    fn h2load_is_read_with_its_log() {
        let load = parse_h2load(H2LOAD, "17\t200\t900\n18\t200\t500\n19\t200\t700\n").unwrap();
        assert_eq!((load.requests, load.took), (3, Duration::from_secs(2)));
        assert_eq!(load.p50, Duration::from_micros(700));
        assert_eq!(load.p99, Duration::from_micros(900));
    }

    #[test]
    fn ab_is_read_with_its_percentiles() {
        let load = parse_ab(AB, AB_PERCENTILES).unwrap();
        assert_eq!(
            (load.requests, load.took),
            (1980, Duration::from_millis(2001))
        );
        assert_eq!(load.p50, Duration::from_micros(15790));
        assert_eq!(load.p99, Duration::from_micros(27770));
    }

    #[test]
    fn a_failed_request_ends_the_run() {
        let failures = "  Non-2xx or 3xx responses: 3\n";
        assert!(parse_wrk(&format!("{WRK}{failures}")).is_err());
        assert!(parse_wrk(&format!("{WRK}  Socket errors: connect 0, read 1\n")).is_err());
        assert!(parse_h2load(H2LOAD, "17\t503\t900\n").is_err());
        assert!(parse_h2load(&H2LOAD.replace("0 errored", "1 errored"), "").is_err());
        assert!(parse_h2load(&H2LOAD.replace("l: h2", "l: http/1.1"), "17\t200\t9\n").is_err());
        assert!(parse_ab(&AB.replace("        0", "        1"), AB_PERCENTILES).is_err());
        assert!(parse_ab(&AB.replace("1024", "153"), AB_PERCENTILES).is_err());
    }

    #[test]
    fn what_was_not_said_is_an_error_and_never_a_zero() {
        for needed in ["50%", "99%", "requests in"] {
            assert!(parse_wrk(&WRK.replace(needed, "?")).is_err(), "{needed}");
        }
        assert!(parse_h2load(H2LOAD, "").is_err());
        assert!(parse_h2load(&H2LOAD.replace("finished in", "?"), "17\t200\t9\n").is_err());
        assert!(parse_ab(AB, "50,1.0\n").is_err());
        for needed in ["Complete", "Time taken", "Document"] {
            assert!(parse_ab(&AB.replace(needed, "?"), AB_PERCENTILES).is_err());
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("812us").unwrap(), Duration::from_micros(812));
        assert_eq!(duration("1.50m").unwrap(), Duration::from_secs(90));
        assert!(duration("812").is_err() && duration("1h").is_err());
    }
}
