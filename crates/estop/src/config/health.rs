//! `ready` and `alive`: how it is found out whether a workload does its work.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::stop::loopback_url;
use super::units::{Command, Period};
use super::vault::is_loopback;

/// A check that is made again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CheckTable", into = "CheckTable")]
pub struct Check {
    /// What is looked at.
    pub probe: Probe,
    /// The time between two looks.
    pub every: Period,
    /// How long one look may take.
    pub timeout: Period,
    /// For `ready`: how long it may take until the first look is well. For `alive`: how often in a row a look may fail.
    pub patience: Patience,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `{ exec = ["check"] }`: a command, run inside the workload's job, that ends with 0.
    Exec(Command),
    /// `{ http = "http://127.0.0.1:8080/health" }`: answers 2xx to a GET.
    Http(String),
    /// `{ tcp = "127.0.0.1:5432" }`: takes a connection.
    Tcp(String),
    /// `{ notify = true }`: says so itself, as `sd_notify` does: `READY=1`, and `WATCHDOG=1` in time.
    Notify,
}

/// How long a check is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    /// `within`: until the first look is well.
    pub within: Option<Period>,
    /// `failures`: so many in a row.
    pub failures: Option<u32>,
}

impl Check {
    /// How long it may take until the first look is well.
    pub fn within(&self) -> Period {
        self.patience.within.unwrap_or(Period::from_secs(60))
    }

    /// How often in a row a look may fail.
    pub fn failures(&self) -> u32 {
        self.patience.failures.unwrap_or(3)
    }
}

/// [`Check`] as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<Command>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    notify: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<Period>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<Period>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<Period>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failures: Option<u32>,
}

const EVERY: Period = Period::from_secs(1);
const TIMEOUT: Period = Period::from_secs(5);

impl TryFrom<CheckTable> for Check {
    type Error = String;

    fn try_from(table: CheckTable) -> Result<Self, String> {
        let CheckTable { exec, http, tcp, notify, every, timeout, within, failures } = table;
        let probe = match (exec, http, tcp, notify) {
            (Some(exec), None, None, false) => Probe::Exec(exec),
            (None, Some(url), None, false) => Probe::Http(loopback_url(url)?),
            (None, None, Some(address), false) => Probe::Tcp(loopback_address(address)?),
            (None, None, None, true) => Probe::Notify,
            _ => {
                return Err("this is not one check\nwrite { exec = [\"COMMAND\"] }, { http = \"http://127.0.0.1:PORT/PATH\" }, \
                            { tcp = \"127.0.0.1:PORT\" } or { notify = true }"
                    .into());
            }
        };
        let zero = [("every", every), ("timeout", timeout), ("within", within)];
        if let Some((key, _)) = zero.into_iter().find(|(_, time)| *time == Some(Period::default())) {
            return Err(format!("`{key}` is no time at all\ngive it a length of time, or leave it out"));
        }
        if failures == Some(0) {
            return Err(
                "not even the first look could be well\ngive `failures` a number above zero, or leave it out".into()
            );
        }
        let patience = Patience { within, failures };
        Ok(Self { probe, every: every.unwrap_or(EVERY), timeout: timeout.unwrap_or(TIMEOUT), patience })
    }
}

fn loopback_address(address: String) -> Result<String, String> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_some() && is_loopback(&address) {
        return Ok(address);
    }
    Err(format!("\"{}\" is no port of this host\nwrite 127.0.0.1:PORT", address.escape_debug()))
}

impl From<Check> for CheckTable {
    fn from(check: Check) -> Self {
        let Check { probe, every, timeout, patience: Patience { within, failures } } = check;
        let table = Self { every: Some(every), timeout: Some(timeout), within, failures, ..Self::default() };
        match probe {
            Probe::Exec(exec) => Self { exec: Some(exec), ..table },
            Probe::Http(http) => Self { http: Some(http), ..table },
            Probe::Tcp(tcp) => Self { tcp: Some(tcp), ..table },
            Probe::Notify => Self { notify: true, ..table },
        }
    }
}

impl JsonSchema for Check {
    fn schema_name() -> Cow<'static, str> {
        "Check".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (command, period) = (generator.subschema_for::<Command>(), generator.subschema_for::<Period>());
        let check = |key: &str, value: Schema| {
            json_schema!({
                "type": "object",
                "properties": {
                    key: value, "every": period, "timeout": period, "within": period,
                    "failures": { "type": "integer", "minimum": 1 }
                },
                "required": [key],
                "additionalProperties": false
            })
        };
        json_schema!({
            "description": "How it is found out whether a workload does its work: a command in its job, a GET or a connection to this host, or its own word.",
            "oneOf": [
                check("exec", command),
                check("http", json_schema!({ "type": "string", "format": "uri" })),
                check("tcp", json_schema!({ "type": "string" })),
                check("notify", json_schema!({ "const": true })),
            ]
        })
    }
}
