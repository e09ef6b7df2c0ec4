//! Answers: JSON for programs, text for people. Results go to standard output, everything else to standard error.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::{Code, Failure};
use crate::platform::terminal::takes_colours;

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// One JSON object on standard output.
    pub json: bool,
    /// Say nothing but results and errors.
    pub quiet: bool,
    /// How much more to say.
    pub verbose: u8,
    /// Whether standard error takes colours.
    pub colour: bool,
}

impl Output {
    /// Answers as asked for; colours only for a person at a terminal.
    pub fn new(json: bool, quiet: bool, verbose: u8) -> Self {
        let plain = json || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, quiet, verbose, colour: !plain && std::io::stderr().is_terminal() && takes_colours() }
    }

    /// A result: the object for programs, what `text` makes of it for people.
    pub fn result<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        let mut answer = if self.json {
            serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"))
        } else {
            text(value)
        };
        if !answer.is_empty() && !answer.ends_with('\n') {
            answer.push('\n');
        }
        // Whoever closed the pipe has read enough.
        let _ = std::io::stdout().lock().write_all(answer.as_bytes());
    }

    /// A word to a person, beside the result.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Something that is wrong beside the result; said even where little is to be said.
    pub fn warn(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{} {text}", self.paint(AnsiColor::Yellow, "warning:"));
    }

    /// Reports a failure and answers its exit code.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        if self.json {
            let _ = writeln!(std::io::stdout(), "{}", failure.to_json());
        } else {
            let _ = writeln!(std::io::stderr(), "{}", failure.render(self.colour));
        }
        failure.code.into()
    }

    /// Ends a command: its code, or its failure.
    pub fn end(&self, result: crate::failure::Result<Code>) -> ExitCode {
        match result {
            Ok(code) => code.into(),
            Err(failure) => self.fail(&failure),
        }
    }

    /// `text` in a colour, if colours are wanted.
    pub fn paint(&self, colour: AnsiColor, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let style = Style::new().fg_color(Some(colour.into())).bold();
        format!("{style}{text}{style:#}")
    }
}

/// Columns of text, each as wide as its widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

/// A number of bytes for a person.
pub fn bytes(number: u64) -> String {
    bytesize::ByteSize(number).to_string()
}

/// A time in seconds for a person.
pub fn seconds(number: f64) -> String {
    match number {
        short if short < 0.001 => format!("{:.0} µs", short * 1e6),
        short if short < 1.0 => format!("{:.1} ms", short * 1e3),
        long if long < 60.0 => format!("{long:.2} s"),
        long => format!("{:.0} min {:.0} s", (long / 60.0).floor(), long % 60.0),
    }
}

/// A moment for a person: UTC, to the second.
pub fn moment(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Names and what they are, one a line.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    pairs.iter().map(|(name, value)| format!("{name:<width$}  {value}").trim_end().to_owned() + "\n").collect()
}

/// `text` without anything that a terminal would take for an order. Names of files and processes are chosen by others.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// `count` and the word for it.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
