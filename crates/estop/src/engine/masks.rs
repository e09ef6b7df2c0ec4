//! Taking the secrets that a workload was given out of what it has written or is called with.

use estop_secrets::SecretValue;
use memchr::memmem;

use super::keys::{Keys, ledger};
use super::launch::block_on;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// What stands in a secret's place.
const MASK: &[u8] = b"***";
/// A shorter value would be found in half of all words.
const SHORTEST: usize = 6;

/// The secrets that a workload was ever given, as far as their values are still known.
#[derive(Default)]
pub struct Masks {
    values: Vec<SecretValue>,
    /// How many it had been given when they were read.
    given: usize,
}

impl Masks {
    /// Reads those of the workload `name`, if it was given more since the last time.
    ///
    /// # Errors
    /// If they cannot be read. Those that are known stay.
    pub fn read(&mut self, site: &Site, name: &str) -> Result<()> {
        let exposed = ledger(site).exposed_to(name)?;
        let given = exposed.values().map(std::collections::BTreeSet::len).sum();
        if given == self.given {
            return Ok(());
        }
        let values = block_on(async {
            let keys = Keys::open(site).await?;
            let mut values = Vec::new();
            for (name, version) in
                exposed.iter().flat_map(|(name, all)| all.iter().map(move |version| (name, *version)))
            {
                // One that was revoked opens nothing any more, and nobody knows it.
                if let Ok(secret) = keys.store.read(name, Some(version)).await {
                    values.push(secret.value);
                }
            }
            Ok::<_, Failure>(values)
        })?;
        self.values.extend(values.into_iter().filter(|value| value.expose().len() >= SHORTEST));
        // The longest first: one may be a part of another.
        self.values.sort_by_key(|value| std::cmp::Reverse(value.expose().len()));
        self.given = given;
        Ok(())
    }

    /// `text`, with [`MASK`] in the place of each.
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
}
