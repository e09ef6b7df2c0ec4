#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod actions;
pub mod audit;
pub mod error;
pub mod incident;
mod passage;
pub mod plan;
mod recorder;
pub mod saga;
mod steps;
pub mod store;

pub use actions::{Actions, Answer, Failure, Order, Stopped};
pub use audit::{CriticalFailure, CriticalFailureLog};
pub use error::Error;
pub use incident::{Detail, Incident, IncidentId, Outcome, Step, StepKind, StepState, Trigger};
pub use plan::{Plan, PlannedStep, Settings};
pub use saga::{Control, Event, Run, Saga};
pub use store::{Claim, IncidentStore, Journal, Listing};

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The version of every JSON object that this crate writes.
pub const SCHEMA_VERSION: u32 = 1;
