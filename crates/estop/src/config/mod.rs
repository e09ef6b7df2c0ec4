//! The configuration file: read, checked and explained before anything starts.
//!
//! [`Config::load`] refuses what is not well-formed: grammar, unknown keys, wrong types. [`Config::check`] refuses what makes no sense on this
//! host: a command that isn't there, stores that overlap. Both gather everything that is wrong, each with its place in the text.

pub mod check;
pub mod daemon;
pub mod document;
pub mod generate;
pub mod health;
pub mod problem;
pub mod recovery;
pub mod rung;
pub mod schema;
pub mod secret;
pub mod stop;
pub mod store;
pub mod together;
pub mod units;
pub mod vault;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;
use toml::de::{DeString, DeValue};

pub use estop_watchdog::guardian::{OnBrainLoss, OnBreach};
pub use estop_watchdog::job::Tier;

pub use check::{KnownSecrets, Surroundings, is_name};
pub use daemon::{Daemon, LogFormat, LogLevel};
pub use document::KeyPath;
pub use generate::{Alphabet, Encoding, Generate};
pub use health::{Check, Probe};
pub use problem::{ConfigError, Invalid, Problem};
pub use recovery::{Recovery, Repair};
pub use rung::{At, Rung};
pub use secret::{Secret, Subscriber};
pub use stop::{Ask, StopStep};
pub use store::{Keep, Store};
pub use together::Together;
pub use units::{Command, Count, CpuPercent, Percent, Period, Size};
pub use vault::{Auth, Vault};
pub use workload::{Enforce, Ladder, Limits, Restart, Workload};

use document::{Document, section};

/// The version of the JSON objects printed here.
const SCHEMA_VERSION: u32 = 1;

/// No configuration written by a person is larger.
const LARGEST_FILE: u64 = 4 << 20;

/// The configuration of one estop. Paths in it are absolute: relative ones are relative to the file's folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// estop itself.
    #[serde(default)]
    pub estop: Daemon,
    /// The programs that it runs, by name.
    #[serde(default, rename = "workload")]
    pub workloads: BTreeMap<String, Workload>,
    /// The directories that it protects, by name.
    #[serde(default, rename = "store")]
    pub stores: BTreeMap<String, Store>,
    /// The secrets that it can rotate, by name. A name may hold slashes: `[secret."db/password"]`.
    #[serde(default, rename = "secret")]
    pub secrets: BTreeMap<String, Secret>,
    /// The Vault that holds the secrets. Without it they are in estop's own encrypted store.
    #[serde(default)]
    pub vault: Option<Vault>,
    /// What all workloads may have together.
    #[serde(default)]
    pub together: Together,
    /// What is put right after a `CRITICAL_STOP`.
    #[serde(default)]
    pub recovery: Recovery,
    /// The text, to point into.
    #[serde(skip)]
    document: Document,
}

/// The sections there are.
const SECTIONS: [&str; 7] = ["estop", "workload", "store", "secret", "vault", "together", "recovery"];

impl Config {
    /// All that `name` needs, and what that needs in turn.
    pub fn needs_of(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![name.to_owned()];
        while let Some(workload) = waiting.pop().and_then(|name| self.workloads.get(&name)) {
            waiting.extend(workload.needs.iter().filter(|need| found.insert((*need).clone())).cloned());
        }
        found
    }

    /// `names` and all that need one of them, those first that others do not need.
    pub fn with_dependants(&self, names: &[String]) -> Vec<String> {
        let needs = |name: &str| self.needs_of(name);
        let dependant = |name: &&String| !names.contains(name) && names.iter().any(|named| needs(name).contains(named));
        let mut all: Vec<String> = self.workloads.keys().filter(dependant).chain(names).cloned().collect();
        // Who needs somebody needs all that one needs, and that one.
        all.sort_by_key(|name| std::cmp::Reverse(needs(name).len()));
        all
    }

    /// Reads the configuration at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] if it can't be read or is no text; [`ConfigError::Invalid`] as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let size = fs::metadata(path).map_err(unreadable)?.len();
        if size > LARGEST_FILE {
            let source =
                io::Error::new(io::ErrorKind::FileTooLarge, format!("{size} bytes are too many for a configuration"));
            return Err(unreadable(source));
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Reads a configuration from `text`. `origin` is named in messages, and relative paths are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with all that is not well-formed: errors of grammar, unknown keys, values of a wrong type.
    pub fn parse(text: &str, origin: &Path) -> Result<Self, ConfigError> {
        let document = Document::new(text, origin);
        let mut problems = Vec::new();
        let mut config = Self::default();
        match document.tables() {
            Ok(tables) => {
                for (key, value) in tables {
                    config.read_section(&key, value, &mut problems);
                }
            }
            Err(errors) => problems = errors,
        }
        if !problems.is_empty() {
            return Err(Invalid::new(document, problems).into());
        }
        config.resolve(&folder(origin));
        config.document = document;
        Ok(config)
    }

    fn read_section<'i>(
        &mut self,
        key: &Spanned<DeString<'i>>,
        value: Spanned<DeValue<'i>>,
        problems: &mut Vec<Problem>,
    ) {
        let name = key.get_ref().as_ref();
        let path = KeyPath::section(name);
        match name {
            "estop" => self.estop = section(value, key, &path, problems).unwrap_or_default(),
            "workload" => self.workloads = named(value, key, problems),
            "store" => self.stores = named(value, key, problems),
            "secret" => self.secrets = named(value, key, problems),
            "vault" => self.vault = section(value, key, &path, problems),
            "together" => self.together = section(value, key, &path, problems).unwrap_or_default(),
            "recovery" => self.recovery = section(value, key, &path, problems).unwrap_or_default(),
            unknown => {
                let hint = problem::suggest(unknown, &SECTIONS, "sections");
                problems.push(Problem::spanned(key.span(), format!("unknown section `{unknown}`"), Some(hint)));
            }
        }
    }

    /// Makes all paths absolute.
    fn resolve(&mut self, base: &Path) {
        let absolute = |path: &mut PathBuf| *path = base.join(&path);
        let maybe = |path: &mut Option<PathBuf>| {
            if let Some(path) = path {
                absolute(path);
            }
        };
        maybe(&mut self.estop.state_dir);
        maybe(&mut self.estop.run_dir);
        for workload in self.workloads.values_mut() {
            let directory = workload.directory.get_or_insert_with(PathBuf::new);
            *directory = if directory.as_os_str().is_empty() { base.to_owned() } else { base.join(&directory) };
        }
        for store in self.stores.values_mut() {
            absolute(&mut store.path);
            maybe(&mut store.vault);
        }
        if let Some(vault) = &mut self.vault {
            maybe(&mut vault.ca_file);
            match &mut vault.auth {
                Auth::Token { token_file } => absolute(token_file),
                Auth::AppRole { secret_id_file, .. } => absolute(secret_id_file),
            }
        }
    }

    /// The file that it was read from.
    pub fn origin(&self) -> &Path {
        &self.document.origin
    }
}

/// The folder that `origin` lies in, absolute where the system can say so.
fn folder(origin: &Path) -> PathBuf {
    let absolute = std::path::absolute(origin).unwrap_or_else(|_| origin.to_owned());
    absolute.parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// Reads the sections below `key`, each by itself, so that one that is wrong doesn't hide another.
fn named<'i, T: DeserializeOwned>(
    value: Spanned<DeValue<'i>>,
    key: &Spanned<DeString<'i>>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, T> {
    let kind = key.get_ref();
    let span = value.span();
    let DeValue::Table(table) = value.into_inner() else {
        let hint = format!("write a section [{kind}.NAME] for each");
        problems.push(Problem::spanned(span, format!("wrong type: `{kind}` is not one value"), Some(hint)));
        return BTreeMap::new();
    };
    let mut sections = BTreeMap::new();
    for (name, value) in table {
        let path = KeyPath::section(kind).key(name.get_ref());
        if !value.get_ref().is_table() {
            let hint = format!(
                "write a section [{kind}.NAME] for each; \"{}\" stands outside of one",
                name.get_ref().escape_debug()
            );
            problems.push(Problem::spanned(name.span(), format!("wrong type: `{path}` is not a section"), Some(hint)));
        } else if let Some(section) = section(value, &name, &path, problems) {
            sections.insert(name.get_ref().to_string(), section);
        }
    }
    sections
}
