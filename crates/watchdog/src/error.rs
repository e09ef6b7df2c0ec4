//! The errors of this crate.

use std::path::{Path, PathBuf};

use crate::job::Tier;

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, to what, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file or directory.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The operating system refused an operation that concerns no file.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The host offers less containment than was asked for.
    #[error("this host offers tier {offered}, {required} was required: {reason}; see `estop doctor`, or require less")]
    TierTooLow {
        /// What the host offers.
        offered: Tier,
        /// What was asked for.
        required: Tier,
        /// Why it does not offer more.
        reason: String,
    },
    /// Neither the kernel nor the guardian can enforce a limit.
    #[error("nothing on this host enforces {limit}: {reason}; or do without it")]
    Unenforceable {
        /// The limit.
        limit: &'static str,
        /// Why, and what would help.
        reason: &'static str,
    },
    /// The program could not be started.
    #[error("cannot run {program}: {source}")]
    Exec {
        /// The program as it was given.
        program: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A job of that name is running.
    #[error("a job named {name} is already running: stop it, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// What a job's dead guardian left is not proven to be gone.
    #[error(
        "the guardian of an earlier {name} died, and {left}: `estop now {name}` looks again; or choose another name"
    )]
    Abandoned {
        /// The job's name.
        name: String,
        /// What is left of it.
        left: String,
    },
    /// The latch holds.
    #[error("latched since {since} ({reason}): nothing starts until `estop reset`")]
    Latched {
        /// When it was set, RFC 3339.
        since: String,
        /// Why it was set.
        reason: String,
    },
    /// A guardian did not answer in time.
    #[error("the guardian of {name} did not answer within {seconds:.1} s: `estop now {name}` stops the job without it")]
    NoAnswer {
        /// The job's name.
        name: String,
        /// How long was waited, in seconds.
        seconds: f64,
    },
    /// A guardian refused an order.
    #[error("the guardian of {name} refused: {reason}")]
    Refused {
        /// The job's name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Something that is not ours, or not understood, was found where a job's record should be.
    #[error("{path} is not a record of this estop: {detail}; it was left untouched", path = path.display())]
    Record {
        /// The file concerned.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
    /// A guardian ended without leaving an outcome.
    #[error("the guardian of {name} died: {detail}")]
    GuardianDied {
        /// The job's name.
        name: String,
        /// What is known of its end.
        detail: String,
        /// Its record of the job, if it had come that far: its program may have been at work.
        left: Option<Box<crate::registry::Entry>>,
    },
    /// The namespaces or the gate of a new process could not be set up.
    #[error("cannot contain the program: {0}")]
    Containment(String),
    /// A guardian could not start its program; in its own words.
    #[error("{0}")]
    NotStarted(String),
    /// A durable write failed.
    #[error(transparent)]
    Durable(#[from] estop_durable::Error),
}

/// Shorthand that names what was tried and on what.
pub(crate) trait Context<T> {
    fn on(self, action: &'static str, path: &Path) -> Result<T>;
    fn doing(self, action: &'static str) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Context<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: source.into() })
    }

    fn doing(self, action: &'static str) -> Result<T> {
        self.map_err(|source| Error::System { action, source: source.into() })
    }
}
