//! The bench's own tests: the files of `main`, under Cargo's test harness, which a bench with a `main` of its own has not.

// What only `main` calls is not called here.
#![allow(dead_code)]

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

use outcome::Outcome;
