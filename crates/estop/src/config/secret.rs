//! `[secret.NAME]`: how a secret is made, tested and made known.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::units::{Command, Period};

/// A secret that estop can rotate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// How a new value is made. Default: 32 letters and digits.
    #[serde(default)]
    pub generate: Generate,
    /// How often it is rotated by itself. Default: only when asked for, or exposed in an emergency.
    #[serde(default)]
    pub rotate_every: Option<Period>,
    /// A command that tries the new value before it is put in force; it gets it in `$ESTOP_SECRET_FILE`. It must end with 0.
    #[serde(default)]
    pub test: Option<Command>,
    /// How long the old value stays valid after a rotation. Default: until the subscribers acknowledged. In an emergency there is none.
    #[serde(default)]
    pub overlap: Option<Period>,
    /// Who is told of a new value, in this order.
    #[serde(default)]
    pub notify: Vec<Subscriber>,
}

/// How a new value is made: `{ length = 40, alphabet = "hex" }`, or `{ bytes = 32 }` for random bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "GenerateTable", into = "GenerateTable")]
pub enum Generate {
    /// Text.
    Text {
        /// How many characters.
        length: u32,
        /// Which ones.
        alphabet: Alphabet,
    },
    /// Random bytes, as they are.
    Bytes(u32),
}

impl Default for Generate {
    fn default() -> Self {
        Self::Text { length: DEFAULT_LENGTH, alphabet: Alphabet::default() }
    }
}

const DEFAULT_LENGTH: u32 = 32;
/// Shorter than this is guessable.
const SHORTEST: u32 = 8;
/// Longer than this is no key any more.
const LONGEST: u32 = 4096;

/// The characters of a generated value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Alphabet {
    /// `A-Z a-z 0-9`.
    #[default]
    Alphanumeric,
    /// `0-9 a-f`.
    Hex,
    /// `0-9`.
    Digits,
    /// `A-Z a-z 0-9 - _`.
    UrlSafe,
    /// Exactly these characters.
    Custom(String),
}

const ALPHABETS: [(&str, Alphabet); 4] = [
    ("alphanumeric", Alphabet::Alphanumeric),
    ("hex", Alphabet::Hex),
    ("digits", Alphabet::Digits),
    ("url-safe", Alphabet::UrlSafe),
];

impl Alphabet {
    /// Its characters.
    pub fn characters(&self) -> &str {
        match self {
            Self::Alphanumeric => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            Self::Hex => "0123456789abcdef",
            Self::Digits => "0123456789",
            Self::UrlSafe => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
            Self::Custom(characters) => characters,
        }
    }
}

impl From<String> for Alphabet {
    fn from(text: String) -> Self {
        match ALPHABETS.into_iter().find(|(name, _)| *name == text) {
            Some((_, alphabet)) => alphabet,
            None => Self::Custom(text),
        }
    }
}

impl From<Alphabet> for String {
    fn from(alphabet: Alphabet) -> Self {
        match ALPHABETS.into_iter().find(|(_, other)| *other == alphabet) {
            Some((name, _)) => name.to_owned(),
            None => alphabet.characters().to_owned(),
        }
    }
}

/// How a new value is made: `length` characters of `alphabet`, or random `bytes`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GenerateTable {
    /// How many characters. Default: 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 4096))]
    length: Option<u32>,
    /// `alphanumeric` (default), `hex`, `digits`, `url-safe`, or the characters themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    alphabet: Option<Alphabet>,
    /// Random bytes instead, this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 8, max = 4096))]
    bytes: Option<u32>,
}

impl TryFrom<GenerateTable> for Generate {
    type Error = String;

    fn try_from(table: GenerateTable) -> Result<Self, String> {
        let fits = |what: &str, number: u32| {
            if (SHORTEST..=LONGEST).contains(&number) {
                Ok(number)
            } else {
                Err(format!("{number} {what} are too few or too many for a secret\nuse {SHORTEST} to {LONGEST}"))
            }
        };
        match table {
            GenerateTable { bytes: Some(bytes), length: None, alphabet: None } => {
                Ok(Self::Bytes(fits("bytes", bytes)?))
            }
            GenerateTable { bytes: Some(_), .. } => Err(
                "random bytes have no length or alphabet beside them\nuse either `bytes`, or `length` and `alphabet`"
                    .into(),
            ),
            GenerateTable { bytes: None, length, alphabet } => {
                let alphabet = alphabet.unwrap_or_default();
                check_alphabet(alphabet.characters())?;
                Ok(Self::Text { length: fits("characters", length.unwrap_or(DEFAULT_LENGTH))?, alphabet })
            }
        }
    }
}

fn check_alphabet(characters: &str) -> Result<(), String> {
    let mut sorted: Vec<char> = characters.chars().collect();
    sorted.sort_unstable();
    let all = sorted.len();
    sorted.dedup();
    if sorted.len() < all {
        return Err(
            "the alphabet names a character twice\nname each once, or it comes up more often than others".into()
        );
    }
    if sorted.len() < 10 || sorted.len() > 256 || sorted.iter().any(|character| character.is_control()) {
        return Err(format!(
            "the alphabet \"{}\" has too few characters, too many, or control characters\n\
             use alphanumeric, hex, digits, url-safe, or 10 to 256 characters of your own",
            characters.escape_debug()
        ));
    }
    Ok(())
}

impl From<Generate> for GenerateTable {
    fn from(generate: Generate) -> Self {
        match generate {
            Generate::Text { length, alphabet } => Self { length: Some(length), alphabet: Some(alphabet), bytes: None },
            Generate::Bytes(bytes) => Self { bytes: Some(bytes), ..Self::default() },
        }
    }
}

impl JsonSchema for Generate {
    fn schema_name() -> Cow<'static, str> {
        "Generate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        GenerateTable::json_schema(generator)
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
    /// `{ webhook = "https://…", key = "NAME" }`: acknowledged by a 2xx answer.
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
                let upper = signal.to_ascii_uppercase();
                let name = upper.strip_prefix("SIG").unwrap_or(&upper);
                if SIGNALS.contains(&name) {
                    Ok(Self::Signal { signal: name.to_owned(), workload })
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
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = host.unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() || url.chars().any(|character| character.is_whitespace() || character.is_control()) {
        return Err(format!("\"{}\" is no web address\nwrite https://HOST/PATH", url.escape_debug()));
    }
    if authority.contains('@') {
        return Err("a web address may not hold a password\nsign the message with `key = \"SECRET\"` instead".into());
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
