//! `stop`: the steps by which a workload is asked to end.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::units::{Command, Period};
use super::vault::is_loopback;
use crate::platform::words::{SIGNALS, signal_number};

/// One step: what is done, and how long is waited after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StopTable", into = "StopTable")]
pub struct StopStep {
    /// What is done.
    pub ask: Ask,
    /// How long is waited for the workload's end before the next step; `grace` if it does not say.
    pub wait: Option<Period>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// `{ signal = "INT" }`: the signal's name without `SIG`.
    Signal(String),
    /// `{ exec = ["drain"] }`: a command, run inside the workload's job. One that fails is not waited for any longer.
    Exec(Command),
    /// `{ http = "http://127.0.0.1:8080/stop" }`: a POST to this host's loopback address. What answers no 2xx is not waited for.
    Http(String),
}

/// [`StopStep`] as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<Command>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    wait: Option<Period>,
}

impl TryFrom<StopTable> for StopStep {
    type Error = String;

    fn try_from(table: StopTable) -> Result<Self, String> {
        let StopTable { signal, exec, http, wait } = table;
        let ask = match (signal, exec, http) {
            (Some(signal), None, None) => Ask::Signal(signal_name(&signal)?),
            (None, Some(exec), None) => Ask::Exec(exec),
            (None, None, Some(url)) => Ask::Http(loopback_url(url)?),
            _ => {
                return Err("this is not one step of a stop\nwrite { signal = \"INT\" }, { exec = [\"COMMAND\"] } or \
                            { http = \"http://127.0.0.1:PORT/PATH\" }, each with wait = \"5s\" if it likes"
                    .into());
            }
        };
        Ok(Self { ask, wait })
    }
}

/// A signal's name in capitals, without `SIG`.
pub(super) fn bare_signal(signal: &str) -> String {
    let upper = signal.to_ascii_uppercase();
    upper.strip_prefix("SIG").unwrap_or(&upper).to_owned()
}

fn signal_name(signal: &str) -> Result<String, String> {
    let name = bare_signal(signal);
    if signal_number(&name).is_none() {
        let message = format!("`{}` is no signal that asks a program to end", signal.escape_debug());
        return Err(format!("{message}\nuse one of {}", SIGNALS.join(", ")));
    }
    Ok(name)
}

/// Nothing is encrypted, so nothing leaves this host.
pub(super) fn loopback_url(url: String) -> Result<String, String> {
    let authority = url.strip_prefix("http://").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let plain = !url.chars().any(|character| character.is_whitespace() || character.is_control());
    match authority {
        Some(authority) if plain && is_loopback(authority) => Ok(url),
        _ => Err(format!(
            "\"{}\" is no address of this host\nwrite http://127.0.0.1:PORT/PATH; what is elsewhere is asked by `exec`",
            url.escape_debug()
        )),
    }
}

impl From<StopStep> for StopTable {
    fn from(StopStep { ask, wait }: StopStep) -> Self {
        let table = Self { wait, ..Self::default() };
        match ask {
            Ask::Signal(signal) => Self { signal: Some(signal), ..table },
            Ask::Exec(exec) => Self { exec: Some(exec), ..table },
            Ask::Http(http) => Self { http: Some(http), ..table },
        }
    }
}

impl JsonSchema for StopStep {
    fn schema_name() -> Cow<'static, str> {
        "StopStep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (command, period) = (generator.subschema_for::<Command>(), generator.subschema_for::<Period>());
        let step = |key: &str, value: Schema| {
            json_schema!({
                "type": "object",
                "properties": { key: value, "wait": period },
                "required": [key],
                "additionalProperties": false
            })
        };
        // The names are the same in every schema, whichever system it was printed on.
        let signal = json_schema!({ "type": "string", "examples": ["TERM", "INT"] });
        json_schema!({
            "description": "One step of a stop: a signal, a command in the workload's job, or a POST to this host; and how long is waited after it.",
            "oneOf": [
                step("signal", signal),
                step("exec", command),
                step("http", json_schema!({ "type": "string", "format": "uri" })),
            ]
        })
    }
}
