//! What the brain is asked over its socket: one JSON object a line each way, for the same user and root, and for nobody
//! inside a job.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// How long an answer is waited for. Starting a workload may include a snapshot.
const ANSWER_WAIT: Duration = Duration::from_mins(2);
/// How long a brain that answers at once may take.
const PROMPT: Duration = Duration::from_millis(700);

/// What the brain is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    /// Say how it is.
    Status,
    /// Start a workload.
    Start {
        /// Its name.
        name: String,
    },
    /// Do not start a workload again that waits for that.
    Stay {
        /// Its name.
        name: String,
    },
    /// Go on with an incident.
    Resume {
        /// Its identifier.
        id: String,
    },
    /// Stop all workloads, asking first, and end.
    Down,
}

/// What the brain answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done(Value),
    /// Not done.
    Failed {
        /// The exit code.
        code: u8,
        /// What kind of failure.
        kind: String,
        /// What happened.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// Asks the brain.
///
/// # Errors
/// With exit code 5 if it cannot be reached; otherwise what it answers.
pub fn request(site: &Site, call: &Call) -> Result<Value> {
    let wait =
        if matches!(call, Call::Status | Call::Stay { .. } | Call::Resume { .. }) { PROMPT } else { ANSWER_WAIT };
    let away = |detail: String| {
        let message = format!("the daemon cannot be reached at {}: {detail}", site.brain_socket().display());
        Failure::new(Code::Unreachable, "no-daemon", message, "start it with `estop up`")
    };
    let mut stream = connect(&site.brain_socket()).map_err(|error| away(error.to_string()))?;
    stream.set_read_timeout(Some(wait)).map_err(|error| away(error.to_string()))?;
    let question = serde_json::to_string(call).map_err(|error| away(error.to_string()))? + "\n";
    stream.write_all(question.as_bytes()).map_err(|error| away(error.to_string()))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| away(error.to_string()))?;
    match serde_json::from_str(&line).map_err(|error| away(format!("its answer is not understood: {error}")))? {
        Answer::Done(value) => Ok(value),
        Answer::Failed { code: number, kind, message, hint } => {
            let known = [Code::Usage, Code::NotProven, Code::Refused, Code::Unreachable];
            let code = known.into_iter().find(|known| *known as u8 == number).unwrap_or(Code::Failed);
            Err(Failure::new(code, leaked(kind), message, hint))
        }
    }
}

/// The kinds are few and fixed; this process ends right after.
fn leaked(kind: String) -> &'static str {
    Box::leak(kind.into_boxed_str())
}

/// Connects by way of the opened directory, so that the path may be longer than a socket's.
fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    UnixStream::connect(short(&directory, path))
}

/// The path of a socket by way of its opened directory.
pub fn short(directory: &std::fs::File, path: &Path) -> std::path::PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(path.file_name().unwrap_or_default())
}
