//! What the brain is asked over its socket: one JSON object a line each way, for the same user and root, and for nobody
//! inside a job.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::{Code, Failure, Result};
use crate::platform::{Unanswered, channel};
use crate::site::Site;

/// How long an answer is waited for. Starting a workload may include a snapshot.
const ANSWER_WAIT: Duration = Duration::from_mins(2);
/// How long a brain that answers at once may take.
const PROMPT: Duration = Duration::from_millis(700);
/// How long it may take on a busy host, before something that takes longer is asked of it.
const PATIENT: Duration = Duration::from_secs(10);

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

/// How the brain is found.
#[derive(Debug)]
pub enum Presence {
    /// It answers: this, to [`Call::Status`].
    Answers(Value),
    /// It is there, as this process, and does not answer.
    Silent(Option<u32>),
    /// Nobody listens.
    Away,
}

/// Asks the brain. What takes its time is asked only of one that answers at all.
///
/// # Errors
/// With exit code 5 if it cannot be reached or does not answer; otherwise what it answers.
pub fn request(site: &Site, call: &Call) -> Result<Value> {
    let prompt = matches!(call, Call::Status | Call::Stay { .. } | Call::Resume { .. });
    let answer = if prompt {
        ask(site, call, PROMPT)
    } else {
        ask(site, &Call::Status, PATIENT).and_then(|status| match status {
            Ok(_) => ask(site, call, ANSWER_WAIT),
            Err(refused) => Ok(Err(refused)),
        })
    };
    answer.unwrap_or_else(|unanswered| Err(match unanswered {
        Unanswered::Away(detail) => {
            let message = format!("the daemon cannot be reached at {}: {detail}", site.brain_socket().display());
            Failure::new(Code::Unreachable, "no-daemon", message, "start it with `estop up`")
        }
        Unanswered::Silent(pid) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let message = format!("the daemon{pid} does not answer");
            let hint = "it is stopped or hangs: end it and start it again, workloads go on; `estop now` and `estop stop` do not need it";
            Failure::new(Code::Unreachable, "daemon-silent", message, hint)
        }
    }))
}

/// Looks whether the brain is there.
pub fn look(site: &Site) -> Presence {
    match ask(site, &Call::Status, PROMPT) {
        Ok(Ok(status)) => Presence::Answers(status),
        Err(Unanswered::Silent(pid)) => Presence::Silent(pid),
        Ok(Err(_)) | Err(Unanswered::Away(_)) => Presence::Away,
    }
}

/// The brain's answer, as far as there is one.
fn ask(site: &Site, call: &Call, wait: Duration) -> std::result::Result<Result<Value>, Unanswered> {
    let question = serde_json::to_string(call).unwrap_or_default() + "\n";
    let line = channel::ask(&site.run_dir, &question, wait)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Done(value)) => Ok(Ok(value)),
        Ok(Answer::Failed { code: number, kind, message, hint }) => {
            let known = [Code::Usage, Code::NotProven, Code::Refused, Code::Unreachable];
            let code = known.into_iter().find(|known| *known as u8 == number).unwrap_or(Code::Failed);
            Ok(Err(Failure::new(code, leaked(kind), message, hint)))
        }
        Err(error) => Err(Unanswered::Away(format!("its answer is not understood: {error}"))),
    }
}

/// The kinds are few and fixed; this process ends right after.
fn leaked(kind: String) -> &'static str {
    Box::leak(kind.into_boxed_str())
}
