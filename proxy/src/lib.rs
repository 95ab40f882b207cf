//! lib

pub mod cli;
pub mod config;
