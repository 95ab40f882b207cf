//! On what kind of machine this runs: what a count depends on beside the product.

use std::process::Command;

use crate::Outcome;
use crate::stored::Machine;

/// The kind of machine that this runs on.
///
/// # Errors
/// valgrind, getconf or rustc cannot be run.
pub fn here() -> Outcome<Machine> {
    let this = std::env::current_exe()?;
    let this = this
        .to_str()
        .ok_or("the path of this program is not UTF-8")?;
    Ok(Machine {
        cpu: line("valgrind", &["-q", "--tool=none", this, CPU])?,
        valgrind: line("valgrind", &["--version"])?,
        libc: line("getconf", &["GNU_LIBC_VERSION"])?,
        rustc: line("rustc", &["--version"])?,
    })
}

/// The argument with which this program prints [`cpu`] and ends: valgrind runs it so.
pub const CPU: &str = "--cpu";

/// The processor as this process sees it.
pub fn cpu() -> String {
    let mut words = vec![std::env::consts::ARCH];
    words.extend(features());
    words.join(" ")
}

/// What libraries of ciphers, hashes and memory look for.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! seen {
        ($($name:tt)*) => {
            [$(($name, std::arch::is_x86_feature_detected!($name))),*]
        };
    }
    let seen = seen!["ssse3" "sse4.1" "sse4.2" "aes" "pclmulqdq" "sha" "popcnt" "avx" "avx2" "bmi1" "bmi2" "adx"
        "fma" "movbe" "rdrand" "rdseed" "vaes" "vpclmulqdq" "avx512f" "avx512bw" "avx512vl"];
    seen.into_iter()
        .filter_map(|(name, is_seen)| is_seen.then_some(name))
        .collect()
}

/// What libraries of ciphers, hashes and memory look for.
#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    macro_rules! seen {
        ($($name:tt)*) => {
            [$(($name, std::arch::is_aarch64_feature_detected!($name))),*]
        };
    }
    let seen = seen!["aes" "pmull" "sha2" "sha3" "crc" "lse" "sve"];
    seen.into_iter()
        .filter_map(|(name, is_seen)| is_seen.then_some(name))
        .collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// What a program prints, which is one line.
fn line(program: &str, arguments: &[&str]) -> Outcome<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} has failed: {}", said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
