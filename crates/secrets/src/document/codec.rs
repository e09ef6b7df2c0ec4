//! How a document is written: one JSON object, the same in every store.
//!
//! ```json
//! {"value": "the current value", "estop": {"format": 1, "versions": […], "rotation": null, …}, "owner": "someone else's field"}
//! ```
//! The current value stands in a field of its own, as text where it is text, so that any other client of a Vault reads it
//! without knowing of estop. Everything of ours is under one reserved field. Other fields are kept as they are.

use std::borrow::Cow;
use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use serde::de::{DeserializeSeed, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Document, Held, Rotation};
use crate::{SecretName, SecretValue, StoreError, Version, VersionInfo, VersionState};

/// The field that holds the current value, unless a store is told another.
pub(crate) const DEFAULT_FIELD: &str = "value";

/// The field that is estop's own.
pub(crate) const RESERVED: &str = "estop";

const FORMAT: u32 = 1;

/// Enough room for what surrounds the values, so that the buffer doesn't grow and leave copies behind.
const ROOM: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Text,
    Base64,
}

/// What stands under the reserved field.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    /// Names this very write, so that its author can tell whether it was applied when the answer was lost.
    write_id: Uuid,
    encoding: Encoding,
    /// Tells whether somebody else changed the current value: SHA-256, first 16 bytes, in hexadecimal.
    digest: Option<String>,
    last_version: Version,
    versions: Vec<Entry<'a>>,
    rotation: Option<Cow<'a, Rotation>>,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    info: Cow<'a, VersionInfo>,
    gone: Option<u64>,
    /// The value of a version that is neither current nor revoked.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "base64_value")]
    held: Option<SecretValue>,
}

/// When a document was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Its revision.
    pub(crate) revision: u64,
    /// The time, as the store tells it.
    pub(crate) at: jiff::Timestamp,
}

/// Writes `document` as JSON with its current value under `field`.
///
/// # Errors
/// [`StoreError::Invalid`] if the document can't be put as JSON.
pub(crate) fn encode(document: &Document, field: &str, write_id: Uuid) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let current = document.held.iter().find(|held| held.info.state == VersionState::Current);
    let current = current.and_then(|held| held.value.as_ref());
    let (encoding, text) = current.map_or((Encoding::Text, None), |value| {
        let (encoding, text) = to_text(value);
        (encoding, Some(text))
    });
    let envelope = Envelope {
        format: FORMAT,
        write_id,
        encoding,
        digest: current.map(digest),
        last_version: document.last,
        versions: document.held.iter().map(entry).collect(),
        rotation: document.rotation.as_ref().map(Cow::Borrowed),
    };
    let values: usize = document.held.iter().filter_map(|held| held.value.as_ref()).map(SecretValue::len).sum();
    let extra = document.extra.iter().map(|(key, value)| key.len() + value.to_string().len()).sum::<usize>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(ROOM + 2 * values + extra + 512 * document.held.len()));
    let object = Object { field, text: text.as_ref().map(|text| text.as_str()), envelope, extra: &document.extra };
    serde_json::to_writer(&mut *bytes, &object)
        .map_err(|error| StoreError::invalid(document.name.to_string(), error.to_string()))?;
    Ok(bytes)
}

/// Reads a document that the store holds as `bytes` since `written`.
///
/// A document that somebody else made or changed is taken over: its value becomes a version with the number of the revision.
///
/// # Errors
/// [`StoreError::Damaged`] or [`StoreError::Invalid`] if it can't be understood.
pub(crate) fn decode(name: &SecretName, written: Written, field: &str, bytes: &[u8]) -> Result<Document, StoreError> {
    let parsed = Parsed::read(field, bytes).map_err(|error| damaged(name, &error))?;
    let mut document = Document { revision: written.revision, extra: parsed.extra, ..Document::absent(name.clone()) };
    let Some(envelope) = parsed.envelope else {
        let text = parsed.text.ok_or_else(|| no_field(name, field))?;
        document.adopt(SecretValue::from(text.as_str()), written);
        return Ok(document);
    };
    if envelope.format != FORMAT {
        let detail = format!("it has format {}, this estop reads format {FORMAT}", envelope.format);
        return Err(StoreError::Damaged { what: format!("the document of {name}"), detail });
    }
    document.last = envelope.last_version;
    document.rotation = envelope.rotation.map(Cow::into_owned);
    document.held = envelope.versions.into_iter().map(held).collect();
    document.restore_current(parsed.text, (envelope.encoding, envelope.digest.as_deref()), written, field)?;
    Ok(document)
}

/// The id of the write that made the document in `bytes`.
#[cfg(feature = "vault")]
pub(crate) fn write_id(field: &str, bytes: &[u8]) -> Option<Uuid> {
    Parsed::read(field, bytes).ok()?.envelope.map(|envelope| envelope.write_id)
}

impl Document {
    fn restore_current(
        &mut self,
        text: Option<Zeroizing<String>>,
        (encoding, digest_then): (Encoding, Option<&str>),
        written: Written,
        field: &str,
    ) -> Result<(), StoreError> {
        let name = self.name.clone();
        let current = self.held.iter_mut().find(|held| held.info.state == VersionState::Current);
        let Some(text) = text else {
            return if current.is_none() { Ok(()) } else { Err(no_field(&name, field)) };
        };
        let value = from_text(&text, encoding).filter(|value| digest_then == Some(digest(value).as_str()));
        match (value, current) {
            (Some(value), Some(current)) => current.value = Some(value),
            // Changed by another hand: what was current then is lost here, what stands there now is in force.
            (_, current) => {
                if let Some(current) = current {
                    current.info.state = VersionState::Revoked;
                    current.gone = Some(written.revision);
                }
                self.adopt(SecretValue::from(text.as_str()), written);
            }
        }
        Ok(())
    }

    /// Takes over a value that came into the document by another hand.
    fn adopt(&mut self, value: SecretValue, written: Written) {
        let version = Version(written.revision).max(self.last.next());
        self.last = version;
        let info = VersionInfo {
            version,
            state: VersionState::Current,
            created: written.at,
            rotation_id: None,
            valid_until: None,
            revoked: None,
            revision: written.revision,
        };
        self.held.push(Held { info, value: Some(value), gone: None });
    }
}

fn entry(held: &Held) -> Entry<'_> {
    let elsewhere = held.info.state == VersionState::Current;
    Entry { info: Cow::Borrowed(&held.info), gone: held.gone, held: if elsewhere { None } else { held.value.clone() } }
}

fn held(entry: Entry<'_>) -> Held {
    Held { info: entry.info.into_owned(), value: entry.held, gone: entry.gone }
}

fn digest(value: &SecretValue) -> String {
    HEXLOWER.encode(&Sha256::digest(value.expose())[..16])
}

/// As text if it is text without unusual control characters, else in base64.
fn to_text(value: &SecretValue) -> (Encoding, Zeroizing<String>) {
    match std::str::from_utf8(value.expose()) {
        Ok(text) if text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')) => {
            (Encoding::Text, Zeroizing::new(text.to_owned()))
        }
        _ => (Encoding::Base64, Zeroizing::new(BASE64.encode(value.expose()))),
    }
}

fn from_text(text: &str, encoding: Encoding) -> Option<SecretValue> {
    match encoding {
        Encoding::Text => Some(SecretValue::from(text)),
        Encoding::Base64 => BASE64.decode(text.as_bytes()).ok().map(SecretValue::new),
    }
}

fn no_field(name: &SecretName, field: &str) -> StoreError {
    let detail =
        format!("it has no text field \"{field}\": name the field that holds the value in the store's configuration");
    StoreError::invalid(format!("the document of {name}"), detail)
}

/// Says where, but not what: the text around the fault may be a secret.
fn damaged(name: &SecretName, error: &serde_json::Error) -> StoreError {
    let detail = format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column());
    StoreError::Damaged { what: format!("the document of {name}"), detail }
}

struct Object<'a> {
    field: &'a str,
    text: Option<&'a str>,
    envelope: Envelope<'a>,
    extra: &'a serde_json::Map<String, serde_json::Value>,
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(text) = self.text {
            map.serialize_entry(self.field, text)?;
        }
        map.serialize_entry(RESERVED, &self.envelope)?;
        for (key, value) in self.extra {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

struct Parsed {
    text: Option<Zeroizing<String>>,
    envelope: Option<Envelope<'static>>,
    extra: serde_json::Map<String, serde_json::Value>,
}

impl Parsed {
    fn read(field: &str, bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let parsed = ParsedSeed { field }.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(parsed)
    }
}

/// Reads the object with the value's text going straight into memory that is wiped.
struct ParsedSeed<'f> {
    field: &'f str,
}

impl<'de> DeserializeSeed<'de> for ParsedSeed<'_> {
    type Value = Parsed;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ParsedSeed<'_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the document of a secret")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut parsed = Parsed { text: None, envelope: None, extra: serde_json::Map::new() };
        while let Some(key) = map.next_key::<String>()? {
            if key == self.field {
                parsed.text = Some(Zeroizing::new(map.next_value()?));
            } else if key == RESERVED {
                parsed.envelope = Some(map.next_value()?);
            } else {
                parsed.extra.insert(key, map.next_value()?);
            }
        }
        Ok(parsed)
    }
}

mod base64_value {
    use super::{BASE64, Deserialize, Deserializer, SecretValue, Serialize, Serializer, Zeroizing};

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(value: &Option<SecretValue>, serializer: S) -> Result<S::Ok, S::Error> {
        let text = value.as_ref().map(|value| Zeroizing::new(BASE64.encode(value.expose())));
        text.as_ref().map(|text| text.as_str()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretValue>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)?.map(Zeroizing::new) else { return Ok(None) };
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| serde::de::Error::custom("no base64"))?;
        Ok(Some(SecretValue::new(bytes)))
    }
}

#[cfg(test)]
mod tests;
