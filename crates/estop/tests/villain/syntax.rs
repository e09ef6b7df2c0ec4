//! The grammar, as far as the scripts of the tests use it: lists with `;`, newlines, `&`, `&&` and `||`; pipelines and `!`;
//! `if`, `while`, `until`, `for`, `case`, `{ … }`, `( … )`; redirections of the three standard streams. No functions, no
//! here-documents, no other descriptors, no wildcards but in `case`.

use crate::words::Word;

/// Commands one after another.
pub(crate) type List = Vec<Item>;

/// One command of a list.
pub(crate) struct Item {
    pub(crate) chain: Chain,
    pub(crate) background: bool,
}

/// Pipelines joined by `&&` and `||`.
pub(crate) struct Chain {
    pub(crate) first: Pipeline,
    /// Each with what the one before has to come to for it: success or not.
    pub(crate) rest: Vec<(bool, Pipeline)>,
    pub(crate) text: String,
}

/// Commands joined by `|`.
pub(crate) struct Pipeline {
    pub(crate) negated: bool,
    pub(crate) commands: Vec<Command>,
}

/// A command with its redirections.
pub(crate) struct Command {
    pub(crate) kind: Kind,
    pub(crate) redirections: Vec<Redirection>,
    pub(crate) text: String,
}

/// The kinds of commands.
pub(crate) enum Kind {
    Simple {
        assignments: Vec<(String, Word)>,
        words: Vec<Word>,
    },
    Group(List),
    /// Run by another process, which reads it again.
    Subshell(String),
    If {
        branches: Vec<(List, List)>,
        otherwise: List,
    },
    Loop {
        condition: List,
        until: bool,
        body: List,
    },
    For {
        name: String,
        words: Option<Vec<Word>>,
        body: List,
    },
    Case {
        subject: Word,
        arms: Vec<(Vec<Word>, List)>,
    },
}

/// What becomes of one of the standard streams.
pub(crate) struct Redirection {
    pub(crate) stream: usize,
    pub(crate) to: Target,
}

/// Where a stream goes.
pub(crate) enum Target {
    Read(Word),
    Write(Word),
    Append(Word),
    Same(usize),
    Closed,
}

/// Reads a script.
///
/// # Errors
/// What in it is not understood.
pub(crate) fn parse(script: &str) -> Result<List, String> {
    let mut parser = Parser { source: script, at: 0 };
    let list = parser.list(&[])?;
    if parser.rest().is_empty() { Ok(list) } else { Err(parser.unexpected()) }
}

/// A script, and how far it was read.
pub(crate) struct Parser<'a> {
    pub(crate) source: &'a str,
    pub(crate) at: usize,
}

impl<'a> Parser<'a> {
    pub(crate) fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    pub(crate) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(crate) fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    pub(crate) fn eat(&mut self, text: &str) -> bool {
        let there = self.rest().starts_with(text);
        if there {
            self.at += text.len();
        }
        there
    }

    pub(crate) fn unexpected(&self) -> String {
        let shown: String = self.rest().chars().take(20).collect();
        if shown.is_empty() { "unexpected end".to_owned() } else { format!("not understood: {shown}") }
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        if self.eat(text) { Ok(()) } else { Err(format!("{text} expected; {}", self.unexpected())) }
    }

    fn blanks(&mut self) {
        while self.eat(" ") || self.eat("\t") || self.eat("\\\n") {}
        if self.peek() == Some('#') {
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn lines(&mut self) {
        self.blanks();
        while self.eat("\n") || self.eat("\r\n") {
            self.blanks();
        }
    }

    /// The bare word that is next, if it can be a reserved one.
    fn bare(&self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|one: char| one.is_whitespace() || ";&|()<>".contains(one)).unwrap_or(rest.len());
        &rest[..end]
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.blanks();
        self.bare() == word && self.eat(word)
    }

    fn expect_keyword(&mut self, word: &str) -> Result<(), String> {
        self.lines();
        if self.keyword(word) { Ok(()) } else { Err(format!("{word} expected; {}", self.unexpected())) }
    }

    /// Up to one of the words `ends`, a `)`, a `;;` or the end, which are left there.
    pub(crate) fn list(&mut self, ends: &[&str]) -> Result<List, String> {
        let mut list = List::new();
        loop {
            self.lines();
            let rest = self.rest();
            if rest.is_empty() || rest.starts_with(')') || rest.starts_with(";;") || ends.contains(&self.bare()) {
                return Ok(list);
            }
            let chain = self.chain()?;
            self.blanks();
            let background = self.eat("&");
            list.push(Item { chain, background });
            self.blanks();
            let more =
                background || self.eat("\n") || self.eat("\r\n") || !self.rest().starts_with(";;") && self.eat(";");
            let over = self.rest().is_empty() || self.rest().starts_with(')') || self.rest().starts_with(";;");
            if !more && !over {
                return Err(self.unexpected());
            }
        }
    }

    fn chain(&mut self) -> Result<Chain, String> {
        let begun = self.at;
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            let text = self.source[begun..self.at].to_owned();
            self.blanks();
            let succeeded = self.eat("&&");
            if !succeeded && !self.eat("||") {
                return Ok(Chain { first, rest, text });
            }
            self.lines();
            rest.push((succeeded, self.pipeline()?));
        }
    }

    fn pipeline(&mut self) -> Result<Pipeline, String> {
        let negated = self.keyword("!");
        let mut commands = vec![self.command()?];
        loop {
            self.blanks();
            if self.rest().starts_with("||") || !self.eat("|") {
                return Ok(Pipeline { negated, commands });
            }
            self.lines();
            commands.push(self.command()?);
        }
    }

    fn command(&mut self) -> Result<Command, String> {
        self.blanks();
        let begun = self.at;
        let mut redirections = Vec::new();
        let kind = match self.bare() {
            "if" => self.branches()?,
            word @ ("while" | "until") => {
                self.eat(word);
                let condition = self.list(&["do"])?;
                Kind::Loop { condition, until: word == "until", body: self.body()? }
            }
            "for" => self.each()?,
            "case" => self.arms()?,
            "{" => {
                self.eat("{");
                let list = self.list(&["}"])?;
                self.expect_keyword("}")?;
                Kind::Group(list)
            }
            _ if self.eat("(") => {
                let inner = self.at;
                self.list(&[])?;
                let text = self.source[inner..self.at].to_owned();
                self.expect(")")?;
                Kind::Subshell(text)
            }
            _ => self.simple(&mut redirections)?,
        };
        let mut end = self.at;
        while let Some(redirection) = self.redirection()? {
            redirections.push(redirection);
            end = self.at;
        }
        Ok(Command { kind, redirections, text: self.source[begun..end].to_owned() })
    }

    fn simple(&mut self, redirections: &mut Vec<Redirection>) -> Result<Kind, String> {
        let (mut assignments, mut words) = (Vec::new(), Vec::new());
        loop {
            if let Some(redirection) = self.redirection()? {
                redirections.push(redirection);
            } else if words.is_empty()
                && let Some((name, _)) = self.bare().split_once('=')
                && is_name(name)
            {
                self.at += name.len() + 1;
                assignments.push((name.to_owned(), self.word()?.unwrap_or_default()));
            } else if let Some(word) = self.word()? {
                words.push(word);
            } else if assignments.is_empty() && words.is_empty() && redirections.is_empty() {
                return Err(self.unexpected());
            } else {
                return Ok(Kind::Simple { assignments, words });
            }
        }
    }

    /// With the blanks before it.
    fn redirection(&mut self) -> Result<Option<Redirection>, String> {
        self.blanks();
        let rest = self.rest();
        let numbered = rest.starts_with(|one: char| one.is_ascii_digit()) && rest[1..].starts_with(['<', '>']);
        if !numbered && !rest.starts_with(['<', '>']) {
            return Ok(None);
        }
        let given = if numbered { self.next().and_then(|digit| digit.to_digit(10)) } else { None };
        let reads = self.peek() == Some('<');
        let stream = given.map_or(usize::from(!reads), |digit| digit as usize);
        if stream > 2 || self.rest().starts_with("<<") {
            return Err(self.unexpected());
        }
        let append = self.eat(">>");
        if !append {
            self.next();
        }
        let to = if !append && self.eat("&") {
            match self.next() {
                Some('-') => Target::Closed,
                Some(digit @ '0'..='2') => Target::Same(digit as usize - '0' as usize),
                _ => return Err("a stream expected".to_owned()),
            }
        } else {
            self.blanks();
            let word = self.word()?.ok_or_else(|| self.unexpected())?;
            match (reads, append) {
                (true, _) => Target::Read(word),
                (false, true) => Target::Append(word),
                (false, false) => Target::Write(word),
            }
        };
        Ok(Some(Redirection { stream, to }))
    }

    fn body(&mut self) -> Result<List, String> {
        self.expect_keyword("do")?;
        let body = self.list(&["done"])?;
        self.expect_keyword("done")?;
        Ok(body)
    }

    fn branches(&mut self) -> Result<Kind, String> {
        let mut branches = Vec::new();
        while self.keyword("if") && branches.is_empty() || self.keyword("elif") {
            let condition = self.list(&["then"])?;
            self.expect_keyword("then")?;
            branches.push((condition, self.list(&["elif", "else", "fi"])?));
        }
        let otherwise = if self.keyword("else") { self.list(&["fi"])? } else { List::new() };
        self.expect_keyword("fi")?;
        Ok(Kind::If { branches, otherwise })
    }

    fn each(&mut self) -> Result<Kind, String> {
        self.eat("for");
        self.blanks();
        let name = self.bare();
        self.eat(name);
        if !is_name(name) {
            return Err(format!("for: no name: {name}"));
        }
        self.lines();
        let words = if self.keyword("in") {
            let mut words = Vec::new();
            self.blanks();
            while let Some(word) = self.word()? {
                words.push(word);
                self.blanks();
            }
            Some(words)
        } else {
            None
        };
        self.eat(";");
        Ok(Kind::For { name: name.to_owned(), words, body: self.body()? })
    }

    fn arms(&mut self) -> Result<Kind, String> {
        self.eat("case");
        self.blanks();
        let subject = self.word()?.ok_or_else(|| self.unexpected())?;
        self.expect_keyword("in")?;
        let mut arms = Vec::new();
        loop {
            self.lines();
            if self.keyword("esac") {
                return Ok(Kind::Case { subject, arms });
            }
            self.eat("(");
            let mut patterns = Vec::new();
            while patterns.is_empty() || self.eat("|") {
                self.blanks();
                patterns.push(self.word()?.ok_or_else(|| self.unexpected())?);
                self.blanks();
            }
            self.expect(")")?;
            let list = self.list(&["esac"])?;
            self.lines();
            self.eat(";;");
            arms.push((patterns, list));
        }
    }
}

/// Whether a variable can be called that.
pub(crate) fn is_name(text: &str) -> bool {
    !text.starts_with(|one: char| one.is_ascii_digit())
        && !text.is_empty()
        && text.chars().all(|one| one == '_' || one.is_ascii_alphanumeric())
}
