//! `[secret.NAME]`: how a secret is made, tested and made known.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::generate::Generate;
use super::stop::bare_signal;
use super::units::{Command, Period};
use super::vault::is_loopback;

/// A secret that estop can rotate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// How a new value is made. Default: 32 letters and digits.
    #[serde(default)]
    pub generate: Generate,
    /// How often it is rotated by itself. Default: only when asked for, or exposed in an emergency.
    #[serde(default)]
    pub rotate_every: Option<Period>,
    /// A command that tries the new value before it is put in force: it gets it on stdin as JSON (`value`, `value_base64`) and must end with 0.
    #[serde(default)]
    pub test: Option<Command>,
    /// How long the old value stays valid at most after a rotation; it is revoked earlier when all subscribers acknowledged. In an emergency
    /// there is no overlap.
    #[serde(default = "Secret::default_overlap")]
    pub overlap: Period,
    /// Who is told of a new value, in this order.
    #[serde(default)]
    pub notify: Vec<Subscriber>,
}

impl Default for Secret {
    fn default() -> Self {
        Self {
            generate: Generate::default(),
            rotate_every: None,
            test: None,
            overlap: Self::default_overlap(),
            notify: Vec::new(),
        }
    }
}

impl Secret {
    fn default_overlap() -> Period {
        Period::from_secs(3600)
    }
}

/// Who is told of a new value: a workload by a signal, a command, or a web hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SubscriberTable", into = "SubscriberTable")]
pub enum Subscriber {
    /// `{ signal = "HUP", workload = "agent" }`
    Signal {
        /// The signal's name without `SIG`.
        signal: String,
        /// Who gets it.
        workload: String,
    },
    /// `{ exec = ["reload-it"] }`: acknowledged by ending with 0.
    Exec(Command),
    /// `{ webhook = "https://…", key = "NAME" }`: acknowledged by a 2xx answer. `http://` only to this host's loopback address.
    Webhook {
        /// Where it is posted to.
        url: String,
        /// The secret by which the message is signed; unsigned without.
        key: Option<String>,
    },
}

/// The signals that a program may be told by. None of those that end it whatever it does.
const SIGNALS: [&str; 7] = ["HUP", "USR1", "USR2", "WINCH", "CONT", "INT", "TERM"];

/// [`Subscriber`] as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscriberTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exec: Option<Command>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl TryFrom<SubscriberTable> for Subscriber {
    type Error = String;

    fn try_from(table: SubscriberTable) -> Result<Self, String> {
        match table {
            SubscriberTable { signal: Some(signal), workload: Some(workload), exec: None, webhook: None, key: None } => {
                let name = bare_signal(&signal);
                if SIGNALS.contains(&name.as_str()) {
                    Ok(Self::Signal { signal: name, workload })
                } else {
                    Err(format!("`{signal}` is no signal to tell a program by\nuse one of {}", SIGNALS.join(", ")))
                }
            }
            SubscriberTable { signal: None, workload: None, exec: Some(exec), webhook: None, key: None } => Ok(Self::Exec(exec)),
            SubscriberTable { signal: None, workload: None, exec: None, webhook: Some(url), key } => {
                check_url(&url)?;
                Ok(Self::Webhook { url, key })
            }
            _ => Err("this is not one subscriber\n\
                      write { signal = \"HUP\", workload = \"NAME\" }, { exec = [\"COMMAND\"] } or { webhook = \"https://…\", key = \"SECRET\" }"
                .into()),
        }
    }
}

fn check_url(url: &str) -> Result<(), String> {
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => (true, ""),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || url.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Err(format!("\"{}\" is no web address\nwrite https://HOST/PATH", url.escape_debug()));
    }
    if authority.contains('@') {
        return Err("a web address may not hold a password\nsign the message with `key = \"SECRET\"` instead".into());
    }
    if !secure && !is_loopback(authority) {
        return Err(format!("\"{}\" goes over the network in the clear\nuse https://", url.escape_debug()));
    }
    Ok(())
}

impl From<Subscriber> for SubscriberTable {
    fn from(subscriber: Subscriber) -> Self {
        match subscriber {
            Subscriber::Signal { signal, workload } => {
                Self { signal: Some(signal), workload: Some(workload), ..Self::default() }
            }
            Subscriber::Exec(exec) => Self { exec: Some(exec), ..Self::default() },
            Subscriber::Webhook { url, key } => Self { webhook: Some(url), key, ..Self::default() },
        }
    }
}

impl JsonSchema for Subscriber {
    fn schema_name() -> Cow<'static, str> {
        "Subscriber".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let command = generator.subschema_for::<Command>();
        json_schema!({
            "description": "Who is told of a new value: a workload by a signal, a command, or a web hook.",
            "oneOf": [
                {
                    "type": "object",
                    "properties": { "signal": { "type": "string", "examples": SIGNALS }, "workload": { "type": "string" } },
                    "required": ["signal", "workload"],
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "properties": { "exec": command },
                    "required": ["exec"],
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "properties": {
                        "webhook": { "type": "string", "format": "uri" },
                        "key": { "description": "The secret by which the message is signed.", "type": "string" }
                    },
                    "required": ["webhook"],
                    "additionalProperties": false
                }
            ]
        })
    }
}
