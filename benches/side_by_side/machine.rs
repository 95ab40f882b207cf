//! The machine and the versions that a run was made with, as text to keep beside the figures.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::Outcome;
use crate::contender::{Contender, mana_proxy_binary, sozu_binary};

/// One fact a line, as `what: value`. Versions are of those that take part.
pub fn describe(contenders: &[Contender]) -> Outcome<String> {
    let binary = mana_proxy_binary();
    let binary = binary
        .to_str()
        .ok_or("the path of the binary is not UTF-8")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let cores = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let sum = first_line("sha256sum", &[binary])?;

    let mut text = String::new();
    writeln!(
        text,
        "cpu: {}",
        value_of(&cpuinfo, "model name").unwrap_or("unknown")
    )?;
    writeln!(text, "cores: {cores}")?;
    writeln!(
        text,
        "memory: {}",
        value_of(&fs::read_to_string("/proc/meminfo")?, "MemTotal").unwrap_or("unknown")
    )?;
    writeln!(text, "kernel: {}", first_line("uname", &["-srm"])?)?;
    writeln!(text, "mana-proxy: {}", first_line(binary, &["--version"])?)?;
    writeln!(
        text,
        "mana-proxy binary, sha256: {}",
        sum.split_whitespace().next().unwrap_or_default()
    )?;
    writeln!(
        text,
        "bench at commit: {}",
        first_line("git", &["describe", "--always", "--dirty"])?
    )?;
    let sozu = sozu_binary();
    let sozu = sozu.to_str().ok_or("the path of sozu is not UTF-8")?;
    let peers = contenders.iter().filter_map(|contender| match contender {
        Contender::Haproxy => Some(("haproxy", "-v")),
        Contender::Caddy => Some(("caddy", "version")),
        Contender::Sozu => Some(("sozu", "--version")),
        // nginx is the upstream too, and always there.
        Contender::NginxLegacy
        | Contender::NginxTuned
        | Contender::ManaProxy
        | Contender::Relay
        | Contender::Direct => None,
    });
    let others = [
        ("nginx", "-v"),
        ("wrk", "-v"),
        ("h2load", "--version"),
        ("ab", "-V"),
        ("rustc", "-V"),
    ];
    for (program, flag) in peers.chain(others) {
        // Kept by its name: where it is on this machine says nothing about the figures.
        let called = if program == "sozu" { sozu } else { program };
        writeln!(text, "{program}: {}", first_line(called, &[flag])?)?;
    }
    writeln!(text, "load average at the start: {}", load_average()?)?;
    Ok(text)
}

/// How many wanted to run, over 1, 5 and 15 minutes. Far above one, somebody else was at work here.
pub fn load_average() -> Outcome<String> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" "))
}

/// The current time in UTC, fit for the name of a directory: `2026-01-31-2359`.
pub fn date() -> Outcome<String> {
    first_line("date", &["-u", "+%Y-%m-%d-%H%M"])
}

/// `name : value` of a file in `/proc`.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

/// What a program says first, on whichever stream; some exit with 1 after telling their version.
fn first_line(program: &str, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let said = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let said = String::from_utf8_lossy(&said);
    Ok(said.lines().next().unwrap_or_default().trim().to_owned())
}
