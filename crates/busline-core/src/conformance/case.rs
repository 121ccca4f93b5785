//! A case of the contract, and how it fails.

use std::fmt;

use futures_util::future::BoxFuture;

use super::world::World;
use crate::capability::{Capability, Durability};
use crate::error::Error;
use crate::receipt::PublishError;

/// One guarantee, shown by running it.
pub struct Case {
    /// Its name, unique in the suite.
    pub name: &'static str,
    /// The promise that it belongs to.
    pub capability: Capability,
    /// Further promises without which it cannot run.
    pub also: &'static [Capability],
    /// The least durability without which it has no meaning.
    pub durability_min: Durability,
    /// What it shows, in a sentence.
    pub statement: &'static str,
    /// The case itself.
    pub run: fn(World) -> BoxFuture<'static, Result<(), Failure>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a case did not pass.
#[derive(Debug, Clone)]
pub struct Failure {
    pub(super) why: String,
    pub(super) skipped: bool,
}

impl Failure {
    /// What was expected and what came instead.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), skipped: false }
    }

    /// The case has no meaning here, and why.
    pub fn skip(why: impl Into<String>) -> Self {
        Self { why: why.into(), skipped: true }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        Self::new(error.to_string())
    }
}

/// What a case comes to.
pub(super) type Outcome = Result<(), Failure>;

/// Fails the case unless the condition holds.
macro_rules! check {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::new(format!($($why)+)));
        }
    };
}

/// Fails the case unless both are equal.
macro_rules! check_eq {
    ($found:expr, $wanted:expr, $($what:tt)+) => {
        match (&$found, &$wanted) {
            (found, wanted) => {
                if *found != *wanted {
                    let what = format!($($what)+);
                    return Err($crate::conformance::Failure::new(format!(
                        "{what}: found {found:?}, wanted {wanted:?}"
                    )));
                }
            }
        }
    };
}

/// The registry of one file: promise, name, what it shows, what else it needs.
macro_rules! registry {
    ($($capability:ident $name:ident $statement:literal
        $(also $($also:ident)+)? $(durable $durability:ident)?;)+) => {
        pub(super) const CASES: &[$crate::conformance::Case] = &[$(
            $crate::conformance::Case {
                name: stringify!($name),
                capability: $crate::capability::Capability::$capability,
                also: &[$($($crate::capability::Capability::$also),+)?],
                durability_min: registry!(@least $($durability)?),
                statement: $statement,
                run: |world| Box::pin($name(world)),
            },
        )+];
    };
    (@least) => { $crate::capability::Durability::Memory };
    (@least $durability:ident) => { $crate::capability::Durability::$durability };
}

pub(super) use {check, check_eq, registry};
