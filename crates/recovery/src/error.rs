//! What can go wrong with an incident's record.

use std::path::PathBuf;

use crate::incident::{IncidentId, Outcome, StepKind};

/// An incident could not be read, recorded or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be written or read.
    #[error(transparent)]
    Durable(#[from] estop_durable::Error),
    /// The folder of incidents could not be read.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checksum holds, but the content is not an incident that this version understands.
    #[error(
        "incident file {} can't be understood: {detail}; it was left as it is (move it away, or use the estop that wrote it)",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// No incident has an id that begins like this.
    #[error("no incident begins with '{prefix}' in {}; `estop incident list` shows all", dir.display())]
    NotFound {
        /// What was asked for.
        prefix: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// More than one incident begins like this.
    #[error("'{prefix}' fits {} incidents ({}); give more of the id", ids.len(), list(ids))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The incidents that it fits.
        ids: Vec<IncidentId>,
    },
    /// Another process, or another thread of this one, is working on the incident.
    #[error("incident {id} is being worked on by another estop; `estop incident follow {id}` watches it")]
    Busy {
        /// The incident.
        id: IncidentId,
    },
    /// The incident is over.
    #[error("incident {id} is closed ({outcome}); nothing of it is left to do")]
    Closed {
        /// The incident.
        id: IncidentId,
        /// How it ended.
        outcome: Outcome,
    },
    /// An incident can't be given up before its workloads were stopped.
    #[error("incident {id} can't be aborted before its stop was carried out; run `estop incident resume {id}` first")]
    StopOutstanding {
        /// The incident.
        id: IncidentId,
    },
    /// No step of the incident waits for a person.
    #[error("no step of incident {id} waits for an approval{}", kind(*step))]
    NothingToApprove {
        /// The incident.
        id: IncidentId,
        /// The step that was named, if one was.
        step: Option<StepKind>,
    },
    /// A plan's steps don't make sense together.
    #[error("the recovery plan is not valid: {detail}")]
    InvalidPlan {
        /// Why.
        detail: String,
    },
    /// A record did not become durable while there was time to wait for it.
    #[error("incident {id} was not recorded within {waited_seconds:.1} s; the recovery went on without its record")]
    RecordTooSlow {
        /// The incident.
        id: IncidentId,
        /// How long it was waited for.
        waited_seconds: f64,
    },
    /// The thread that records the incident is gone.
    #[error("incident {id} can't be recorded any more: its recorder ended unexpectedly")]
    RecorderGone {
        /// The incident.
        id: IncidentId,
    },
}

fn list(ids: &[IncidentId]) -> String {
    let shown: Vec<String> = ids.iter().take(5).map(ToString::to_string).collect();
    let more = if ids.len() > shown.len() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn kind(step: Option<StepKind>) -> String {
    step.map_or_else(String::new, |step| format!(" of '{step}'"))
}
