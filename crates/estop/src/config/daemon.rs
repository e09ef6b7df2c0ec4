//! `[estop]`: estop itself.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where estop keeps its state, and what it logs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Daemon {
    /// The state directory. Default: `/var/lib/estop` for root, `$XDG_STATE_HOME/estop` otherwise. `--state-dir` goes before it.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// The run directory, with the sockets. Default: `/run/estop` for root, `$XDG_RUNTIME_DIR/estop` otherwise.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    /// How much is logged.
    #[serde(default)]
    pub log_level: LogLevel,
    /// In which form.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what may fail soon.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

impl LogLevel {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// In which form is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
