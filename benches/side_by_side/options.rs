//! What the command line asks for.

use crate::Outcome;
use crate::contender::Contender;
use crate::scenario::Scenario;

/// A run.
#[derive(Debug)]
pub struct Options {
    /// How often each scenario is measured on each contender.
    pub rounds: u32,
    /// How long each measurement loads the contender.
    pub seconds: u32,
    /// Whether the raw figures are written to `benches/runs/`.
    pub keep: Keep,
    /// Who is measured, in the order of [`Contender::ALL`].
    pub contenders: Vec<Contender>,
    /// What is asked, in the order of [`Scenario::ALL`].
    pub scenarios: Vec<Scenario>,
}

/// Whether a run leaves files.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    Run,
    Nothing,
}

// === impl Options ===

impl Options {
    /// See [`USAGE`]. Cargo adds `--bench`, which says nothing new.
    ///
    /// # Errors
    /// An option is unknown, or what it wants is missing or wrong.
    pub fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
        let mut options = Options {
            rounds: ROUNDS,
            seconds: SECONDS,
            keep: Keep::Run,
            contenders: usual(),
            scenarios: Scenario::ALL.to_vec(),
        };
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_default();
            match argument.as_str() {
                "--bench" => {}
                "--quick" => {
                    options.rounds = 1;
                    options.keep = Keep::Nothing;
                }
                "--rounds" => options.rounds = number(&argument, &value(), ROUNDS_MAX)?,
                "--seconds" => options.seconds = number(&argument, &value(), SECONDS_MAX)?,
                "--only" => {
                    options.contenders =
                        chosen(&argument, &value(), &Contender::ALL, Contender::name)?;
                }
                "--scenario" => {
                    options.scenarios =
                        chosen(&argument, &value(), &Scenario::ALL, Scenario::name)?;
                }
                _ => return Err(format!("unknown option {argument}; there are {USAGE}").into()),
            }
        }
        Ok(options)
    }
}

fn usual() -> Vec<Contender> {
    let all = Contender::ALL.into_iter();
    all.filter(|one| one.is_usual()).collect()
}

fn number(option: &str, text: &str, most: u32) -> Outcome<u32> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("{option} wants a number from 1 to {most}").into()),
    }
}

/// Those of `all` whose names are in a list with commas.
fn chosen<T: Copy>(
    option: &str,
    list: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Outcome<Vec<T>> {
    let wanted: Vec<&str> = list.split(',').map(str::trim).collect();
    let known: Vec<&str> = all.iter().map(|one| name(*one)).collect();
    if let Some(unknown) = wanted.iter().find(|one| !known.contains(one)) {
        return Err(format!(
            "{option} does not know `{unknown}`; it knows {}",
            known.join(",")
        )
        .into());
    }
    let is_wanted = |one: &&T| wanted.contains(&name(**one));
    Ok(all.iter().filter(is_wanted).copied().collect())
}

const USAGE: &str =
    "--quick, --rounds N, --seconds N, --only CONTENDER,... and --scenario SCENARIO,...";
/// Odd, so that the median is one that was measured.
const ROUNDS: u32 = 5;
const ROUNDS_MAX: u32 = 99;
/// Two seconds are some ten thousand requests, and enough.
const SECONDS: u32 = 2;
const SECONDS_MAX: u32 = 60;

#[cfg(test)]
#[allow(dead_code, unused_imports, clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(line: &str) -> Outcome<Options> {
        Options::from_arguments(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn everything_is_measured_and_kept_unless_told_otherwise() {
        let all = options("--bench").unwrap();
        assert_eq!((all.rounds, all.keep), (ROUNDS, Keep::Run));
        assert_eq!(all.contenders, usual());
        assert_eq!(all.scenarios, Scenario::ALL);
        let quick = options("--quick --seconds 3").unwrap();
        assert_eq!(
            (quick.rounds, quick.seconds, quick.keep),
            (1, 3, Keep::Nothing)
        );
    }

    #[test]
    fn some_are_chosen_by_name_and_measured_in_the_usual_order() {
        let some = options("--only haproxy,nginx-tuned --scenario h2-tls-1k").unwrap();
        assert_eq!(some.contenders, [Contender::NginxTuned, Contender::Haproxy]);
        assert_eq!(some.scenarios, [Scenario::H2Tls]);
    }

    #[test]
    fn what_is_unknown_or_out_of_range_is_refused() {
        for line in [
            "--rounds 0",
            "--rounds",
            "--seconds 61",
            "--only apache",
            "--only",
            "--scenario h1-plain-1k,",
            "--fast",
        ] {
            assert!(options(line).is_err(), "{line}");
        }
    }
}
