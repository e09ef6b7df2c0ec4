//! Why a command failed, in the form that its caller gets: exit code, kind, message, hint.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::config::ConfigError;

/// The exit codes of every command but `run`, which has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Done, and proven where proof is promised.
    Done = 0,
    /// Failed; the message says what and what to do.
    Failed = 1,
    /// Usage or configuration error; nothing was changed.
    Usage = 2,
    /// Not proven or not complete.
    NotProven = 3,
    /// Refused: latched, tier too low, or another estop holds the lock.
    Refused = 4,
    /// A service that is needed cannot be reached.
    Unreachable = 5,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    /// One word or a few joined by hyphens, for programs.
    pub kind: &'static str,
    /// What happened, to what.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// For a person, where a configuration is wrong: the places.
    config: Option<Box<ConfigError>>,
}

impl Failure {
    /// A failure of `kind` with exit code `code`.
    pub fn new(code: Code, kind: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, kind, message: message.into(), hint: hint.into(), config: None }
    }

    /// A usage error.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Code::Usage, "usage", message, hint)
    }

    /// Something that just did not work.
    pub fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Code::Failed, "failed", message, hint)
    }

    /// An operation of the system on a file that did not work.
    pub fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::failed(format!("cannot {action} {}: {error}", path.display()), "check the path and its permissions")
    }

    /// For a person.
    pub fn render(&self, colour: bool) -> String {
        if let Some(config) = &self.config {
            return config.render(colour);
        }
        let hint = if self.hint.is_empty() { String::new() } else { format!("\n  help: {}", self.hint) };
        format!("error: {}{hint}", self.message)
    }

    /// For a program.
    pub fn to_json(&self) -> Value {
        if let Some(config) = &self.config {
            return config.to_json();
        }
        json!({"schema_version": 1, "error": {"kind": self.kind, "message": self.message, "hint": self.hint}})
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self {
            code: Code::Usage,
            kind: "config",
            message: error.to_string(),
            hint: error.hint(),
            config: Some(Box::new(error)),
        }
    }
}

impl From<estop_watchdog::Error> for Failure {
    fn from(error: estop_watchdog::Error) -> Self {
        use estop_watchdog::Error as E;
        let (code, kind, hint) = match &error {
            E::TierTooLow { .. } => (Code::Refused, "tier-too-low", "see `estop doctor` for what would raise the tier"),
            E::Unenforceable { .. } => (Code::Refused, "unenforceable", "see `estop doctor` for what is enforced here"),
            E::Latched { .. } => {
                (Code::Refused, "latched", "look at `estop status`, then release it with `estop reset`")
            }
            E::NameTaken { .. } => (Code::Refused, "name-taken", "see `estop status`"),
            E::NoAnswer { .. } => (Code::NotProven, "no-answer", "`estop now NAME` stops it without its guardian"),
            E::Refused { .. } => (Code::Refused, "refused", "see `estop status`"),
            E::Durable(_) => (Code::Failed, "durable", "check the disk"),
            _ => (Code::Failed, "watchdog", "see `estop doctor`"),
        };
        Self::new(code, kind, error.to_string(), hint)
    }
}

impl From<estop_integrity::Error> for Failure {
    fn from(error: estop_integrity::Error) -> Self {
        use estop_integrity::Error as E;
        let (code, kind, hint) = match &error {
            E::WritersAlive { .. } => (Code::Refused, "writers-alive", "stop them first, or say --force"),
            E::Conflict { .. } => {
                (Code::Refused, "conflict", "`estop tx rollback TX`; look at what is there now, and begin again")
            }
            E::TooManyTransactions { .. } => {
                (Code::Refused, "too-many-transactions", "`estop tx list STORE` shows them")
            }
            E::NoSuchTransaction { .. } => {
                (Code::Failed, "no-such-transaction", "see `estop tx list STORE` and `estop log STORE`")
            }
            E::TransactionTooLarge { .. } => (Code::Usage, "transaction-too-large", "commit it in parts"),
            E::Unfit { .. } => (Code::Usage, "path", "nothing was changed; see the message"),
            E::CommitFailed { .. } => (Code::Failed, "commit-failed", "see the message for how the store is now"),
            refused if refused.is_refusal() => (Code::Refused, "locked", "wait for the other estop"),
            E::NoSuchPoint { .. } | E::AmbiguousSnapshot { .. } => {
                (Code::Failed, "no-such-point", "see `estop snapshot list`")
            }
            E::TargetNotEmpty { .. } => (Code::Usage, "target-not-empty", "choose an empty directory"),
            E::InvalidPath { .. } | E::NoSuchPath { .. } => {
                (Code::Usage, "path", "give it as it is named in the store")
            }
            E::CatalogueDamaged { .. } => (Code::Failed, "catalogue-damaged", "run `estop snapshot rebuild`"),
            E::StoreMissing { .. }
            | E::StoreNotDirectory { .. }
            | E::StoreIsSymlink { .. }
            | E::Overlap { .. }
            | E::OtherFilesystem { .. }
            | E::InvalidPoint { .. } => (Code::Usage, "store", "see `estop snapshot --help`"),
            _ => (Code::Failed, "integrity", "nothing more was changed; see the message"),
        };
        Self::new(code, kind, error.to_string(), hint)
    }
}

impl From<estop_secrets::StoreError> for Failure {
    fn from(error: estop_secrets::StoreError) -> Self {
        use estop_secrets::StoreError as E;
        let (code, kind, hint) = match &error {
            away if away.is_away() => (Code::Unreachable, "secrets-away", "see `estop doctor`"),
            E::Certificate { .. } => (Code::Unreachable, "certificate", "check `ca_file` in [vault]"),
            E::NotFound { .. } => {
                (Code::Failed, "no-such-secret", "see `estop secret list` and `estop secret versions`")
            }
            E::Conflict { .. } => (Code::Failed, "conflict", "look at the version found, then give it with --expect"),
            E::Revoked { .. } => (Code::Failed, "revoked", "see `estop secret versions`"),
            E::Denied { .. } => (Code::Failed, "denied", "check the policy of estop's login"),
            E::Invalid { .. } => (Code::Failed, "invalid", "see the message"),
            _ => (Code::Failed, "secrets", "see the message"),
        };
        Self::new(code, kind, error.to_string(), hint)
    }
}

impl From<estop_secrets::exposure::LedgerError> for Failure {
    fn from(error: estop_secrets::exposure::LedgerError) -> Self {
        Self::new(Code::Failed, "exposure-ledger", error.to_string(), "nothing is handed out until it can be read")
    }
}

impl From<estop_secrets::InvalidName> for Failure {
    fn from(error: estop_secrets::InvalidName) -> Self {
        Self::usage(error.to_string(), "use letters, digits, `.`, `_`, `-`, in parts separated by `/`")
    }
}

impl From<estop_recovery::Error> for Failure {
    fn from(error: estop_recovery::Error) -> Self {
        use estop_recovery::Error as E;
        let (code, kind, hint) = match &error {
            E::Busy { .. } => (Code::Refused, "busy", "`estop incident follow ID` watches it"),
            E::StopOutstanding { .. } => (Code::Refused, "stop-outstanding", "run `estop incident resume ID` first"),
            E::NotFound { .. } | E::Ambiguous { .. } => (Code::Failed, "no-such-incident", "see `estop incident list`"),
            E::Closed { .. } => (Code::Failed, "closed", "`estop incident show ID` says how it ended"),
            E::NothingToApprove { .. } => (Code::Failed, "nothing-to-approve", "see `estop incident show ID`"),
            _ => (Code::Failed, "incident", "see `estop incident list`"),
        };
        Self::new(code, kind, error.to_string(), hint)
    }
}

impl From<estop_durable::Error> for Failure {
    fn from(error: estop_durable::Error) -> Self {
        Self::new(Code::Failed, "durable", error.to_string(), "check the disk")
    }
}
