//! A deploy: a new release into the standby slot, tried, made active, watched, and undone if it is no good.
//!
//! Owns what a deploy is and in which order it happens: [`course`] is one deploy from top to bottom. What it does it does
//! through [`Hands`](hands::Hands): the engine (`docker`, compose), the daemon (its socket), the clock. Which slot is live is the daemon's
//! word, images and containers are the engine's, history is the [`ledger`](ledger::Ledger)'s. Knows neither the
//! command line nor who is sent messages.

pub mod commands;
pub mod conduct;
pub mod container;
pub mod course;
pub mod engine;
pub mod hands;
pub mod image;
pub mod ledger;
pub mod lock;
pub mod machine;
pub mod page;
pub mod prune;
pub mod reconcile;
pub mod run;
pub mod settings;
pub mod steps;
pub mod warm_up;
pub mod watch;
pub mod way_back;

#[cfg(test)]
mod course_tests;
#[cfg(test)]
mod fake;
