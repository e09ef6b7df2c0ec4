//! Words: what is quoted in them, and what is to be put in its place.

use crate::syntax::{Parser, is_name};

/// A word as it is written.
pub(crate) type Word = Vec<Part>;

/// A part of a word.
pub(crate) enum Part {
    /// As it stands.
    Text(String),
    /// `$NAME`, `${NAME}`, `$1`, `$@`, `$?` and so on. Quoted, it stays one word.
    Parameter { name: String, quoted: bool },
    /// `$((…))`.
    Arithmetic(Word),
    /// `$(…)`.
    Output { script: String, quoted: bool },
}

/// The tests write the paths of the host into their scripts as they are. Hence, on Windows only: a backslash before a letter, a
/// digit, or one of `.-_~`, where it would mean nothing, stands for itself, and so does `\\?\`, which begins a verbatim path.
const PATHS_HAVE_BACKSLASHES: bool = cfg!(windows);
const VERBATIM: &str = r"\\?\";

impl Parser<'_> {
    /// The word that is next; none if something else is.
    pub(crate) fn word(&mut self) -> Result<Option<Word>, String> {
        let mut word = Word::new();
        while let Some(next) = self.peek().filter(|next| !next.is_whitespace() && !";&|()<>".contains(*next)) {
            match next {
                '\'' => {
                    let inner = &self.rest()[1..];
                    let length = inner.find('\'').ok_or("a ' is not closed")?;
                    text(&mut word, &inner[..length]);
                    self.at += length + 2;
                }
                '"' => {
                    self.next();
                    text(&mut word, "");
                    self.quoted(&mut word, Some('"'))?;
                }
                '\\' => self.backslash(&mut word, |_| true),
                '$' => self.dollar(&mut word, false)?,
                '`' => return Err(self.unexpected()),
                _ => self.plain(&mut word),
            }
        }
        Ok((!word.is_empty()).then_some(word))
    }

    fn plain(&mut self, word: &mut Word) {
        let from = self.rest();
        if let Some(next) = self.next() {
            text(word, &from[..next.len_utf8()]);
        }
    }

    /// `quotes` says before which characters it takes away what they mean.
    fn backslash(&mut self, word: &mut Word, quotes: impl Fn(char) -> bool) {
        if PATHS_HAVE_BACKSLASHES && self.eat(VERBATIM) {
            return text(word, VERBATIM);
        }
        self.next();
        match self.peek() {
            Some('\n') => {
                self.next();
            }
            Some(next) if PATHS_HAVE_BACKSLASHES && (next.is_alphanumeric() || ".-_~".contains(next)) => {
                text(word, "\\");
            }
            Some(next) if quotes(next) => self.plain(word),
            _ => text(word, "\\"),
        }
    }

    /// What is between double quotes, up to and with `end`.
    fn quoted(&mut self, word: &mut Word, end: Option<char>) -> Result<(), String> {
        while self.peek() != end {
            match self.peek() {
                None => return Err("a \" is not closed".to_owned()),
                Some('\\') => self.backslash(word, |next| "$`\"\\".contains(next)),
                Some('$') => self.dollar(word, true)?,
                Some('`') => return Err(self.unexpected()),
                Some(_) => self.plain(word),
            }
        }
        self.next();
        Ok(())
    }

    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Result<(), String> {
        self.next();
        if self.eat("((") {
            let rest = self.rest();
            let balanced = |text: &str| text.matches('(').count() == text.matches(')').count();
            let mut ends = rest.char_indices().map(|(at, _)| at).filter(|at| rest[*at..].starts_with("))"));
            let length = ends.find(|at| balanced(&rest[..*at])).ok_or("a $(( is not closed")?;
            let mut inner = Word::new();
            Parser { source: &rest[..length], at: 0 }.quoted(&mut inner, None)?;
            self.at += length + 2;
            word.push(Part::Arithmetic(inner));
        } else if self.eat("(") {
            let begun = self.at;
            self.list(&[])?;
            let script = self.source[begun..self.at].to_owned();
            if !self.eat(")") {
                return Err(self.unexpected());
            }
            word.push(Part::Output { script, quoted });
        } else if self.eat("{") {
            let length = self.rest().find('}').ok_or("a ${ is not closed")?;
            let name = self.rest()[..length].to_owned();
            if !is_name(&name) && !is_special(&name) {
                return Err(format!("not understood: ${{{name}}}"));
            }
            self.at += length + 1;
            word.push(Part::Parameter { name, quoted });
        } else {
            let rest = self.rest();
            let end = rest.find(|one: char| one != '_' && !one.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let first = self.peek().map_or(0, char::len_utf8);
            let name = [&rest[..end], &rest[..first]].into_iter().find(|name| is_name(name) || is_special(name));
            if let Some(name) = name {
                self.at += name.len();
                word.push(Part::Parameter { name: name.to_owned(), quoted });
            } else {
                text(word, "$");
            }
        }
        Ok(())
    }
}

fn is_special(name: &str) -> bool {
    ["@", "*", "#", "?", "$", "!"].contains(&name) || name.len() == 1 && name.as_bytes()[0].is_ascii_digit()
}

fn text(word: &mut Word, more: &str) {
    match word.last_mut() {
        Some(Part::Text(text)) => text.push_str(more),
        _ => word.push(Part::Text(more.to_owned())),
    }
}
