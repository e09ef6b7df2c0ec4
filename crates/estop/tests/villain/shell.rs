//! Running a script.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command as Process};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::processes::Surroundings;
use crate::streams::{Streams, path, writer};
use crate::syntax::{Chain, Command, Item, Kind, Pipeline, Redirection, Target, parse};
use crate::words::Word;
use crate::{builtins, commands, expand};

/// The end of the script, with this code.
pub(crate) struct Exit(pub(crate) i32);

/// A variable.
pub(crate) struct Variable {
    pub(crate) value: String,
    pub(crate) exported: bool,
}

/// A shell at work.
pub(crate) struct Shell {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: BTreeMap<String, Variable>,
    pub(crate) streams: Streams,
    pub(crate) status: i32,
    /// What was started in the background.
    pub(crate) jobs: Vec<Child>,
    /// What is done when asked to end.
    pub(crate) traps: BTreeMap<&'static str, String>,
    pub(crate) heard: (Sender<&'static str>, Receiver<&'static str>),
}

impl Shell {
    pub(crate) fn new(name: String, arguments: Vec<String>, around: &Surroundings) -> Self {
        let exported =
            |(name, value): (&String, &String)| (name.clone(), Variable { value: value.clone(), exported: true });
        Self {
            name,
            arguments,
            variables: around.environment.iter().map(exported).collect(),
            streams: around.streams.clone(),
            status: 0,
            jobs: Vec::new(),
            traps: BTreeMap::new(),
            heard: channel(),
        }
    }

    /// Runs `script` to its end. Gives the exit code.
    pub(crate) fn run(&mut self, script: &str) -> i32 {
        let ended = parse(script).map_err(|error| self.fail(&error)).and_then(|list| self.list(&list));
        let Err(Exit(code)) = ended else { return self.status };
        code
    }

    /// Says what is wrong with the script, which ends it.
    pub(crate) fn fail(&self, message: &str) -> Exit {
        self.streams.complain(&format!("{}: {message}", self.name));
        Exit(2)
    }

    /// What a child is given.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let exported = self.variables.iter().filter(|(_, variable)| variable.exported);
        exported.map(|(name, variable)| (name.clone(), variable.value.clone())).collect()
    }

    pub(crate) fn set(&mut self, name: &str, value: String) {
        let exported = self.variables.get(name).is_some_and(|variable| variable.exported);
        self.variables.insert(name.to_owned(), Variable { value, exported });
    }

    fn list(&mut self, list: &[Item]) -> Result<(), Exit> {
        for item in list {
            if item.background {
                self.in_background(&item.chain)?;
            } else {
                self.chain(&item.chain)?;
            }
            self.heed()?;
        }
        Ok(())
    }

    /// Does what the script has to do for what it has heard.
    pub(crate) fn heed(&mut self) -> Result<(), Exit> {
        while let Ok(name) = self.heard.1.try_recv() {
            let action = self.traps.get(name).cloned().unwrap_or_default();
            let status = self.status;
            let list = parse(&action).map_err(|error| self.fail(&error))?;
            self.list(&list)?;
            self.status = status;
        }
        Ok(())
    }

    fn chain(&mut self, chain: &Chain) -> Result<(), Exit> {
        self.pipeline(&chain.first)?;
        for (wanted, pipeline) in &chain.rest {
            if (self.status == 0) == *wanted {
                self.pipeline(pipeline)?;
            }
        }
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline) -> Result<(), Exit> {
        if let [command] = &pipeline.commands[..] {
            self.command(command)?;
        } else {
            let mut input = None;
            let mut children = Vec::new();
            for (number, command) in pipeline.commands.iter().enumerate() {
                let mut streams = self.streams.clone();
                if let Some(input) = input.take() {
                    streams = streams.with(0, input);
                }
                if number + 1 < pipeline.commands.len() {
                    let (read, write) = std::io::pipe().map_err(|error| self.fail(&error.to_string()))?;
                    input = Some(read);
                    streams = streams.with(1, write);
                }
                children.push(self.start(command, &streams)?);
            }
            for child in &mut children {
                self.status = self.wait_for(child);
            }
        }
        if pipeline.negated {
            self.status = i32::from(self.status == 0);
        }
        Ok(())
    }

    fn in_background(&mut self, chain: &Chain) -> Result<(), Exit> {
        let mut streams = self.streams.clone();
        streams.0[0] = None;
        let alone = chain.rest.is_empty() && !chain.first.negated && chain.first.commands.len() == 1;
        let child = if alone {
            self.start(&chain.first.commands[0], &streams)?
        } else {
            self.spawn(self.subshell(&chain.text, &streams))?
        };
        self.jobs.push(child);
        self.status = 0;
        Ok(())
    }

    /// Starts a process for `command`.
    fn start(&mut self, command: &Command, streams: &Streams) -> Result<Child, Exit> {
        let process = match &command.kind {
            Kind::Simple { assignments, words } if assignments.is_empty() && command.redirections.is_empty() => {
                let words = self.expand(words)?;
                let around = Surroundings { environment: self.environment(), streams: streams.clone() };
                words.split_first().and_then(|(program, arguments)| around.command(program, arguments))
            }
            Kind::Subshell(script) if command.redirections.is_empty() => Some(self.subshell(script, streams)),
            _ => None,
        };
        let process = process.unwrap_or_else(|| self.subshell(&command.text, streams));
        self.spawn(process)
    }

    /// Starts it, or ends the script, as where a fork fails. Consumes the command, which holds the other ends of what it was given.
    fn spawn(&self, mut process: Process) -> Result<Child, Exit> {
        process.spawn().map_err(|error| self.fail(&error.to_string()))
    }

    fn command(&mut self, command: &Command) -> Result<(), Exit> {
        if let Kind::Simple { assignments, words } = &command.kind {
            return self.simple(assignments, words, &command.redirections);
        }
        let Some(streams) = self.redirected(&command.redirections)? else { return Ok(()) };
        let before = std::mem::replace(&mut self.streams, streams);
        let ended = self.compound(&command.kind);
        self.streams = before;
        ended
    }

    fn compound(&mut self, kind: &Kind) -> Result<(), Exit> {
        match kind {
            Kind::Simple { .. } => {}
            Kind::Group(list) => self.list(list)?,
            Kind::Subshell(script) => {
                let mut child = self.spawn(self.subshell(script, &self.streams))?;
                self.status = self.wait_for(&mut child);
            }
            Kind::If { branches, otherwise } => {
                for (condition, then) in branches {
                    self.list(condition)?;
                    if self.status == 0 {
                        return self.list(then);
                    }
                }
                self.status = 0;
                self.list(otherwise)?;
            }
            Kind::Loop { condition, until, body } => {
                let mut status = 0;
                loop {
                    self.list(condition)?;
                    if (self.status == 0) == *until {
                        break;
                    }
                    self.list(body)?;
                    status = self.status;
                }
                self.status = status;
            }
            Kind::For { name, words, body } => {
                let words = match words {
                    Some(words) => self.expand(words)?,
                    None => self.arguments.clone(),
                };
                self.status = 0;
                for word in words {
                    self.set(name, word);
                    self.list(body)?;
                }
            }
            Kind::Case { subject, arms } => {
                let subject = self.expand_whole(subject)?;
                self.status = 0;
                for (patterns, list) in arms {
                    for pattern in patterns {
                        if expand::matches(&self.expand_whole(pattern)?, &subject) {
                            return self.list(list);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn simple(&mut self, assignments: &[(String, Word)], words: &[Word], to: &[Redirection]) -> Result<(), Exit> {
        let words = self.expand(words)?;
        let mut assigned = Vec::new();
        for (name, value) in assignments {
            assigned.push((name, self.expand_whole(value)?));
        }
        let Some(streams) = self.redirected(to)? else { return Ok(()) };
        let Some((program, arguments)) = words.split_first() else {
            self.status = 0;
            for (name, value) in assigned {
                self.set(name, value);
            }
            return Ok(());
        };
        let mut environment = self.environment();
        environment.extend(assigned.into_iter().map(|(name, value)| (name.clone(), value)));
        if program == "exec" {
            let Some((program, arguments)) = arguments.split_first() else {
                self.streams = streams;
                self.status = 0;
                return Ok(());
            };
            return Err(Exit(Surroundings { environment, streams }.become_other(program, arguments)));
        }
        if let Some(builtin) = builtins::find(program) {
            let before = std::mem::replace(&mut self.streams, streams);
            let ended = builtin(self, arguments);
            self.streams = before;
            self.status = ended?;
        } else if let Some(command) = commands::find(program) {
            self.status = command(arguments, &streams);
        } else {
            let around = Surroundings { environment, streams };
            self.status = match around.command(program, arguments).map(|mut command| command.spawn()) {
                Some(Ok(mut child)) => self.wait_for(&mut child),
                Some(Err(error)) => {
                    around.streams.complain(&format!("{program}: {error}"));
                    126
                }
                None => around.not_found(program),
            };
        }
        Ok(())
    }

    /// The streams after `redirections`; none, and a failed command, if one of them cannot be had.
    fn redirected(&mut self, redirections: &[Redirection]) -> Result<Option<Streams>, Exit> {
        let mut streams = self.streams.clone();
        for Redirection { stream, to } in redirections {
            let (opened, word) = match to {
                Target::Same(other) => {
                    let same = streams.0[*other].clone();
                    streams.0[*stream] = same;
                    continue;
                }
                Target::Closed => {
                    streams.0[*stream] = None;
                    continue;
                }
                Target::Read(word) => self.expand_whole(word).map(|word| (File::open(path(&word)), word))?,
                Target::Write(word) => self.expand_whole(word).map(|word| (writer(&word, false), word))?,
                Target::Append(word) => self.expand_whole(word).map(|word| (writer(&word, true), word))?,
            };
            match opened {
                Ok(file) => streams = streams.with(*stream, file),
                Err(error) => {
                    self.streams.complain(&format!("{}: {word}: {error}", self.name));
                    self.status = 2;
                    return Ok(None);
                }
            }
        }
        Ok(Some(streams))
    }
}
