//! The two slots of a site.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the two places where a release of a site runs. In text: `blue` or `green`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// `blue`
    Blue,
    /// `green`
    Green,
}

impl Slot {
    /// Both slots, blue first.
    pub const BOTH: [Slot; 2] = [Slot::Blue, Slot::Green];

    /// The slot that this one is not.
    pub fn other(self) -> Slot {
        match self {
            Slot::Blue => Slot::Green,
            Slot::Green => Slot::Blue,
        }
    }

    /// `blue` or `green`.
    pub fn as_str(self) -> &'static str {
        match self {
            Slot::Blue => "blue",
            Slot::Green => "green",
        }
    }

    /// Blue is 0, green is 1: the place in a two-element array.
    pub fn index(self) -> usize {
        match self {
            Slot::Blue => 0,
            Slot::Green => 1,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is neither `blue` nor `green`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no slot: it is blue or green")]
pub struct NotASlot(pub String);

impl FromStr for Slot {
    type Err = NotASlot;

    fn from_str(text: &str) -> Result<Slot, NotASlot> {
        match text {
            "blue" => Ok(Slot::Blue),
            "green" => Ok(Slot::Green),
            _ => Err(NotASlot(text.to_owned())),
        }
    }
}
