//! The words of the stop protocol, and its answer.
//!
//! Stop categories follow IEC 60204-1: 0 is an immediate kill, 1 asks and waits before the kill, 2 freezes and holds.

use serde::{Deserialize, Serialize};

use crate::job::{Isolation, Tier};

/// How a job is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum Category {
    /// 0: kill at once.
    Kill,
    /// 1: ask, wait for the grace, then kill.
    Ask,
}

impl From<Category> for u8 {
    fn from(category: Category) -> Self {
        match category {
            Category::Kill => 0,
            Category::Ask => 1,
        }
    }
}

impl TryFrom<u8> for Category {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Kill),
            1 => Ok(Self::Ask),
            _ => Err(format!("there is no stop category {number}: 0 kills at once, 1 asks first")),
        }
    }
}

/// Who or what ended a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedBy {
    /// A limit was breached.
    Limit,
    /// Somebody asked for a stop.
    Operator,
    /// It did not do its work any more, or never began to: it may be started again.
    Health,
    /// `CRITICAL_STOP`: by order, or by a limit whose breach calls for it.
    CriticalStop,
}

/// A process that outlived a stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survivor {
    /// Its process ID.
    pub pid: u32,
    /// When it was started, in clock ticks since boot: with the PID it names one process.
    pub start_time: u64,
    /// Its command name.
    pub command: String,
    /// Its state, as `/proc` names it: `D` is uninterruptible sleep.
    pub state: String,
    /// What it waits for in the kernel.
    pub wait_channel: String,
    /// Where it waits, innermost first, as the kernel tells root; of one in uninterruptible sleep only.
    #[serde(default)]
    pub stack: Vec<String>,
}

/// How long each part of a stop took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phases {
    /// Setting the latch.
    pub latch_seconds: f64,
    /// Freezing the job.
    pub freeze_seconds: f64,
    /// Waiting for the evidence.
    pub capture_seconds: f64,
    /// From the first kill to the proof.
    pub kill_seconds: f64,
}

/// The answer to a stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StopReport {
    /// The job's name.
    pub name: String,
    /// How strong its containment was.
    pub tier: Tier,
    /// What a hostile workload could still reach.
    pub isolation: Isolation,
    /// How it was stopped in the end: 0 also where asking first had not helped.
    pub category: Category,
    /// How many processes it had.
    pub processes_before: u64,
    /// What outlived the stop.
    pub survivors: Vec<Survivor>,
    /// How many more did than are listed.
    #[serde(default)]
    pub survivors_omitted: u64,
    /// Whether nothing of the job is left. Never claimed without [`StopReport::proof`].
    pub proven_empty: bool,
    /// What proves it: the kernel's word that the job is empty, and why nothing left it.
    pub proof: Vec<String>,
    /// From the order to the proof, in seconds.
    pub stop_seconds: f64,
    /// How long each part took.
    pub phases: Phases,
    /// Whether the latch was written to the device; `None` where the stop sets no latch.
    pub latch_durable: Option<bool>,
}
