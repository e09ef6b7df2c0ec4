//! The thread that follows the processes of jobs.
//!
//! It follows whatever this process starts, and learns later which of that is the guardian of which job: so nothing is missed
//! between a job's start and the word of it.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::lineage::{Event, Job, Lineage, Taken, Used};
use super::pace::Pace;
use super::platform::{self, Stream, Waker};
use super::words::Reader;
use super::{Redact, Source, Store};
use crate::Result;
use crate::error::Context as _;
use crate::job::{Exit, ProcessId};
use crate::registry::{Entry, JobDir};

/// How often jobs are looked at where the kernel tells of their processes, to make up for what it does not tell: a process that
/// has another one's child made its own parent's.
const LOOK_BESIDE: Duration = Duration::from_secs(2);
/// How often they are looked at where it does not tell.
const LOOK_ONLY: Duration = Duration::from_millis(100);
/// A look may cost this share of the time until the next one: where nobody tells, and beside that.
const LOOK_ONLY_SHARE: f64 = 0.01;
const LOOK_BESIDE_SHARE: f64 = 0.001;
/// How long after a change it is written, at least.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// What is written of a history in a second, in bytes, for long.
const WRITE_RATE: f64 = 256.0 * 1024.0;
/// How long after a change it is written at the earliest: what a process is called with has been read by then, and most commands
/// have ended.
const SETTLE: Duration = Duration::from_millis(200);
/// How long after a failure it is written again. On a full disk others need what little room is made.
const WRITE_AGAIN: Duration = Duration::from_mins(1);
/// How long arguments stay unmasked in memory.
const MASK_EVERY: Duration = Duration::from_millis(250);
/// As long as what happens concerns nobody who is followed, it is taken at most this often: a busy host has thousands of other
/// processes, and each would wake this one.
const STRANGERS: Duration = Duration::from_millis(5);
/// How long what happens is taken at once after something that concerned somebody: to read what a process is called with before
/// it ends.
const ALERT: Duration = Duration::from_millis(50);
/// How long is waited to be told of the last ends of a job.
const LAST_ENDS: Duration = Duration::from_millis(200);
/// How long what this process started is remembered after its end without anybody having said what it was.
const UNCLAIMED: Duration = Duration::from_secs(10);
/// How many records of what was used are kept until the next word.
const EARLY: usize = 4096;
/// How many batches are taken before anything else is seen to.
const BATCHES: usize = 16;
/// How long somebody waits for the tracker to have written everything.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

const NOBODY: &str = "no estop followed it";
const NO_ROOM: &str = "more happened on this host than could be told";

/// Follows the processes of jobs and keeps their histories.
#[derive(Debug)]
pub struct Tracker {
    messages: Sender<Message>,
    waker: Waker,
    over: Mutex<Receiver<()>>,
    told: bool,
}

#[derive(Debug)]
enum Message {
    Follow(JobDir, Box<Entry>),
    End { name: String, id: String, main: Option<(ProcessId, Option<Exit>)> },
    Over,
}

impl Tracker {
    /// Starts to follow what this process starts from now on. What is kept goes to `store`, without what `redact` takes out.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(store: Store, redact: Box<dyn Redact>) -> Result<Self> {
        let (messages, inbox) = channel();
        let (finished, over) = channel();
        let (waker, stream) = (Waker::new()?, Stream::open());
        let (told, woken) = (stream.is_told(), waker.clone());
        let thread = std::thread::Builder::new().name("history".to_owned());
        thread
            .spawn(move || {
                Desk::new(stream, woken, inbox, store, redact).run();
                // Whoever waited may have given up.
                let _ = finished.send(());
            })
            .doing("start a thread for the histories of jobs")?;
        Ok(Self { messages, waker, over: Mutex::new(over), told })
    }

    /// Whether the kernel tells of processes here; otherwise they are looked for.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// Follows the job in `dir`, of this record: one whose guardian this process started, or one that it adopts.
    pub fn follow(&self, dir: &JobDir, entry: &Entry) {
        self.say(Message::Follow(dir.clone(), Box::new(entry.clone())));
    }

    /// The job `id` called `name` has ended, its main process as it says there. That is written soon.
    pub fn end(&self, name: &str, id: &str, main: Option<(ProcessId, Option<Exit>)>) {
        self.say(Message::End { name: name.to_owned(), id: id.to_owned(), main });
    }

    /// Writes what is not written yet and follows nothing any more. Returns once that is done, or it takes too long.
    pub fn close(&self) {
        self.say(Message::Over);
        // The second time it has gone already.
        let _ = self.over.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(CLOSE_WAIT);
    }

    fn say(&self, message: Message) {
        // A tracker that has gone keeps nothing any more.
        let _ = self.messages.send(message);
        self.waker.wake();
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.close();
    }
}

/// What is followed of one guardian's.
struct Following {
    lineage: Lineage,
    /// The job's record; `None` until somebody says.
    entry: Option<(JobDir, Entry)>,
    /// When the guardian's end was told.
    ended: Option<Instant>,
    look_at: Instant,
    /// Since when something is to be written.
    dirty: Option<Instant>,
    /// Not earlier than this.
    write_at: Instant,
}

struct Desk {
    stream: Stream,
    waker: Waker,
    inbox: Receiver<Message>,
    store: Store,
    redact: Box<dyn Redact>,
    reader: Reader,
    pace: Pace,
    own: u32,
    /// By the guardian's process ID.
    jobs: HashMap<u32, Following>,
    /// Whose each process is.
    of: HashMap<u32, u32>,
    /// What was told and not noted yet.
    events: Vec<Event>,
    /// What was used by processes of whose start there was no word yet: most are nobody's.
    early: Vec<(u32, Used)>,
    /// When nothing more was told.
    drained: Timestamp,
    /// When something last concerned somebody.
    concerned: Instant,
    mask_at: Instant,
    over: bool,
}

impl Desk {
    fn new(stream: Stream, waker: Waker, inbox: Receiver<Message>, store: Store, redact: Box<dyn Redact>) -> Self {
        Self {
            stream,
            waker,
            inbox,
            store,
            redact,
            reader: Reader::new(),
            pace: Pace::new(),
            own: std::process::id(),
            jobs: HashMap::new(),
            of: HashMap::new(),
            events: Vec::new(),
            early: Vec::new(),
            drained: Timestamp::now(),
            concerned: Instant::now(),
            mask_at: Instant::now(),
            over: false,
        }
    }

    fn run(mut self) {
        while !self.over {
            let leisure = self.leisure();
            self.stream.wait(&self.waker, leisure);
            self.take();
            self.hear();
            self.look();
            self.keep();
            let rest = self.pace.rest();
            if !rest.is_zero() {
                Stream::rest(&self.waker, rest);
            } else if self.concerned.elapsed() > ALERT {
                Stream::rest(&self.waker, STRANGERS);
            }
        }
        // They go on without this process, and are written as they are now.
        for following in self.jobs.values_mut() {
            following.write(&self.store, &mut *self.redact, false);
        }
    }

    /// How long there is nothing to be done.
    fn leisure(&mut self) -> Duration {
        let now = Instant::now();
        let mask_at = self.mask_at;
        let due = self.jobs.values_mut().flat_map(|following| {
            let look = following.entry.is_some().then_some(following.look_at);
            let write = following.write_due(now).map(|due| due.min(mask_at));
            let forget = following.ended.filter(|_| following.entry.is_none()).map(|ended| ended + UNCLAIMED);
            look.into_iter().chain(write).chain(forget)
        });
        due.min().map_or(Duration::from_mins(1), |due| due.saturating_duration_since(now))
    }

    /// Takes what was told: what happened, and then what was used by those who have ended.
    fn take(&mut self) {
        for _ in 0..BATCHES {
            let before = self.drained;
            let mut events = std::mem::take(&mut self.events);
            let Taken { more, lost, over } = self.stream.take(|event| events.push(event));
            events.drain(..).for_each(|event| self.note(event));
            self.events = events;
            let now = Timestamp::now();
            if lost || over {
                for following in self.jobs.values_mut() {
                    following.lineage.gap(before, now, NO_ROOM);
                    following.look_at = Instant::now();
                }
            }
            if over {
                self.stream.close();
                self.jobs.values_mut().for_each(|following| following.lineage.look_from_now_on());
            }
            if !more {
                self.drained = now;
                break;
            }
        }
        // Who started and ended since the last word was taken is known by now.
        for (process, used) in std::mem::take(&mut self.early) {
            if let Some(following) = self.of.get(&process).and_then(|guardian| self.jobs.get_mut(guardian)) {
                following.lineage.used(process, used);
            }
        }
        let (of, jobs, early) = (&self.of, &mut self.jobs, &mut self.early);
        self.stream.take_used(|process, used| match of.get(&process).and_then(|guardian| jobs.get_mut(guardian)) {
            Some(following) => following.lineage.used(process, used),
            None if early.len() < EARLY => early.push((process, used)),
            None => {}
        });
        self.settle();
    }

    fn note(&mut self, event: Event) {
        if let Event::Fork { child, at, .. } = &event
            && let Some(before) = self.of.get(&child.pid).and_then(|guardian| self.jobs.get_mut(guardian))
            && before.lineage.has_lost(*child, *at)
        {
            self.of.remove(&child.pid);
        }
        let process = match &event {
            Event::Fork { parent, .. } => *parent,
            Event::Thread { process } | Event::Exec { process } => *process,
            Event::Exit { process, .. } => *process,
        };
        let guardian = match (self.of.get(&process), &event) {
            (Some(&guardian), _) => guardian,
            (None, Event::Fork { child, .. }) if process == self.own => {
                self.of.insert(child.pid, child.pid);
                self.jobs.insert(child.pid, Following::of(Lineage::new(child.pid, Source::Events)));
                self.concerned = Instant::now();
                return;
            }
            _ => return,
        };
        self.concerned = Instant::now();
        let Some(following) = self.jobs.get_mut(&guardian) else { return };
        let lineage = &mut following.lineage;
        match event {
            Event::Fork { parent, child, at } => {
                lineage.fork(parent, child, at);
                if lineage.holds(child.pid) {
                    self.of.insert(child.pid, guardian);
                }
            }
            Event::Thread { process } => lineage.thread(process),
            Event::Exec { process } => lineage.exec(process, &mut self.reader),
            Event::Exit { process, leader: true, .. } if process == guardian => {
                following.ended = Some(Instant::now());
                self.of.remove(&process);
            }
            Event::Exit { process, leader, status, at } => {
                lineage.exit(process, leader, status, at);
                if !lineage.holds(process) {
                    self.of.remove(&process);
                }
            }
        }
    }

    /// Takes note of ends, now that what they used is known.
    fn settle(&mut self) {
        let mut gone = Vec::new();
        self.jobs.values_mut().for_each(|following| following.lineage.settle(&mut gone));
        for process in gone {
            self.of.remove(&process);
        }
        let unclaimed = |following: &Following| {
            following.entry.is_none() && following.ended.is_some_and(|ended| ended.elapsed() > UNCLAIMED)
        };
        for (_, following) in self.jobs.extract_if(|_, following| unclaimed(following)) {
            for process in following.lineage.pids() {
                self.of.remove(&process);
            }
        }
    }

    fn hear(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Follow(dir, entry) => self.follow(dir, *entry),
                Message::End { name, id, main } => self.end(&name, &id, main),
                Message::Over => self.over = true,
            }
        }
    }

    fn follow(&mut self, dir: JobDir, entry: Entry) {
        let guardian = entry.guardian.pid;
        // Otherwise it was followed from its first fork on.
        if !self.jobs.contains_key(&guardian) {
            let adopted = self.adopt(&entry);
            self.jobs.insert(guardian, Following::of(adopted));
            self.of.insert(guardian, guardian);
        }
        let Some(following) = self.jobs.get_mut(&guardian) else { return };
        following.lineage.job =
            Some(Job { name: entry.name.clone(), id: entry.id.clone(), tier: entry.tier, isolation: entry.isolation });
        following.lineage.changed = true;
        following.entry = Some((dir, entry));
        following.look_at = Instant::now();
    }

    /// A job that runs already: what was written of it before goes on, with a gap since then.
    fn adopt(&self, entry: &Entry) -> Lineage {
        let now = Timestamp::now();
        let source = if self.stream.is_told() { Source::Events } else { Source::Sampled };
        let mut lineage = Lineage::new(entry.guardian.pid, source);
        let own = entry.starter.is_some_and(|starter| starter.pid == self.own);
        match self.store.read(&entry.name, &entry.id) {
            Ok(Some(history)) => {
                let as_of = history.as_of;
                lineage.resume(history);
                lineage.gap(as_of, now, NOBODY);
            }
            // It has only just been started, and nothing is told here.
            Ok(None) if own && source == Source::Sampled => {}
            // One that cannot be read is begun anew: what was in it is missing.
            Ok(None) | Err(_) => lineage.gap(entry.started.parse().unwrap_or(now), now, NOBODY),
        }
        lineage
    }

    fn end(&mut self, name: &str, id: &str, main: Option<(ProcessId, Option<Exit>)>) {
        let followed = |following: &Following| following.lineage.job.as_ref().is_some_and(|job| job.id == id);
        let guardian = self.jobs.iter().find(|(_, following)| followed(following)).map(|(guardian, _)| *guardian);
        let deadline = Instant::now() + LAST_ENDS;
        while let Some(guardian) = guardian
            && self.stream.is_told()
            && !self.jobs[&guardian].lineage.is_empty()
            && Instant::now() < deadline
        {
            self.stream.wait(&self.waker, LAST_ENDS / 20);
            self.take();
        }
        let now = Timestamp::now();
        let following = guardian.and_then(|guardian| self.jobs.remove(&guardian));
        let Some(mut following) = following.or_else(|| self.unfollowed(name, id, now)) else { return };
        for process in following.lineage.pids() {
            self.of.remove(&process);
        }
        self.reader.catch_up();
        following.lineage.close(now, main);
        following.write(&self.store, &mut *self.redact, true);
    }

    /// A job that has ended while nobody followed it, as it was written before that.
    fn unfollowed(&self, name: &str, id: &str, now: Timestamp) -> Option<Following> {
        let history = self.store.read(name, id).ok().flatten().filter(|history| history.closed.is_none())?;
        let mut lineage = Lineage::new(0, history.source);
        lineage.job =
            Some(Job { name: name.to_owned(), id: id.to_owned(), tier: history.tier, isolation: history.isolation });
        let as_of = history.as_of;
        lineage.resume(history);
        lineage.gap(as_of, now, NOBODY);
        Some(Following::of(lineage))
    }

    /// Looks at the jobs of which it is time to.
    fn look(&mut self) {
        let told = self.stream.is_told();
        for (guardian, following) in &mut self.jobs {
            let due = following.look_at <= Instant::now();
            let Some((dir, entry)) = following.entry.as_ref().filter(|_| due) else { continue };
            let started = Instant::now();
            if let Some(seen) = platform::look(dir, entry) {
                following.lineage.looked(seen, Timestamp::now(), &mut self.reader);
                let lineage = &following.lineage;
                self.of.retain(|pid, of| of != guardian || pid == guardian || lineage.holds(*pid));
                for process in lineage.pids() {
                    self.of.entry(process).or_insert(*guardian);
                }
            }
            // One that was removed to make room for others, and goes on.
            following.lineage.changed |= !self.store.has(&entry.name, &entry.id);
            let (every, share) = if told { (LOOK_BESIDE, LOOK_BESIDE_SHARE) } else { (LOOK_ONLY, LOOK_ONLY_SHARE) };
            following.look_at = Instant::now() + every.max(started.elapsed().div_f64(share));
        }
    }

    /// Masks and writes what it is time for.
    fn keep(&mut self) {
        let now = Instant::now();
        let mask = self.mask_at <= now;
        if mask {
            self.mask_at = now + MASK_EVERY;
        }
        for following in self.jobs.values_mut().filter(|following| following.lineage.changed) {
            if mask {
                following.lineage.mask(&mut *self.redact);
            }
            if following.write_due(now).is_some_and(|due| due <= now) {
                following.write(&self.store, &mut *self.redact, false);
            }
        }
    }
}

impl Following {
    fn of(lineage: Lineage) -> Self {
        let now = Instant::now();
        Self { lineage, entry: None, ended: None, look_at: now, dirty: None, write_at: now }
    }

    /// When it is to be written, if it is.
    fn write_due(&mut self, now: Instant) -> Option<Instant> {
        if !self.lineage.changed || self.entry.is_none() {
            return None;
        }
        let dirty = *self.dirty.get_or_insert(now);
        Some(self.write_at.max(dirty + SETTLE))
    }

    fn write(&mut self, store: &Store, redact: &mut dyn Redact, closed: bool) {
        let Some(history) = self.lineage.history(Timestamp::now(), closed, redact) else { return };
        // What cannot be written now, as on a full disk, is tried again later: the history says by its time how old it is.
        let written = store.write(&history);
        self.lineage.changed = written.is_err();
        self.dirty = None;
        #[expect(clippy::cast_precision_loss, reason = "the size of a file")]
        let pause = written.map_or(WRITE_AGAIN, |size| Duration::from_secs_f64(size as f64 / WRITE_RATE));
        self.write_at = Instant::now() + pause.max(WRITE_EVERY);
    }
}
