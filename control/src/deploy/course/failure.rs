//! Why a deploy failed, and what to do about it.
//!
//! Owns the shape. Errors that know what to do about themselves bring it along.

use crate::deploy::container;
use crate::deploy::course::with_sources;
use crate::deploy::hands::Trouble;
use crate::deploy::machine;
use crate::deploy::steps::Step;
use crate::deploy::way_back;
use crate::slot::Slot;

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

impl<E: MaybeTrouble> From<E> for FailureCause {
    fn from(error: E) -> FailureCause {
        FailureCause {
            error: error.said(),
            hint: error.hint().map(str::to_owned),
            is_unreachable: error.is_unreachable(),
        }
    }
}

/// Errors, some of which know what to do about them.
pub(crate) trait MaybeTrouble: ToString {
    /// What it says, with its causes.
    fn said(&self) -> String {
        self.to_string()
    }
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
    fn said(&self) -> String {
        with_sources(self)
    }
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

    /// The step failed, and its release is active all the same.
    pub(super) fn of_an_active_release(mut self, slot: Slot) -> Failure {
        self.error = format!("{}; {slot} is active all the same", self.error);
        self.hint = Some("`mana-proxy deploy --rollback` undoes it".to_owned());
        self
    }

    /// The container that the hint is about is not there any more.
    pub(super) fn without_container(mut self) -> Failure {
        if !self.last_log.is_empty() {
            self.hint = None;
        }
        self
    }
}
