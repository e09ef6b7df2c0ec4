//! Masking the secrets that a workload was given in what it says.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use estop_secrets::exposure::Stamp;
use estop_secrets::{ExposureLedger, SecretValue, StoreError};
use memchr::memmem;

use super::keys::Keys;
use super::launch::block_on;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// What stands in a secret's place.
const MASK: &[u8] = b"***";
/// A shorter value would be found in half of all words.
const SHORTEST: usize = 6;
/// How long the store of secrets is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// After how long values are asked for again that could not be read.
const RETRY: Duration = Duration::from_secs(5);

/// The secrets that a workload was ever given, as far as their values are still known.
#[derive(Default)]
pub struct Masks {
    values: Vec<SecretValue>,
    /// How many it had been given when they were read.
    given: usize,
    /// How the ledger was when it was read.
    stamp: Option<Stamp>,
    /// When something of it could not be read, and why.
    failed: Option<(Instant, String)>,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masks").field("values", &self.values.len()).finish_non_exhaustive()
    }
}

impl Masks {
    /// Reads them, if the workload `name` was given more since the last time. The `site` is asked for only then.
    ///
    /// # Errors
    /// If one cannot be read that may still open something. Those that could be are masked all the same.
    pub fn read(&mut self, ledger: &ExposureLedger, name: &str, site: impl FnOnce() -> Result<Site>) -> Result<()> {
        let stamp = ledger.stamp();
        let known = self.stamp.as_ref().is_some_and(|earlier| stamp.is_still(earlier));
        match &self.failed {
            None if known => return Ok(()),
            // What is not known is not masked, as long as that lasts.
            Some((at, why)) if known && at.elapsed() < RETRY => return Err(Failure::failed(why.clone(), "")),
            _ => {}
        }
        let read = self.read_again(ledger, name, site);
        self.stamp = Some(stamp);
        self.failed = read.as_ref().err().map(|failure| (Instant::now(), failure.message.clone()));
        read
    }

    fn read_again(&mut self, ledger: &ExposureLedger, name: &str, site: impl FnOnce() -> Result<Site>) -> Result<()> {
        let exposed = ledger.exposed_to(name)?;
        let given = exposed.values().map(BTreeSet::len).sum();
        if given == self.given {
            return Ok(());
        }
        let site = site()?;
        let reading = async {
            let keys = Keys::open(&site).await?;
            let (mut values, mut unread) = (Vec::new(), None);
            for (name, version) in
                exposed.iter().flat_map(|(name, all)| all.iter().map(move |version| (name, *version)))
            {
                match keys.store.read(name, Some(version)).await {
                    Ok(secret) => {
                        // As it looks in a text, if it is none.
                        if let Cow::Owned(shown) = String::from_utf8_lossy(secret.value.expose()) {
                            values.push(SecretValue::from(shown.as_str()));
                        }
                        values.push(secret.value);
                    }
                    // One that was revoked opens nothing any more, and nobody knows it.
                    Err(StoreError::NotFound { .. } | StoreError::Revoked { .. }) => {}
                    Err(error) => unread = Some(error),
                }
            }
            Ok::<_, Failure>((values, unread))
        };
        let (values, unread) = block_on(async {
            let in_time = tokio::time::timeout(PATIENCE, reading).await;
            in_time.unwrap_or_else(|_| Err(Failure::failed("the store of secrets does not answer in time", "")))
        })?;
        for value in values.into_iter().filter(|value| value.expose().len() >= SHORTEST) {
            // Those that were read before stay, also where they can be read no more.
            if !self.values.iter().any(|known| known.expose() == value.expose()) {
                self.values.push(value);
            }
        }
        // The longest first: one may be a part of another.
        self.values.sort_by_key(|value| std::cmp::Reverse(value.expose().len()));
        if let Some(error) = unread {
            return Err(error.into());
        }
        self.given = given;
        Ok(())
    }

    /// `text` without them.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for value in &self.values {
            let finder = memmem::Finder::new(value.expose());
            let places: Vec<usize> = finder.find_iter(&text).collect();
            for place in places.into_iter().rev() {
                text.splice(place..place + value.expose().len(), MASK.iter().copied());
            }
        }
        text
    }

    /// `text`, which may have been cut out of a longer one, without them, and without a part of one at its beginning or end.
    pub fn apply_to_part(&self, text: &[u8]) -> Vec<u8> {
        let mut text = self.apply(text);
        for value in self.values.iter().map(SecretValue::expose) {
            let longest = (value.len() - 1).min(text.len());
            let parts = || (SHORTEST..=longest).rev();
            if let Some(part) = parts().find(|&part| text.starts_with(&value[value.len() - part..])) {
                text.splice(..part, MASK.iter().copied());
            }
            let longest = longest.min(text.len());
            if let Some(part) = (SHORTEST..=longest).rev().find(|&part| text.ends_with(&value[..part])) {
                text.truncate(text.len() - part);
                text.extend_from_slice(MASK);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use estop_secrets::exposure::{Channel, Exposure};
    use estop_secrets::{SecretName, Version};

    use super::*;

    fn masks(values: &[&str]) -> Masks {
        Masks { values: values.iter().map(|value| SecretValue::from(*value)).collect(), ..Masks::default() }
    }

    fn part(masks: &Masks, text: &str) -> String {
        String::from_utf8_lossy(&masks.apply_to_part(text.as_bytes())).into_owned()
    }

    #[test]
    fn a_part_of_a_secret_at_an_edge_is_masked_and_little_of_one_is_none() {
        let masks = masks(&["correct-horse-battery", "staple-staple"]);
        assert_eq!(part(&masks, "say correct-horse-battery, twice"), "say ***, twice");
        assert_eq!(part(&masks, "say correct-ho"), "say ***");
        assert_eq!(part(&masks, "horse-battery, it says"), "***, it says");
        assert_eq!(part(&masks, "battery, corre"), "***, corre");
        assert_eq!(part(&masks, "ttery, corre"), "ttery, corre");
        assert_eq!(part(&masks, "aple-staple staple-st"), "*** ***");
        assert_eq!(part(&masks, ""), "");
    }

    /// Whoever writes down what was masked relies on it.
    #[test]
    fn what_could_not_be_read_is_not_taken_for_masked() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ExposureLedger::new(dir.path().join("exposure"));
        let name = SecretName::new("db/password".to_owned()).unwrap();
        ledger.record(&[Exposure::now("w", "run", name, Version(1), Channel::Env)]).unwrap();
        let mut masks = Masks::default();
        let mut read = || masks.read(&ledger, "w", || Err(Failure::failed("the Vault is away", "")));
        for _ in 0..3 {
            assert_eq!(read().unwrap_err().message, "the Vault is away");
        }
    }
}
