//! `[recovery]`: what is put right after a `CRITICAL_STOP`.

use std::collections::BTreeSet;

use estop_recovery::{Settings, StepKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::Period;

/// What is put right after a `CRITICAL_STOP`, and what of it waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// What is done once the stop is proven. `rollback` puts back the stores that the workload has under `protect`, `rotate` replaces the
    /// secrets that it was given, `restart` starts it again (which always waits for a person).
    #[serde(default = "Recovery::default_steps")]
    pub on_critical_stop: Vec<Repair>,
    /// What of it waits for `estop incident approve`.
    #[serde(default)]
    pub approval: Vec<Repair>,
    /// The longest time to gather evidence before the kill.
    #[serde(default = "Recovery::default_capture_max")]
    pub capture_max: Period,
}

/// Something that a recovery can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Repair {
    /// Put the stores back.
    Rollback,
    /// Replace the exposed secrets.
    Rotate,
    /// Start the workloads again.
    Restart,
}

impl Repair {
    /// The step of an incident that does it.
    pub fn step(self) -> StepKind {
        match self {
            Self::Rollback => StepKind::Rollback,
            Self::Rotate => StepKind::Rotate,
            Self::Restart => StepKind::Restart,
        }
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self { on_critical_stop: Self::default_steps(), approval: Vec::new(), capture_max: Self::default_capture_max() }
    }
}

impl Recovery {
    fn default_steps() -> Vec<Repair> {
        vec![Repair::Rollback, Repair::Rotate]
    }

    fn default_capture_max() -> Period {
        Period::from_secs(2)
    }

    /// What a recovery is planned from, for workloads that protect these stores and were given these secrets.
    pub fn settings(&self, protected: BTreeSet<String>, exposed: BTreeSet<String>) -> Settings {
        let wanted = |repair| self.on_critical_stop.contains(&repair);
        let chosen =
            |repair, names: BTreeSet<String>| if wanted(repair) { names.into_iter().collect() } else { Vec::new() };
        Settings {
            rollback: chosen(Repair::Rollback, protected),
            rotate: chosen(Repair::Rotate, exposed),
            restart: wanted(Repair::Restart),
            approval: self.approval.iter().map(|repair| repair.step()).collect(),
            capture_limit: self.capture_max.duration(),
            ..Settings::default()
        }
    }
}
