//! The kind `generate`: a random password or key, by a policy.

use async_trait::async_trait;
use data_encoding::{BASE64, HEXLOWER};
use serde::Serialize;
use zeroize::Zeroizing;

use super::kind::{Context, KindError, RotationKind};
use crate::document::MAX_VALUE_BYTES;
use crate::notify::exec;
use crate::{Secret, SecretValue};

/// Characters that people take for one another.
const LOOK_ALIKES: &str = "0Oo1lI|5S2Z8B`'\"";

/// The symbols that no shell, URL or connection string reads as something else.
pub const SAFE_SYMBOLS: &str = "-_.~+=:,@%^";

/// Less randomness than this is refused. Far above what can be guessed, far below what anyone needs to go.
const MIN_BITS: f64 = 64.0;

/// How often a password is drawn until each alphabet is in it. One that has room for all needs a few.
const MAX_DRAWS: usize = 10_000;

/// What a new value looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Characters from the union of alphabets, of each at least one.
    Password {
        /// The number of characters.
        length: usize,
        /// The alphabets.
        alphabets: Vec<String>,
        /// Whether characters that look alike are left out.
        no_look_alikes: bool,
    },
    /// Random bytes.
    Key {
        /// Their number, before encoding.
        bytes: usize,
        /// How they are written.
        encoding: KeyEncoding,
    },
}

/// How a random key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEncoding {
    /// As they are.
    Raw,
    /// In lower-case hexadecimal.
    Hex,
    /// In base64 with padding.
    Base64,
}

impl Policy {
    /// A password of `length` letters and digits, without look-alikes.
    pub fn password(length: usize) -> Self {
        let alphabets = ["abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"];
        Self::Password { length, alphabets: alphabets.map(str::to_owned).into(), no_look_alikes: true }
    }

    /// Draws a value from the operating system's random source.
    ///
    /// # Errors
    /// [`KindError`] if the policy can't be met, gives less than 64 bits of randomness, or there is no random source.
    pub fn draw(&self) -> Result<SecretValue, KindError> {
        match self {
            Self::Password { length, alphabets, no_look_alikes } => {
                password(*length, &usable(alphabets, *no_look_alikes)?)
            }
            Self::Key { bytes, encoding } => key(*bytes, *encoding),
        }
    }
}

impl Default for Policy {
    /// 32 letters and digits: 180 bits.
    fn default() -> Self {
        Self::password(32)
    }
}

fn usable(alphabets: &[String], no_look_alikes: bool) -> Result<Vec<Vec<u8>>, KindError> {
    let fault = |text: &str| KindError(format!("the password policy cannot be met: {text}"));
    let mut usable = Vec::with_capacity(alphabets.len());
    for alphabet in alphabets {
        if !alphabet.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fault("an alphabet has a character that is not printable ASCII"));
        }
        let mut kept: Vec<u8> =
            alphabet.bytes().filter(|byte| !(no_look_alikes && LOOK_ALIKES.as_bytes().contains(byte))).collect();
        kept.sort_unstable();
        kept.dedup();
        if kept.is_empty() {
            return Err(fault("an alphabet is empty, or has look-alikes only"));
        }
        usable.push(kept);
    }
    if usable.is_empty() { Err(fault("it has no alphabet")) } else { Ok(usable) }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn password(length: usize, alphabets: &[Vec<u8>]) -> Result<SecretValue, KindError> {
    let mut union = alphabets.concat();
    union.sort_unstable();
    union.dedup();
    let bits = (union.len() as f64).log2() * length as f64;
    check_size(bits, length)?;
    if length < alphabets.len() {
        return Err(KindError("the password policy cannot be met: it has more alphabets than characters".to_owned()));
    }
    for _ in 0..MAX_DRAWS {
        let drawn = characters(length, &union)?;
        // Drawing anew until all are in it keeps every allowed password equally likely; forcing one in would not.
        if alphabets.iter().all(|alphabet| alphabet.iter().any(|character| drawn.contains(character))) {
            return Ok(SecretValue::new(drawn.to_vec()));
        }
    }
    Err(KindError("the password policy cannot be met: no draw had a character of each alphabet".to_owned()))
}

/// Draws characters uniformly: bytes that would favour some are drawn again.
fn characters(length: usize, union: &[u8]) -> Result<Zeroizing<Vec<u8>>, KindError> {
    let fair = 256 - 256 % union.len();
    let mut drawn = Zeroizing::new(Vec::with_capacity(length));
    let mut random = Zeroizing::new([0; 64]);
    while drawn.len() < length {
        fill(&mut *random)?;
        let usable = random.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        let missing = length - drawn.len();
        drawn.extend(usable.take(missing).map(|byte| union[byte % union.len()]));
    }
    Ok(drawn)
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn key(bytes: usize, encoding: KeyEncoding) -> Result<SecretValue, KindError> {
    check_size(bytes as f64 * 8.0, bytes.saturating_mul(2))?;
    let mut random = Zeroizing::new(vec![0; bytes]);
    fill(&mut random)?;
    Ok(match encoding {
        KeyEncoding::Raw => SecretValue::new(random.to_vec()),
        KeyEncoding::Hex => SecretValue::from(HEXLOWER.encode(&random)),
        KeyEncoding::Base64 => SecretValue::from(BASE64.encode(&random)),
    })
}

fn check_size(bits: f64, length: usize) -> Result<(), KindError> {
    if length > MAX_VALUE_BYTES {
        return Err(KindError(format!("the policy asks for more than {MAX_VALUE_BYTES} bytes")));
    }
    if bits < MIN_BITS {
        let detail = format!(
            "the policy gives {bits:.0} bits of randomness, at least {MIN_BITS:.0} are needed: ask for more characters or bytes"
        );
        return Err(KindError(detail));
    }
    Ok(())
}

fn fill(buffer: &mut [u8]) -> Result<(), KindError> {
    getrandom::fill(buffer).map_err(|error| KindError(format!("the system gives no random bytes: {error}")))
}

/// Rotates to a value drawn by a policy.
#[derive(Debug, Clone, Default)]
pub struct Generate {
    /// What a new value looks like.
    pub policy: Policy,
    /// A command that proves that a value works: it gets [`TestInput`] on stdin and exits with 0 if so. Without one, a
    /// value is taken to work, as whoever uses the secret reads it from here.
    pub test: Option<Vec<String>>,
}

/// What a test command gets on stdin, as JSON.
#[derive(Serialize)]
pub struct TestInput<'a> {
    schema_version: u32,
    step: &'a str,
    name: &'a str,
    version: u64,
    rotation_id: String,
    /// The value, if it is text.
    value: Option<&'a str>,
    /// The value in base64.
    value_base64: &'a str,
}

#[async_trait]
impl RotationKind for Generate {
    async fn create(&self, _context: &Context) -> Result<SecretValue, KindError> {
        self.policy.draw()
    }

    async fn test(&self, context: &Context, new: &Secret) -> Result<(), KindError> {
        let Some(command) = &self.test else { return Ok(()) };
        let value_base64 = Zeroizing::new(BASE64.encode(new.value.expose()));
        let input = TestInput {
            schema_version: 1,
            step: "test",
            name: context.name.as_str(),
            version: new.info.version.0,
            rotation_id: context.rotation_id.to_string(),
            value: std::str::from_utf8(new.value.expose()).ok(),
            value_base64: &value_base64,
        };
        let mut json = Zeroizing::new(Vec::with_capacity(1024 + 8 * new.value.len()));
        serde_json::to_writer(&mut *json, &input).map_err(|error| KindError(error.to_string()))?;
        exec::run(command, &json).await.map_err(|error| KindError(format!("the new value does not work: {error}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_password_has_its_length_each_alphabet_and_nothing_else() {
        let policy = Policy::Password {
            length: 20,
            alphabets: vec!["abcdefghijklmno".into(), "ABCDEFGHIJ".into(), "0123456789".into(), SAFE_SYMBOLS.into()],
            no_look_alikes: true,
        };
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let drawn = policy.draw().unwrap();
            let text = std::str::from_utf8(drawn.expose()).unwrap().to_owned();
            assert_eq!(text.len(), 20);
            assert!(text.chars().any(|c| c.is_ascii_lowercase()) && text.chars().any(|c| c.is_ascii_uppercase()));
            assert!(text.chars().any(|c| c.is_ascii_digit()) && text.chars().any(|c| SAFE_SYMBOLS.contains(c)));
            assert!(!text.chars().any(|c| LOOK_ALIKES.contains(c)), "{text}");
            assert!(seen.insert(text), "the same password twice");
        }
    }

    #[test]
    fn keys_have_the_number_of_bytes_asked_for() {
        for (encoding, length) in [(KeyEncoding::Raw, 32), (KeyEncoding::Hex, 64), (KeyEncoding::Base64, 44)] {
            assert_eq!(Policy::Key { bytes: 32, encoding }.draw().unwrap().len(), length);
        }
    }

    #[test]
    fn a_policy_that_is_too_weak_or_cannot_be_met_is_refused() {
        let password = |length, alphabets: &[&str]| Policy::Password {
            length,
            alphabets: alphabets.iter().map(|a| (*a).to_owned()).collect(),
            no_look_alikes: true,
        };
        for weak in [
            Policy::password(8),
            password(400, &[]),
            password(400, &["0Oo"]),
            password(64, &["ab", "ä"]),
            Policy::Key { bytes: 4, encoding: KeyEncoding::Raw },
            Policy::Key { bytes: MAX_VALUE_BYTES, encoding: KeyEncoding::Hex },
            Policy::password(MAX_VALUE_BYTES + 1),
        ] {
            assert!(weak.draw().is_err(), "{weak:?}");
        }
        assert!(password(64, &["ab"]).draw().is_ok());
    }

    /// A thousand of each are expected, give or take 31: a bias of a quarter stands out and chance doesn't reach it.
    #[test]
    fn characters_are_drawn_evenly() {
        let union: Vec<u8> = (b'a'..=b'z').collect();
        let drawn = characters(26_000, &union).unwrap();
        let mut counts = std::collections::BTreeMap::new();
        for letter in drawn.iter() {
            *counts.entry(char::from(*letter)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 26);
        assert!(counts.values().all(|count| (750..1250).contains(count)), "1000 of each expected: {counts:?}");
    }
}
