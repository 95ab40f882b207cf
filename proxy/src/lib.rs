//! lib

pub mod demo;
