//! What words come to.

use std::io::Read as _;
use std::process::Stdio;

use crate::shell::{Exit, Shell};
use crate::words::{Part, Word};

/// The words that have come of others so far, and the one that is not over yet.
#[derive(Default)]
struct Fields {
    done: Vec<String>,
    open: Option<String>,
}

impl Fields {
    fn push(&mut self, text: &str) {
        self.open.get_or_insert_default().push_str(text);
    }

    fn end(&mut self) {
        self.done.extend(self.open.take());
    }

    /// Ends at every blank of `text`, unless it is `whole`.
    fn split(&mut self, text: &str, whole: bool) {
        if whole {
            return self.push(text);
        }
        for one in text.chars() {
            if one.is_whitespace() {
                self.end();
            } else {
                self.push(one.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

impl Shell {
    /// All the words that `words` come to.
    pub(crate) fn expand(&mut self, words: &[Word]) -> Result<Vec<String>, Exit> {
        let mut fields = Fields::default();
        for word in words {
            self.expand_into(&mut fields, word, false)?;
            fields.end();
        }
        Ok(fields.done)
    }

    /// The one word that `word` comes to where it is not split.
    pub(crate) fn expand_whole(&mut self, word: &Word) -> Result<String, Exit> {
        let mut fields = Fields::default();
        self.expand_into(&mut fields, word, true)?;
        Ok(fields.open.unwrap_or_default())
    }

    fn expand_into(&mut self, fields: &mut Fields, word: &Word, whole: bool) -> Result<(), Exit> {
        for part in word {
            match part {
                Part::Text(text) => fields.push(text),
                Part::Parameter { name, quoted: true } if name == "@" && !whole => {
                    for (number, argument) in self.arguments.iter().enumerate() {
                        if number > 0 {
                            fields.end();
                        }
                        fields.push(argument);
                    }
                }
                Part::Parameter { name, quoted } => fields.split(&self.parameter(name), whole || *quoted),
                Part::Arithmetic(inner) => {
                    let text = self.expand_whole(inner)?;
                    let mut sum = Sum { shell: self, rest: &text };
                    let value = sum.value().filter(|_| sum.rest.trim().is_empty());
                    let value = value.ok_or_else(|| self.fail(&format!("not understood: $(({text}))")))?;
                    fields.push(&value.to_string());
                }
                Part::Output { script, quoted } => fields.split(&self.output_of(script)?, whole || *quoted),
            }
        }
        Ok(())
    }

    /// The value of `$NAME`; nothing if it has none.
    pub(crate) fn parameter(&self, name: &str) -> String {
        match name {
            "@" | "*" => self.arguments.join(" "),
            "#" => self.arguments.len().to_string(),
            "?" => self.status.to_string(),
            "$" => std::process::id().to_string(),
            "!" => self.jobs.last().map(|job| job.id().to_string()).unwrap_or_default(),
            "0" => self.name.clone(),
            _ => match name.parse::<usize>() {
                Ok(number) => self.arguments.get(number - 1).cloned().unwrap_or_default(),
                Err(_) => self.variables.get(name).map(|variable| variable.value.clone()).unwrap_or_default(),
            },
        }
    }

    fn output_of(&mut self, script: &str) -> Result<String, Exit> {
        let mut command = self.subshell(script, &self.streams);
        command.stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.fail(&error.to_string()))?;
        // The command holds the other ends of what it was given.
        drop(command);
        let mut bytes = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut bytes).map_err(|error| self.fail(&error.to_string()))?;
        self.status = self.wait_for(&mut child);
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    }
}

/// A sum that is being read. Whole numbers, names, `+ - * / %` and parentheses.
struct Sum<'a> {
    shell: &'a Shell,
    rest: &'a str,
}

impl Sum<'_> {
    fn eat(&mut self, sign: char) -> bool {
        let stripped = self.rest.trim_start().strip_prefix(sign);
        self.rest = stripped.unwrap_or(self.rest);
        stripped.is_some()
    }

    fn value(&mut self) -> Option<i64> {
        let mut value = self.product()?;
        loop {
            if self.eat('+') {
                value = value.checked_add(self.product()?)?;
            } else if self.eat('-') {
                value = value.checked_sub(self.product()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<i64> {
        let mut value = self.atom()?;
        loop {
            if self.eat('*') {
                value = value.checked_mul(self.atom()?)?;
            } else if self.eat('/') {
                value = value.checked_div(self.atom()?)?;
            } else if self.eat('%') {
                value = value.checked_rem(self.atom()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn atom(&mut self) -> Option<i64> {
        if self.eat('-') {
            return self.atom()?.checked_neg();
        }
        if self.eat('(') {
            return self.value().filter(|_| self.eat(')'));
        }
        let rest = self.rest.trim_start();
        let end = rest.find(|one: char| one != '_' && !one.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        self.rest = after;
        if name.is_empty() || name.starts_with(|one: char| one.is_ascii_digit()) {
            return name.parse().ok();
        }
        let value = self.shell.parameter(name);
        // What is not set counts as nothing.
        if value.is_empty() { Some(0) } else { value.trim().parse().ok() }
    }
}

/// Whether `text` is as `pattern` says, where `*` is anything and `?` any one character.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| matches(rest.as_str(), &text[at..]))
        }
        Some(wanted) => {
            let mut others = text.chars();
            others.next().is_some_and(|one| wanted == '?' || wanted == one) && matches(rest.as_str(), others.as_str())
        }
    }
}
