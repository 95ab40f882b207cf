//! Why a deploy failed, and what to do about it.
//!
//! Owns the shape. Errors that know what to do about themselves bring it along.

use crate::deploy::container;
use crate::deploy::course::Before;
use crate::deploy::hands::Trouble;
use crate::deploy::machine;
use crate::deploy::steps::Step;
use crate::deploy::way_back;

/// Why a deploy failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub step: Step,
    /// Why.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The last lines of the container.
    pub last_log: Vec<String>,
    /// Whether the daemon could not be reached at all.
    pub is_unreachable: bool,
}

/// What a failure is made of.
pub(crate) struct FailureCause {
    pub(super) error: String,
    pub(super) hint: Option<String>,
    pub(super) is_unreachable: bool,
}

impl<E: ToString + MaybeTrouble> From<E> for FailureCause {
    fn from(error: E) -> FailureCause {
        FailureCause {
            error: error.to_string(),
            hint: error.hint().map(str::to_owned),
            is_unreachable: error.is_unreachable(),
        }
    }
}

/// Errors, some of which know what to do about them.
pub(crate) trait MaybeTrouble {
    /// What to do about it.
    fn hint(&self) -> Option<&str> {
        None
    }
    /// Whether the daemon could not be asked at all.
    fn is_unreachable(&self) -> bool {
        false
    }
}

impl MaybeTrouble for &str {}
impl MaybeTrouble for String {}
impl MaybeTrouble for container::Unfit {}
impl MaybeTrouble for machine::Scarce {}
impl MaybeTrouble for way_back::NoWayBack {}
impl MaybeTrouble for Trouble {
    fn hint(&self) -> Option<&str> {
        Trouble::hint(self)
    }
    fn is_unreachable(&self) -> bool {
        Trouble::is_unreachable(self)
    }
}

// === impl Failure ===

impl Failure {
    pub(super) fn or_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = self.hint.or_else(|| Some(hint.into()));
        self
    }

    /// What it means for the site that the step failed.
    pub(super) fn about_a_switch(mut self, is_active: bool, before: &Before) -> Failure {
        if is_active {
            self.error = format!("{}; {} is active all the same", self.error, before.to);
            self.hint = Some("`mana-proxy deploy --rollback` undoes it".to_owned());
        }
        self
    }
}
