//! `generate` of a `[secret.NAME]`: what a new value looks like.

use std::borrow::Cow;

use estop_secrets::rotate::generate::{KeyEncoding, Policy, SAFE_SYMBOLS};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &str = "0123456789";
const DEFAULT_LENGTH: u32 = 32;

/// What a new value looks like: `{ length = 40, alphabet = "symbols" }`, or `{ bytes = 32, encoding = "base64" }`.
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
    /// Random bytes.
    Key {
        /// How many, before they are encoded.
        bytes: u32,
        /// How they are written.
        encoding: Encoding,
    },
}

impl Default for Generate {
    fn default() -> Self {
        Self::Text { length: DEFAULT_LENGTH, alphabet: Alphabet::default() }
    }
}

impl Generate {
    /// The same in the words of the secrets pillar.
    pub fn policy(&self) -> Policy {
        match self {
            Self::Text { length, alphabet: Alphabet::Alphanumeric } => Policy::password(to_usize(*length)),
            Self::Text { length, alphabet } => Policy::Password {
                length: to_usize(*length),
                alphabets: alphabet.parts().into_iter().map(str::to_owned).collect(),
                no_look_alikes: false,
            },
            Self::Key { bytes, encoding } => Policy::Key { bytes: to_usize(*bytes), encoding: (*encoding).into() },
        }
    }
}

/// What doesn't fit is larger than any policy allows.
fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The characters of a generated value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Alphabet {
    /// Letters and digits without those that look alike, some of each kind.
    #[default]
    Alphanumeric,
    /// Letters, digits and symbols that no shell or connection string reads as something else, some of each kind.
    Symbols,
    /// `0-9 a-f`.
    Hex,
    /// `0-9`.
    Digits,
    /// `A-Z a-z 0-9 - _`.
    UrlSafe,
    /// Exactly these characters.
    Custom(String),
}

const ALPHABETS: [(&str, Alphabet); 5] = [
    ("alphanumeric", Alphabet::Alphanumeric),
    ("symbols", Alphabet::Symbols),
    ("hex", Alphabet::Hex),
    ("digits", Alphabet::Digits),
    ("url-safe", Alphabet::UrlSafe),
];

impl Alphabet {
    /// Its kinds of characters; a value has some of each.
    fn parts(&self) -> Vec<&str> {
        match self {
            Self::Alphanumeric => vec![LOWER, UPPER, DIGITS],
            Self::Symbols => vec![LOWER, UPPER, DIGITS, SAFE_SYMBOLS],
            Self::Hex => vec!["0123456789abcdef"],
            Self::Digits => vec![DIGITS],
            Self::UrlSafe => vec!["ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"],
            Self::Custom(characters) => vec![characters],
        }
    }

    /// A misspelt name of an alphabet would pass for an alphabet of its letters; this tells them apart.
    fn check(&self) -> Result<(), String> {
        let Self::Custom(characters) = self else { return Ok(()) };
        let mut sorted: Vec<u8> = characters.bytes().collect();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() >= 10
            && sorted.len() == characters.len()
            && characters.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Ok(());
        }
        Err(format!(
            "\"{}\" is no alphabet\n\
             use alphanumeric, symbols, hex, digits, url-safe, or at least 10 visible ASCII characters, each once",
            characters.escape_debug()
        ))
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
            None => alphabet.parts().concat(),
        }
    }
}

/// How random bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// In base64 with padding.
    #[default]
    Base64,
    /// In lower-case hexadecimal.
    Hex,
    /// As they are. They can be given to a workload as a file only.
    Raw,
}

impl From<Encoding> for KeyEncoding {
    fn from(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Base64 => Self::Base64,
            Encoding::Hex => Self::Hex,
            Encoding::Raw => Self::Raw,
        }
    }
}

/// What a new value looks like: `length` characters of `alphabet`, or random `bytes` in an `encoding`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GenerateTable {
    /// How many characters. Default: 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    length: Option<u32>,
    /// `alphanumeric` (default), `symbols`, `hex`, `digits`, `url-safe`, or the characters themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    alphabet: Option<Alphabet>,
    /// Random bytes instead, this many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<u32>,
    /// How they are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
}

impl TryFrom<GenerateTable> for Generate {
    type Error = String;

    fn try_from(table: GenerateTable) -> Result<Self, String> {
        match table {
            GenerateTable { bytes: Some(bytes), length: None, alphabet: None, encoding } => {
                Ok(Self::Key { bytes, encoding: encoding.unwrap_or_default() })
            }
            GenerateTable { bytes: None, encoding: None, length, alphabet } => {
                let alphabet = alphabet.unwrap_or_default();
                alphabet.check()?;
                Ok(Self::Text { length: length.unwrap_or(DEFAULT_LENGTH), alphabet })
            }
            _ => Err("this is half a text and half a key\n\
                      use either `length` and `alphabet`, or `bytes` and `encoding`"
                .into()),
        }
    }
}

impl From<Generate> for GenerateTable {
    fn from(generate: Generate) -> Self {
        match generate {
            Generate::Text { length, alphabet } => {
                Self { length: Some(length), alphabet: Some(alphabet), ..Self::default() }
            }
            Generate::Key { bytes, encoding } => {
                Self { bytes: Some(bytes), encoding: Some(encoding), ..Self::default() }
            }
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
