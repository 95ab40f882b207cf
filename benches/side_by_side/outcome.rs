//! How anything here fails.

use std::error::Error;

/// What went wrong, for the person who reads the terminal; nothing here is handled by kind.
pub type Outcome<T> = Result<T, Box<dyn Error>>;
