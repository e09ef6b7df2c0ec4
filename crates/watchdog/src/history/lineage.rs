//! Following the processes of one job: by what the kernel tells, and by looks.
//!
//! A process belongs to the job if its parent does. What the guardian itself starts does not, unless it executes a program: the
//! job's init and the copies of the guardian that write something down never do.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::book::{Book, Line};
use super::words::{Reader, Redact, Words};
use super::{Gap, History, LIVE_LIMIT, Member, Present, Source};
use crate::job::{Exit, Isolation, ProcessId, Tier};

/// How far the start time that is reckoned from an event may be from the one that `/proc` shows, in ticks.
const START_SLACK: u64 = 100;

/// What is seen of one process by a look at it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) id: ProcessId,
    pub(super) parent: u32,
    pub(super) command: String,
    pub(super) state: char,
    pub(super) user: Option<u32>,
    pub(super) started: Timestamp,
    pub(super) cpu: Option<Duration>,
    pub(super) memory: u64,
    pub(super) memory_peak: Option<u64>,
    /// It has ended and was not reaped; and how it ended, if that could be read.
    pub(super) dead: bool,
    pub(super) exit: Option<Exit>,
}

impl Seen {
    pub(super) fn present(self) -> Present {
        let member = Member {
            user: self.user,
            command: self.command,
            cpu_seconds: self.cpu.map(|cpu| cpu.as_secs_f64()),
            memory_peak_bytes: self.memory_peak,
            ..started(self.id, self.started)
        };
        Present { member, parent: self.parent, state: self.state, memory_bytes: self.memory }
    }
}

/// What a process, or one of its threads, has used by its end.
#[derive(Clone, Debug)]
pub(super) struct Used {
    pub(super) cpu: Duration,
    pub(super) memory_peak: Option<u64>,
    pub(super) user: u32,
    /// It was the first thread.
    pub(super) leader: bool,
    pub(super) command: String,
}

/// How taking went what the kernel had to tell.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// There may be more.
    pub(super) more: bool,
    /// It had no room for some of it.
    pub(super) lost: bool,
    /// It does not tell any more.
    pub(super) over: bool,
}

/// What is told of processes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// A process has started another.
    Fork { parent: u32, child: ProcessId, at: Timestamp },
    /// A process has one thread more.
    Thread { process: u32 },
    /// A process executes another program.
    Exec { process: u32 },
    /// A thread has ended; the first one of its process or another.
    Exit { process: u32, leader: bool, status: i32, at: Timestamp },
}

/// Which job it is.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) tier: Tier,
    pub(super) isolation: Isolation,
}

/// A process that lives.
#[derive(Debug)]
struct Seat {
    line: Line,
    /// Threads beside the first.
    threads: u64,
    /// Its first thread has ended so.
    leader: Option<(i32, Timestamp)>,
    /// What its threads that have ended used.
    used: Option<Used>,
    /// The start time was read, not reckoned.
    exact: bool,
    /// The last look did not find it.
    missed: bool,
}

/// What there is for a process ID.
#[derive(Debug)]
enum Place {
    /// The guardian, or what it has started and is no program.
    Outside(ProcessId, Timestamp),
    Inside(Box<Seat>),
    /// In the job, and beyond what is listed.
    Counted,
}

/// The processes that descend from one guardian.
#[derive(Debug)]
pub(super) struct Lineage {
    guardian: u32,
    /// Which job it is; `None` until somebody says.
    pub(super) job: Option<Job>,
    source: Source,
    places: HashMap<u32, Place>,
    listed: usize,
    /// Those whose end was told, until what they used is told too.
    ending: Vec<u32>,
    pub(super) book: Book,
    /// Something is to be written.
    pub(super) changed: bool,
}

impl Lineage {
    pub(super) fn new(guardian: u32, source: Source) -> Self {
        Self {
            guardian,
            job: None,
            source,
            places: HashMap::new(),
            listed: 0,
            ending: Vec::new(),
            book: Book::default(),
            changed: true,
        }
    }

    /// Goes on with what was written of the job before. Those that lived then are looked for.
    pub(super) fn resume(&mut self, history: History) {
        let (ended, live): (Vec<_>, Vec<_>) = history.processes.into_iter().partition(|member| member.ended.is_some());
        self.book = Book::resumed(ended.into_iter(), history.omitted, history.gaps);
        if history.source == Source::Sampled {
            self.source = Source::Sampled;
        }
        for member in live {
            // If the first look does not find it, it is gone.
            self.insert(Seat { missed: true, ..Seat::of(Line { member, words: None }) });
        }
    }

    /// The IDs that belong to it, the guardian's included.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.places.keys().copied().chain([self.guardian])
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.places.values().any(|place| !matches!(place, Place::Outside(..)))
    }

    /// A process is started somewhere, `child`. If its ID was one's of these, the word of that one's end was lost.
    pub(super) fn has_lost(&mut self, child: ProcessId, at: Timestamp) -> bool {
        let lost = match self.places.get(&child.pid) {
            Some(Place::Inside(seat)) => !seat.is(child),
            Some(Place::Outside(id, _)) => id.start_time.abs_diff(child.start_time) > START_SLACK,
            Some(Place::Counted) | None => false,
        };
        if lost {
            self.end(child.pid, None, at);
        }
        lost
    }

    pub(super) fn fork(&mut self, parent: u32, child: ProcessId, at: Timestamp) {
        let known = parent == self.guardian || self.places.contains_key(&parent);
        // Or a look was faster than the word of it.
        if !known || self.places.contains_key(&child.pid) {
            return;
        }
        self.changed = true;
        if parent == self.guardian {
            self.places.insert(child.pid, Place::Outside(child, at));
            return;
        }
        let mut line = Line { member: started(child, at), words: None };
        if let Some(Place::Inside(seat)) = self.places.get(&parent) {
            line.member.parent = Some(seat.line.member.id);
            line.member.user = seat.line.member.user;
            // The same program in the same memory, until it executes another.
            line.member.command.clone_from(&seat.line.member.command);
            line.member.arguments.clone_from(&seat.line.member.arguments);
            line.words.clone_from(&seat.line.words);
        }
        self.insert(Seat::of(line));
    }

    pub(super) fn thread(&mut self, process: u32) {
        if let Some(Place::Inside(seat)) = self.places.get_mut(&process) {
            seat.threads += 1;
        }
    }

    pub(super) fn exec(&mut self, process: u32, reader: &mut Reader) {
        if process == self.guardian {
            return;
        }
        self.changed = true;
        if let Some(&Place::Outside(id, at)) = self.places.get(&process) {
            self.places.remove(&process);
            self.insert(Seat::of(Line { member: started(id, at), words: None }));
        }
        let Some(Place::Inside(seat)) = self.places.get_mut(&process) else { return };
        // The thread that executes is the only one from then on, and the first one, whichever it was before.
        (seat.threads, seat.leader) = (0, None);
        (seat.line.member.command, seat.line.member.arguments) = (String::new(), None);
        seat.line.words = Some(reader.read(seat.line.member.id));
    }

    pub(super) fn used(&mut self, process: u32, used: Used) {
        if let Some(Place::Inside(seat)) = self.places.get_mut(&process) {
            seat.used = Some(match seat.used.take() {
                None => used,
                Some(before) => {
                    let (cpu, memory_peak) = (before.cpu + used.cpu, before.memory_peak.max(used.memory_peak));
                    let named = if used.leader { used } else { before };
                    Used { cpu, memory_peak, ..named }
                }
            });
        }
    }

    pub(super) fn exit(&mut self, process: u32, leader: bool, status: i32, at: Timestamp) {
        match self.places.get_mut(&process) {
            Some(Place::Inside(seat)) => {
                match (&mut seat.leader, leader) {
                    (_, true) => seat.leader = Some((status, at)),
                    // The last thread may end the process after its first one has ended, with an answer of its own.
                    (Some((answer, end)), false) => {
                        (*answer, *end) = (if status == 0 { *answer } else { status }, at);
                        seat.threads = seat.threads.saturating_sub(1);
                    }
                    (None, false) => seat.threads = seat.threads.saturating_sub(1),
                }
                if seat.leader.is_some() && seat.threads == 0 {
                    self.ending.push(process);
                }
            }
            Some(Place::Counted) if leader => {
                self.places.remove(&process);
                self.book.omit();
                self.changed = true;
            }
            Some(Place::Outside(..)) if leader => drop(self.places.remove(&process)),
            _ => {}
        }
    }

    /// Takes note of those whose end was told, once what they used was told too.
    pub(super) fn settle(&mut self, gone: &mut Vec<u32>) {
        for process in std::mem::take(&mut self.ending) {
            let Some(Place::Inside(seat)) = self.places.get(&process) else { continue };
            let Some((status, at)) = seat.leader.filter(|_| seat.threads == 0) else { continue };
            self.end(process, Some(answer(status)), at);
            gone.push(process);
        }
    }

    /// Takes note of what a look has found. Those that were there at the last look and at this one are not any more have ended.
    pub(super) fn looked(&mut self, seen: Vec<Seen>, at: Timestamp, reader: &mut Reader) {
        let sampled = self.source == Source::Sampled;
        let mut missing: HashSet<u32> = self.inside().map(|(pid, _)| pid).collect();
        for seen in seen {
            let pid = seen.id.pid;
            let same = match self.places.get(&pid) {
                Some(Place::Outside(..)) => continue,
                Some(Place::Counted) => true,
                Some(Place::Inside(seat)) => seat.is(seen.id),
                None => false,
            };
            if !same {
                if self.places.contains_key(&pid) {
                    // The one of before has ended unnoticed, and its ID is another's.
                    self.end(pid, None, at);
                }
                if seen.dead && !sampled {
                    // Its end was told already.
                    continue;
                }
                let parent = self.id_of(seen.parent);
                let member = Member { parent, ..started(seen.id, seen.started) };
                self.insert(Seat { exact: true, ..Seat::of(Line { member, words: None }) });
                self.changed = true;
            }
            let Some(Place::Inside(seat)) = self.places.get_mut(&pid) else { continue };
            if !seen.dead || !sampled {
                missing.remove(&pid);
            }
            self.changed |= seat.update(seen, reader);
        }
        for pid in missing {
            let Some(Place::Inside(seat)) = self.places.get_mut(&pid) else { continue };
            // Where the kernel tells, its word may still be on its way.
            if sampled || std::mem::replace(&mut seat.missed, true) {
                let exit = seat.line.member.exit;
                self.end(pid, exit, at);
            }
        }
    }

    /// All that live have ended by `at`, the main process so.
    pub(super) fn close(&mut self, at: Timestamp, main: Option<(ProcessId, Option<Exit>)>) {
        let left: Vec<u32> = self.places.keys().copied().collect();
        for pid in left {
            match self.places.get(&pid) {
                Some(Place::Inside(seat)) => {
                    let known = main.filter(|(main, _)| seat.is(*main)).and_then(|(_, exit)| exit);
                    let told = seat.leader.map(|(status, _)| answer(status));
                    let exit = told.or(known).or(seat.line.member.exit);
                    self.end(pid, exit, at);
                }
                Some(Place::Counted) => self.book.omit(),
                _ => {}
            }
        }
        if let Some((id, Some(exit))) = main {
            // A look may have missed it already.
            self.book.answer(id, exit);
        }
        self.places.clear();
        self.changed = true;
    }

    /// Nobody tells of its processes any more.
    pub(super) fn look_from_now_on(&mut self) {
        (self.source, self.changed) = (Source::Sampled, true);
    }

    pub(super) fn gap(&mut self, from: Timestamp, to: Timestamp, reason: &str) {
        self.book.gap(from, Some(to), reason);
        self.changed = true;
    }

    /// Takes out of what was read what is secret, and lets go of the rest.
    pub(super) fn mask(&mut self, redact: &mut dyn Redact) {
        let Some(job) = &self.job else { return };
        let lines = self.book.lines().chain(self.inside().map(|(_, seat)| &seat.line));
        let words: Vec<_> = lines.filter_map(|line| line.words.clone()).collect();
        if Words::redact(&job.name, words.into_iter(), redact) {
            self.book.settle();
        }
    }

    /// Whether the ID is one of its processes, or of those beside them.
    pub(super) fn holds(&self, pid: u32) -> bool {
        self.places.contains_key(&pid)
    }

    /// As it is written and shown, once what is secret was taken out.
    pub(super) fn history(&mut self, at: Timestamp, closed: bool, redact: &mut dyn Redact) -> Option<History> {
        self.mask(redact);
        let job = self.job.clone()?;
        let mut live: Vec<Member> = self.inside().map(|(_, seat)| seat.line.member()).collect();
        live.sort_by_key(|member| (member.started, member.id.pid));
        let counted = self.places.values().filter(|place| matches!(place, Place::Counted)).count();
        let gaps: Vec<Gap> = self.book.gaps().to_vec();
        Some(History {
            name: job.name,
            job: job.id,
            tier: job.tier,
            isolation: job.isolation,
            source: self.source,
            as_of: at,
            closed: closed.then_some(at),
            gaps,
            omitted: self.book.omitted() + counted as u64,
            processes: self.book.lines().map(Line::member).chain(live).collect(),
        })
    }

    fn inside(&self) -> impl Iterator<Item = (u32, &Seat)> {
        self.places.iter().filter_map(|(pid, place)| match place {
            Place::Inside(seat) => Some((*pid, &**seat)),
            _ => None,
        })
    }

    fn id_of(&self, pid: u32) -> Option<ProcessId> {
        match self.places.get(&pid) {
            Some(Place::Inside(seat)) => Some(seat.line.member.id),
            _ => None,
        }
    }

    fn insert(&mut self, seat: Seat) {
        let pid = seat.line.member.id.pid;
        if self.listed >= LIVE_LIMIT {
            self.places.insert(pid, Place::Counted);
            return;
        }
        self.listed += 1;
        self.places.insert(pid, Place::Inside(Box::new(seat)));
    }

    fn end(&mut self, pid: u32, exit: Option<Exit>, at: Timestamp) {
        self.changed = true;
        match self.places.remove(&pid) {
            Some(Place::Inside(seat)) => {
                self.listed -= 1;
                self.book.end(seat.ended(exit, at));
            }
            Some(Place::Counted) => self.book.omit(),
            _ => {}
        }
    }
}

impl Seat {
    fn of(line: Line) -> Self {
        Self { line, threads: 0, leader: None, used: None, exact: false, missed: false }
    }

    fn is(&self, id: ProcessId) -> bool {
        let own = self.line.member.id;
        let slack = if self.exact { 0 } else { START_SLACK };
        own.pid == id.pid && own.start_time.abs_diff(id.start_time) <= slack
    }

    /// Takes over what a look has shown. Whether that is worth writing down by itself.
    fn update(&mut self, seen: Seen, reader: &mut Reader) -> bool {
        let member = &mut self.line.member;
        (member.id, self.exact, self.missed) = (seen.id, true, false);
        member.user = seen.user.or(member.user);
        member.cpu_seconds = seen.cpu.map(|cpu| cpu.as_secs_f64()).or(member.cpu_seconds);
        member.memory_peak_bytes = member.memory_peak_bytes.max(seen.memory_peak);
        member.exit = seen.exit.or(member.exit);
        if member.command == seen.command {
            return false;
        }
        let known =
            self.line.words.as_ref().and_then(|words| words.raw()).is_some_and(|raw| raw.command == seen.command);
        member.command = seen.command;
        if !known && !seen.dead {
            // Whatever it did to be called otherwise, its arguments may have changed too.
            member.arguments = None;
            self.line.words = Some(reader.read(member.id));
        }
        true
    }

    fn ended(self, exit: Option<Exit>, at: Timestamp) -> Line {
        let Self { mut line, used, .. } = self;
        let member = &mut line.member;
        (member.exit, member.ended) = (exit, Some(at.max(member.started)));
        if let Some(used) = used {
            member.cpu_seconds = Some(used.cpu.as_secs_f64());
            member.memory_peak_bytes = used.memory_peak.or(member.memory_peak_bytes);
            member.user = Some(used.user);
            if used.leader {
                // The name that it had in the end.
                member.command = used.command;
            }
        }
        line
    }
}

fn started(id: ProcessId, at: Timestamp) -> Member {
    Member {
        id,
        parent: None,
        user: None,
        command: String::new(),
        arguments: None,
        started: at,
        ended: None,
        exit: None,
        cpu_seconds: None,
        memory_peak_bytes: None,
    }
}

/// What a wait status says.
pub(super) fn answer(status: i32) -> Exit {
    match status & 0x7f {
        0 => Exit { code: Some(status >> 8 & 0xff), signal: None },
        signal => Exit { code: None, signal: Some(signal) },
    }
}

#[cfg(test)]
mod tests;
