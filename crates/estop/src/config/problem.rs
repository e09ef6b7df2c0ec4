//! What is wrong with a configuration, shown where it is.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fmt::Write as _, io};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};
use serde_json::{Value, json};

use super::document::{Document, KeyPath};
use crate::config::SCHEMA_VERSION;

/// Names that are this much alike (Jaro-Winkler) are suggested for each other.
const ALIKE: f64 = 0.8;

/// One thing that is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to do, if that is known.
    pub hint: Option<String>,
    /// The key concerned, if it is one.
    pub key: Option<KeyPath>,
    /// Where in the text, in bytes.
    span: Option<Range<usize>>,
}

impl Problem {
    /// A problem with the value of `key`.
    pub(super) fn at(key: KeyPath, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()), key: Some(key), span: None }
    }

    /// A problem at a place in the text.
    pub(super) fn spanned(span: Range<usize>, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { message: message.into(), hint, key: None, span: Some(span) }
    }

    /// What the parser said, in words for a person.
    pub(super) fn from_toml(error: &toml::de::Error) -> Self {
        let (message, hint) = explain(error.message());
        Self { message, hint, key: None, span: error.span() }
    }

    /// The same, known to be in the section `path`, whose name stands at `at`. What is missing has no place of its own.
    pub(super) fn within(mut self, path: &KeyPath, at: Range<usize>) -> Self {
        if self.span.is_none() || self.message.ends_with("is missing") {
            self.span = Some(at);
        }
        self.key = Some(path.clone());
        self
    }

    fn place(&mut self, document: &Document) {
        if self.span.is_none() {
            self.span = self.key.as_ref().and_then(|key| document.span(key));
        }
        self.span = self.span.take().map(|span| clamp(&document.text, &span));
    }
}

/// Keeps a span inside the text and on the borders of characters.
fn clamp(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start.min(text.len()));
    let end = text.ceil_char_boundary(span.end.clamp(start, text.len()));
    start..end
}

/// The parser's message as a message and a hint.
fn explain(message: &str) -> (String, Option<String>) {
    if let Some((message, hint)) = message.split_once('\n') {
        return (message.to_owned(), Some(hint.replace('\n', "; ")));
    }
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message, quoted.split_first()) {
        (text, Some((unknown, known))) if text.starts_with("unknown field") => {
            (format!("unknown key `{unknown}`"), Some(suggest(unknown, known, "keys here")))
        }
        (text, Some((unknown, known))) if text.starts_with("unknown variant") => {
            (format!("`{unknown}` is not one of the choices"), Some(suggest(unknown, known, "choices")))
        }
        (text, Some((missing, _))) if text.starts_with("missing field") => {
            (format!("the key `{missing}` is missing"), None)
        }
        (text, _) => {
            let kinds = [("invalid type: ", "wrong type"), ("invalid value: ", "wrong value")];
            let known = kinds.into_iter().find_map(|(prefix, kind)| Some((text.strip_prefix(prefix)?, kind)));
            let Some((rest, kind)) = known else { return (text.to_owned(), None) };
            match rest.split_once(", expected ") {
                Some((found, expected)) => {
                    (format!("{kind}: {found}"), Some(format!("this has to be {}", in_words(expected))))
                }
                None => (format!("{kind}: {rest}"), None),
            }
        }
    }
}

/// What the parser expected, in words for a person who doesn't write Rust.
fn in_words(expected: &str) -> &str {
    match expected {
        "u64" => "a whole number that is not negative",
        "u32" => "a whole number from 0 to 4294967295",
        "a boolean" => "true or false",
        "a string" => "a text in quotes",
        "path string" => "a path in quotes",
        "a sequence" => "an array: [ … ]",
        "a map" => "a table: { … }",
        other if other.starts_with("struct ") => "a table: { … }",
        other => other,
    }
}

/// The known name that is most like `unknown`; else all of them.
pub(super) fn suggest(unknown: &str, known: &[&str], what: &str) -> String {
    let wanted = unknown.replace('-', "_").to_ascii_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&wanted, &name.replace('-', "_").to_ascii_lowercase());
    let nearest = known.iter().map(|name| (likeness(name), name)).max_by(|left, right| left.0.total_cmp(&right.0));
    match nearest {
        Some((likeness, name)) if likeness >= ALIKE => format!("did you mean `{name}`?"),
        _ if known.is_empty() => format!("there are no {what}"),
        _ => format!("the {what} are {}", known.join(", ")),
    }
}

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It can't be read.
    #[error("can't read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was read, and something in it is wrong.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// All that is wrong with one configuration.
#[derive(Debug)]
pub struct Invalid {
    document: Document,
    problems: Vec<Problem>,
}

impl std::error::Error for Invalid {}

impl Invalid {
    pub(super) fn new(document: Document, mut problems: Vec<Problem>) -> Self {
        for problem in &mut problems {
            problem.place(&document);
        }
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(usize::MAX, |span| span.start));
        Self { document, problems }
    }

    /// What is wrong, in the order of the text.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn line_and_column(&self, problem: &Problem) -> Option<(usize, usize)> {
        let before = &self.document.text[..problem.span.as_ref()?.start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some((before.matches('\n').count() + 1, before[line_start..].chars().count() + 1))
    }

    fn report(&self, renderer: &Renderer) -> String {
        let origin = self.document.origin.display().to_string();
        let mut out = String::new();
        for problem in &self.problems {
            let mut group = Group::with_title(Level::ERROR.primary_title(normalize_untrusted_str(&problem.message)));
            match &problem.span {
                Some(span) => {
                    let annotation = AnnotationKind::Primary.span(span.clone());
                    group = group.element(Snippet::source(&self.document.text).path(&origin).annotation(annotation));
                }
                None => group = group.element(Level::NOTE.message(format!("in {origin}"))),
            }
            if let Some(hint) = &problem.hint {
                group = group.element(Level::HELP.message(normalize_untrusted_str(hint)));
            }
            out.push_str(&renderer.render(&[group]));
            out.push_str("\n\n");
        }
        // Writing to a string can't fail.
        let _ = write!(out, "{self}");
        out
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.document.origin.display();
        match self.problems.as_slice() {
            [only] => write!(out, "the configuration {origin} is not valid: {}", only.message),
            [first, ..] => {
                write!(out, "the configuration {origin} has {} problems, first: {}", self.problems.len(), first.message)
            }
            [] => write!(out, "the configuration {origin} is not valid"),
        }
    }
}

impl ConfigError {
    /// What is wrong in the text; empty if it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid(invalid) => invalid.problems(),
        }
    }

    /// The file concerned.
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. } => path,
            Self::Invalid(invalid) => &invalid.document.origin,
        }
    }

    /// What to do, in one sentence.
    pub fn hint(&self) -> String {
        match self {
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "create it, or name another with --config or ESTOP_CONFIG".into()
            }
            Self::Unreadable { .. } => "make it a readable text file in UTF-8, or name another with --config".into(),
            Self::Invalid(invalid) => invalid
                .problems
                .iter()
                .find_map(|problem| problem.hint.clone())
                .unwrap_or_else(|| "`estop config schema` describes every key".into()),
        }
    }

    /// For a person: each problem with the line it is in and a caret under it.
    pub fn render(&self, colour: bool) -> String {
        match self {
            Self::Unreadable { .. } => format!("error: {self}\n  help: {}", self.hint()),
            Self::Invalid(invalid) => {
                let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
                invalid.report(&renderer)
            }
        }
    }

    /// For a program: the answer that every failed command gives with `--json`, with all problems beside the first.
    pub fn to_json(&self) -> Value {
        let problems: Vec<Value> = match self {
            Self::Unreadable { .. } => Vec::new(),
            Self::Invalid(invalid) => invalid.problems.iter().map(|problem| invalid.problem_json(problem)).collect(),
        };
        let message = self.to_string();
        json!({
            "schema_version": SCHEMA_VERSION,
            "error": { "kind": "config", "message": message, "hint": self.hint(), "problems": problems },
        })
    }
}

impl Invalid {
    fn problem_json(&self, problem: &Problem) -> Value {
        let place = self.line_and_column(problem);
        json!({
            "message": problem.message,
            "hint": problem.hint,
            "key": problem.key.as_ref().map(KeyPath::to_string),
            "path": self.document.origin,
            "line": place.map(|(line, _)| line),
            "column": place.map(|(_, column)| column),
        })
    }
}
