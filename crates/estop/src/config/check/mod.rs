//! Whether a configuration makes sense on this host: everything that doesn't is gathered before anything starts.

mod names;
mod paths;
mod secrets;
mod stores;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use super::{Config, ConfigError, Invalid, KeyPath, Period, Problem};

pub use names::is_name;

/// What is done again and again has this long between, at least.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Refuses something that would be done all the time.
fn interval(every: Option<Period>, name: &str, key: &KeyPath, problems: &mut Vec<Problem>) {
    if let Some(every) = every.filter(|every| every.duration() < SHORTEST_INTERVAL) {
        let message = format!("{name} is {every}");
        problems.push(Problem::at(key.clone().key(name), message, "give it a second or more, or remove it"));
    }
}

/// Which secrets there are already. Implemented by whoever has the secret store at hand.
pub trait KnownSecrets {
    /// Whether a secret of this name is in the store.
    fn is_known(&self, name: &str) -> bool;
}

/// What a check has to know beside the file.
pub struct Surroundings<'a> {
    /// The state directory in effect.
    pub state_dir: PathBuf,
    /// The run directory in effect.
    pub run_dir: PathBuf,
    /// The secret store, where it can be asked. Without it only `[secret.NAME]` sections count as defined.
    pub known_secrets: Option<&'a dyn KnownSecrets>,
}

impl std::fmt::Debug for Surroundings<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Surroundings")
            .field("state_dir", &self.state_dir)
            .field("run_dir", &self.run_dir)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks what a parser can't see: names, references, limits and their order, paths and how they lie to each other, commands, users.
    /// Reads the host and changes nothing.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all that is wrong.
    pub fn check(&self, surroundings: &Surroundings<'_>) -> Result<(), ConfigError> {
        let mut problems: Vec<Problem> = Vec::new();
        names::check(self, &mut problems);
        workloads::check(self, &mut problems);
        secrets::check(self, surroundings, &mut problems);
        stores::check(self, &mut problems);
        paths::check(self, surroundings, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(Invalid::new(self.document.clone(), problems).into()) }
    }
}
