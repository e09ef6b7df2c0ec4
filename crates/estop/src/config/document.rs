//! The text of a configuration: its sections, and where in it each key stands.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::problem::Problem;

/// The way to a value: `workload.agent.stores[1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPath(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl KeyPath {
    /// The section `name`.
    #[must_use]
    pub fn section(name: &str) -> Self {
        Self::default().key(name)
    }

    /// The key `name` below.
    #[must_use]
    pub fn key(mut self, name: &str) -> Self {
        self.0.push(Segment::Key(name.to_owned()));
        self
    }

    /// The element `index` below, from 0.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Segment::Index(index));
        self
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(out, "[{index}]")?,
                Segment::Key(key) => {
                    if position > 0 {
                        out.write_str(".")?;
                    }
                    if is_bare(key) { out.write_str(key)? } else { write!(out, "{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Text, and where it is from.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub(super) origin: PathBuf,
    pub(super) text: String,
}

impl Document {
    pub(super) fn new(text: &str, origin: &Path) -> Self {
        Self { origin: origin.to_owned(), text: text.to_owned() }
    }

    /// The document as tables, or all that is wrong with its grammar.
    pub(super) fn tables(&self) -> Result<DeTable<'_>, Vec<Problem>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        if errors.is_empty() { Ok(table.into_inner()) } else { Err(errors.iter().map(Problem::from_toml).collect()) }
    }

    /// Where to point for `path`: the value there. Where it isn't in the text, the key above it that is.
    pub(super) fn span(&self, path: &KeyPath) -> Option<Range<usize>> {
        let table = self.tables().ok()?;
        let mut value = DeValue::Table(table);
        let mut span = None;
        for segment in &path.0 {
            let next = match (segment, value) {
                (Segment::Key(key), DeValue::Table(mut table)) => {
                    table.remove_entry(key.as_str()).map(|(key, value)| point(&key.span(), value))
                }
                (Segment::Index(index), DeValue::Array(array)) => {
                    array.into_iter().nth(*index).map(|value| point(&value.span(), value))
                }
                _ => None,
            };
            let Some((here, below)) = next else { break };
            span = Some(here);
            value = below;
        }
        span
    }
}

/// A table is pointed at by its key, anything else by itself.
fn point<'i>(key: &Range<usize>, value: Spanned<DeValue<'i>>) -> (Range<usize>, DeValue<'i>) {
    let span = value.span();
    let value = value.into_inner();
    (if value.is_table() { key.clone() } else { span }, value)
}

/// Reads one section; what is wrong with it goes to `problems`.
pub(super) fn section<'i, T: Deserialize<'i>>(
    value: Spanned<DeValue<'i>>,
    key: &Spanned<toml::de::DeString<'i>>,
    path: &KeyPath,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let missing_at = key.span();
    match T::deserialize(ValueDeserializer::from(value)) {
        Ok(section) => Some(section),
        Err(error) => {
            problems.push(Problem::from_toml(&error).within(path, missing_at));
            None
        }
    }
}
