//! The guardian at work: waits for what happens, looks it up in the table and does it.

mod asking;
mod keeping;
mod limiting;
mod orders;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Sources;
use super::evidence::{Evidence, Recorder};
use super::health::Said;
use super::log::Log;
use super::outcome::Record;
use super::platform::{self, Helpers, KernelLog, Listener, NowFile, Raised, Return, Signals, Spare, Watched};
use super::spec::{GuardianSpec, OnBrainLoss};
use super::table::{Action, Event, State, action};
use super::wire::{DATAGRAM_LIMIT, fitting};
use crate::JobObjectManager;
use crate::job::{KILL, TERMINATE};
use crate::ladder::Breach;
use crate::latch::{Entry as LatchEntry, Handle as LatchHandle};
use crate::registry::{JobDir, Reserve};
use crate::stop::{Category, StopReport, StoppedBy};
use crate::throttle::Throttles;
use keeping::{BREACH, Kept, NOT_PROVEN, STOP};

/// How long a kill is tried before its survivors are reported. It goes on being tried after that.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long the latch is waited for.
const LATCH_WAIT: Duration = Duration::from_millis(100);
/// How long it is waited for once the job is killed.
const LATE_LATCH_WAIT: Duration = Duration::from_millis(500);
/// How long the kernel has to confirm a freeze.
const FREEZE_WAIT: Duration = Duration::from_millis(500);
/// How long nothing is looked at that the kernel would have said something of.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a kill that was not proven is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long one such retry lasts.
const RETRY_LIMIT: Duration = Duration::from_millis(100);
/// How long what a program left behind gets to end by itself.
const REST_GRACE: Duration = Duration::from_secs(2);
/// How long evidence may still be written after the job has ended.
const RECORD_WAIT: Duration = Duration::from_secs(2);
/// Callers that wait for the end of a stop.
const WAITING_LIMIT: usize = 64;

/// What the guardian opened before it started the program.
pub(super) struct Prepared {
    pub(super) spec: GuardianSpec,
    pub(super) job: JobObjectManager,
    pub(super) dir: JobDir,
    pub(super) reserve: Reserve,
    pub(super) listener: Listener,
    pub(super) latch_own: Arc<LatchHandle>,
    pub(super) latch_all: Arc<LatchHandle>,
    pub(super) now_file: NowFile,
    pub(super) signals: Signals,
    pub(super) spare: Spare,
    pub(super) log: Option<Log>,
    pub(super) kernel_log: Arc<KernelLog>,
    pub(super) said: Option<Said>,
}

/// Who wants a frozen job to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// A person, until a person says otherwise.
    Operator,
    /// So many snapshots, each for a moment.
    Leases(u32),
    /// The policy for the time without a brain.
    BrainLoss,
}

/// A further command that somebody has had run.
struct Probe {
    command: usize,
    to: Return,
    request: u64,
}

/// What calls for a `CRITICAL_STOP`.
#[derive(Clone, Copy, Debug)]
enum Trigger<'a> {
    /// A limit was reached.
    Limit,
    /// Somebody wrote to the run directory's file `now`.
    File,
    /// Somebody ordered it.
    Operator { category: Category, latch_all: bool, incident: Option<&'a str> },
}

impl Trigger<'_> {
    /// As the latch names it.
    fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::File => "file",
            Self::Operator { .. } => "operator",
        }
    }
}

/// A latch that is to be set.
struct Latching {
    handle: Arc<LatchHandle>,
    entry: LatchEntry,
    /// Whether it is on the device; `None` while it was not tried.
    set: Option<bool>,
    seconds: f64,
    /// How long it may still take.
    patience: Duration,
}

/// A guardian at work.
pub(super) struct Server {
    prepared: Prepared,
    recorder: &'static dyn Recorder,
    state: State,
    record: Record,
    waiting: Vec<(Return, u64)>,
    helpers: Helpers,
    /// The latch of the last emergency.
    latching: Option<Latching>,
    brain: Option<Watched>,
    brain_lost: Option<Instant>,
    deadline: Option<Instant>,
    /// Who holds the job, while it is frozen.
    holder: Holder,
    /// When it looked at everything the last time.
    looked: Instant,
    next_sample: Instant,
    /// From when another sample costs no more than samples may.
    affordable: Instant,
    sample_interval: Duration,
    throttles: Throttles,
    /// How often the job was let run on by its rule.
    released: u32,
    /// When the longest time of a freeze by a limit is over.
    held_until: Option<Instant>,
    /// Whether an operator or the loss of the brain wants it frozen too, beside a limit.
    wanted_frozen: bool,
    kept: Kept,
    /// When it was last found out how a kill went.
    reported: Option<Instant>,
    /// How often the job was thawed.
    thaws: u64,
    /// Whether the kernel has confirmed the last freeze.
    confirmed: bool,
    /// Who waits for the end of a further command.
    probes: Vec<Probe>,
    /// Which step of the stop comes next, while it is asked to end by steps.
    asking: Option<usize>,
    /// How many processes there were when the job was asked to end.
    asked: u64,
    last_breach: Option<Breach>,
    buffer: Vec<u8>,
}

impl Server {
    pub(super) fn new(prepared: Prepared, recorder: &'static dyn Recorder) -> Self {
        let brain = prepared.spec.brain.and_then(Watched::open);
        let brain_lost = (brain.is_none() && prepared.spec.brain.is_some()).then(Instant::now);
        let sample_interval = prepared.spec.sample_interval;
        Self {
            helpers: Helpers::new(prepared.spec.evidence_max),
            prepared,
            recorder,
            state: State::Running,
            record: Record::default(),
            waiting: Vec::with_capacity(WAITING_LIMIT),
            latching: None,
            brain,
            brain_lost,
            deadline: None,
            holder: Holder::Operator,
            looked: Instant::now(),
            next_sample: Instant::now() + sample_interval,
            affordable: Instant::now(),
            sample_interval,
            throttles: Throttles::new(),
            released: 0,
            held_until: None,
            wanted_frozen: false,
            kept: Kept::default(),
            reported: None,
            thaws: 0,
            confirmed: false,
            probes: Vec::new(),
            asking: None,
            asked: 0,
            last_breach: None,
            buffer: vec![0; DATAGRAM_LIMIT],
        }
    }

    /// Works until the job has ended.
    pub(super) fn serve(mut self) {
        platform::stay_in_memory();
        while self.state != State::Ended {
            if self.wait() || self.looks_in_any_case() {
                self.look();
            }
            self.look_at_health();
            self.look_at_brain();
            self.look_at_clock();
        }
        self.close();
    }

    /// Looks at everything that can have happened.
    fn look(&mut self) {
        self.looked = Instant::now();
        self.read_signals();
        self.read_now_file();
        self.read_orders();
        self.look_at_job();
        self.look_at_commands();
        if let Some(said) = &mut self.prepared.said {
            said.hear(self.prepared.job.job());
        }
        if self.brain.as_ref().is_some_and(Watched::has_ended) {
            self.brain = None;
            self.brain_lost = Some(Instant::now());
        }
    }

    /// Where nothing has woken it up there is nothing to be seen. That is not relied upon for long, nor while a stop goes on.
    fn looks_in_any_case(&self) -> bool {
        matches!(self.state, State::Stopping | State::Survivors) || self.looked.elapsed() >= LOOK_INTERVAL
    }

    /// Waits for something to happen or for the next moment that matters. Whether something did.
    fn wait(&mut self) -> bool {
        let now = Instant::now();
        let next = self.deadline.map_or(self.next_sample, |deadline| deadline.min(self.next_sample));
        let deaf = self.deaf_to_limits_until();
        let next = deaf.map_or(next, |at| at.min(next));
        let left = next.saturating_duration_since(now).min(LOOK_INTERVAL);
        let Prepared { listener, now_file, signals, job, said, .. } = &self.prepared;
        let (brain, notify) = (self.brain.as_ref(), said.as_ref().map(|said| &said.socket));
        let woken = platform::wait(
            &Sources { listener, now_file, signals, notify, brain, job: job.job(), limits: deaf.is_none() },
            left,
        );
        self.hear(woken.unwrap_or_default());
        woken.is_some()
    }

    fn read_signals(&mut self) {
        if self.prepared.signals.asked() {
            self.record.blame(StoppedBy::Operator, "the guardian was told to end");
            self.happen(Event::Stop, Category::Ask, None);
        }
    }

    /// `echo now > RUN_DIR/now`.
    fn read_now_file(&mut self) {
        if self.prepared.now_file.calls() {
            self.emergency(Trigger::File, "written to the run directory's file `now`");
        }
    }

    fn look_at_job(&mut self) {
        // Looked at first: when nothing is left, the end of the program is known too, or never will be.
        let emptied = self.prepared.job.is_empty();
        let exit = self.prepared.job.reap();
        if self.state == State::Ended {
            return;
        }
        let newly = exit.is_some() && self.record.exit.is_none();
        self.record.exit = exit;
        if newly {
            // A program that the kernel ended for lack of memory is a breach, not an end.
            self.sample();
        }
        if self.state == State::Ended {
            return;
        }
        // What outlived a stop may be outside by now: the next try proves that nothing is left anywhere.
        if emptied && self.state != State::Survivors {
            self.happen(Event::Emptied, Category::Kill, None);
        } else if newly {
            self.happen(Event::MainExited, Category::Kill, None);
        }
    }

    fn look_at_brain(&mut self) {
        let grace = self.prepared.spec.brain_loss_grace;
        if self.brain_lost.is_none_or(|lost| lost.elapsed() < grace) {
            return;
        }
        self.brain_lost = None;
        match self.prepared.spec.on_brain_loss {
            OnBrainLoss::Keep => {}
            OnBrainLoss::Freeze if !self.prepared.spec.freezable => {}
            OnBrainLoss::Freeze => {
                self.lose_brain();
            }
            OnBrainLoss::Stop => {
                self.record.blame(StoppedBy::Operator, "the process that estop ran in has gone");
                self.happen(Event::BrainLostStop, Category::Ask, None);
            }
        }
    }

    fn look_at_clock(&mut self) {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.deadline = None;
            let event = match self.state {
                State::Survivors => Some(Event::Retry),
                State::Stopping if self.asking.is_some() => Some(Event::StepOver),
                State::Frozen if matches!(self.holder, Holder::Leases(_)) => Some(Event::LeaseOver),
                State::Held => self.end_hold(),
                _ => Some(Event::Deadline),
            };
            if let Some(event) = event {
                self.happen(event, Category::Kill, None);
            }
        }
        if now >= self.next_sample && self.state != State::Ended {
            self.sample_in_turn();
        }
    }

    /// `CRITICAL_STOP`.
    fn emergency(&mut self, trigger: Trigger<'_>, reason: &str) {
        let (category, latch_all, incident) = match trigger {
            Trigger::Limit => (Category::Kill, false, None),
            Trigger::File => (Category::Kill, true, None),
            Trigger::Operator { category, latch_all, incident } => (category, latch_all, incident),
        };
        let over = self.state == State::Ended;
        if !over {
            self.record.blame(StoppedBy::CriticalStop, reason);
            if self.record.incident.is_none() {
                self.record.stopped_at = Some(jiff::Timestamp::now().to_string());
                self.record.opened_incident = incident.is_none();
                self.record.incident = Some(incident.unwrap_or(&self.prepared.spec.incident).to_owned());
            }
        }
        let raised = Raised::new();
        self.prepared.spare.give_up();
        self.latch(latch_all, trigger.name(), reason);
        if over {
            self.settle_latch();
        }
        let event = if matches!(trigger, Trigger::Limit) { Event::BreachCritical } else { Event::Now };
        // An emergency that asks first is one whose latch is set and whose kill waits for the grace.
        let ask = category == Category::Ask && matches!(self.state, State::Running | State::Frozen);
        if ask {
            self.happen(Event::Stop, category, None);
        } else {
            self.happen(event, category, None);
        }
        self.settle_latch();
        drop(raised);
        self.prepared.spare.keep(&self.prepared.signals);
    }

    /// Sets the latch. One that cannot be written does not hold up the kill, and a disk that hangs must not: a helper writes, and is
    /// waited for a moment. Where there can be none, the latch comes after the kill.
    fn latch(&mut self, all: bool, by: &str, reason: &str) {
        let before = Instant::now();
        let entry = LatchEntry::now(by, reason, self.record.incident.as_deref().unwrap_or_default());
        let handle = Arc::clone(if all { &self.prepared.latch_all } else { &self.prepared.latch_own });
        let set = {
            let (handle, entry) = (Arc::clone(&handle), entry.clone());
            self.helpers.attempt(LATCH_WAIT, move || handle.set(&entry).is_ok())
        };
        let seconds = before.elapsed().as_secs_f64();
        self.latching = Some(Latching { handle, entry, set, seconds, patience: LATE_LATCH_WAIT });
    }

    /// Sets the latch that was left for after the kill, and notes in the answer what became of it by now.
    fn settle_latch(&mut self) {
        let Some(latching) = &mut self.latching else { return };
        let before = Instant::now();
        // After the kill there is more time, once.
        let late = self.helpers.late(std::mem::take(&mut latching.patience));
        latching.set = late.or(latching.set);
        if latching.set.is_none() {
            latching.set = Some(latching.handle.set(&latching.entry).is_ok());
        }
        latching.seconds += before.elapsed().as_secs_f64();
        if let Some(report) = &mut self.record.report {
            report.latch_durable = latching.set;
            report.phases.latch_seconds = latching.seconds;
        }
    }

    fn happen(&mut self, event: Event, category: Category, hold: Option<Duration>) {
        let action = action(self.state, event);
        // Who has it frozen already goes on wanting that when a limit does too.
        if event == Event::BreachFreeze && self.state == State::Frozen {
            self.wanted_frozen |= !matches!(self.holder, Holder::Leases(_));
        }
        self.perform(action, category, hold);
        if event == Event::BreachFreeze && action != Action::Nothing && self.state == State::Frozen {
            self.state = State::Held;
        }
        if event == Event::Release && self.state == State::Running {
            self.count_release();
        }
    }

    fn perform(&mut self, action: Action, category: Category, hold: Option<Duration>) {
        match action {
            Action::Nothing | Action::Refuse(_) => {}
            Action::Emergency | Action::Kill => self.kill(category),
            Action::ThawAndAsk => {
                self.thaw();
                self.ask();
            }
            Action::Ask => self.ask(),
            Action::AskNext => self.take_step(),
            Action::AskRest => {
                self.asking = None;
                self.prepared.job.signal_all(TERMINATE);
                let rest = Instant::now() + REST_GRACE;
                self.deadline = Some(self.deadline.map_or(rest, |deadline| deadline.min(rest)));
            }
            Action::Freeze => {
                let raised = Raised::new();
                self.confirmed = self.prepared.job.freeze(FREEZE_WAIT);
                drop(raised);
                self.state = State::Frozen;
                self.deadline = Some(Instant::now() + hold.unwrap_or(self.prepared.spec.freeze_max));
            }
            Action::Thaw => {
                let raised = Raised::new();
                self.thaw();
                drop(raised);
                self.state = State::Running;
                self.deadline = None;
                (self.held_until, self.wanted_frozen) = (None, false);
            }
            Action::Finish => self.finish(),
            Action::Repeat => self.answer_waiting(),
        }
    }

    fn thaw(&mut self) {
        self.thaws += 1;
        self.prepared.job.thaw();
        self.throttles.stood_still();
        if let Some(said) = &mut self.prepared.said {
            said.stood_still();
        }
    }

    fn ask(&mut self) {
        self.state = State::Stopping;
        self.asked = self.prepared.job.count();
        self.keep_before_it_ends();
        self.asking = Some(0);
        self.take_step();
    }

    fn kill(&mut self, category: Category) {
        let retry = self.state == State::Survivors;
        let blamed = self.record.stopped_by.is_some() && !retry;
        // One that is killed without a look leaves what is known after it.
        let looks = !self.prepared.spec.evidence_max.is_zero();
        let occasion = (blamed && looks).then(|| self.occasion(BREACH, None));
        let (helpers, kept) = (&mut self.helpers, &mut self.kept);
        let raised = Raised::new();
        self.prepared.spare.give_up();
        let look = |job: &mut JobObjectManager| {
            let Some((occasion, writing)) = occasion else { return };
            kept.remember(helpers.capture(|| Evidence::gather(job, occasion), &writing));
        };
        let limit = if retry { RETRY_LIMIT } else { KILL_LIMIT };
        let report = self.prepared.job.stop(category, limit, looks.then_some(look));
        drop(raised);
        self.conclude_kill(report, retry);
    }

    fn conclude_kill(&mut self, mut report: StopReport, retry: bool) {
        report.processes_before = report.processes_before.max(self.asked);
        if let Some(first) = self.record.report.as_ref().filter(|_| retry) {
            report.processes_before = report.processes_before.max(first.processes_before);
            report.category = first.category;
            report.latch_durable = first.latch_durable;
            report.stop_seconds = first.stop_seconds + self.reported.map_or(0.0, |at| at.elapsed().as_secs_f64());
        }
        self.reported = Some(Instant::now());
        let (empty, all) = (report.proven_empty, report.survivors.len());
        // What does not fit into an answer is never heard.
        report.survivors.truncate(fitting(&report.survivors));
        report.survivors_omitted = (all - report.survivors.len()) as u64;
        self.record.report = Some(report);
        self.settle_latch();
        if empty {
            self.finish();
        } else {
            self.state = State::Survivors;
            self.prepared.spare.keep(&self.prepared.signals);
            self.deadline = Some(Instant::now() + RETRY_INTERVAL);
            if !retry {
                self.keep_report(NOT_PROVEN);
            }
            // Whoever waits is told now; it goes on being tried.
            self.answer_waiting();
        }
    }

    fn finish(&mut self) {
        self.record.exit = self.prepared.job.reap().or(self.record.exit);
        self.hear_of_emergency();
        if self.record.report.is_none() && self.record.stopped_by.is_some() {
            // It ended within its grace: that is a stop that needs its proof too.
            let mut report = self.prepared.job.stop(Category::Ask, RETRY_LIMIT, None::<fn(&mut _)>);
            report.processes_before = self.asked;
            if !report.proven_empty {
                // Something has left the job, or could not be looked at: it goes on being tried.
                return self.conclude_kill(report, false);
            }
            self.record.report = Some(report);
            self.settle_latch();
        }
        self.state = State::Ended;
    }

    /// Whoever ordered an emergency and got no answer from here has killed the job without this guardian, and latched before that.
    fn hear_of_emergency(&mut self) {
        let killed = self.record.exit.is_none_or(|exit| exit.signal == Some(KILL));
        if self.record.stopped_by.is_some() || !killed {
            return;
        }
        let latches = [&self.prepared.latch_own, &self.prepared.latch_all];
        // Neither was set when the program began. One that belongs to no incident is no emergency's.
        let read = |latch: &LatchHandle| latch.read().ok().flatten().filter(|entry| !entry.incident.is_empty());
        let Some(entry) = latches.into_iter().find_map(|latch| read(latch)) else { return };
        self.record.blame(StoppedBy::CriticalStop, &entry.reason);
        self.record.stopped_at = Some(entry.since);
        self.record.incident = Some(entry.incident);
    }

    /// After the end: tells everyone, cleans up.
    fn close(mut self) {
        if self.record.stopped_by.is_some() {
            // With what it has used in all.
            let written = self.prepared.log.as_ref().and_then(Log::written);
            let _ = self.prepared.job.sample(written);
            self.keep_report(STOP);
        }
        let outcome = self.record.outcome(&self.prepared.job, self.prepared.job.monitor().started());
        // After the outcome is there, the directory is another's: nothing in it is touched any more.
        let _ = std::fs::remove_dir_all(self.prepared.dir.secrets());
        let _ = std::fs::remove_file(self.prepared.dir.socket());
        // Without the outcome the starter reports that the guardian died, which is the truth about what it can know.
        let _ = self.prepared.dir.write_outcome(&outcome, &self.prepared.reserve);
        self.answer_waiting();
        self.helpers.finish(RECORD_WAIT);
        self.prepared.job.release();
    }

    /// Freezes until a brain is back; what an operator froze stays the operator's.
    fn lose_brain(&mut self) {
        let hold = self.prepared.spec.freeze_max;
        let leased = self.state == State::Frozen && matches!(self.holder, Holder::Leases(_));
        if self.state == State::Running || leased {
            self.happen(Event::BrainLostFreeze, Category::Ask, Some(hold));
            self.holder = Holder::BrainLoss;
            self.deadline = Some(Instant::now() + hold);
        }
        self.wanted_frozen |= self.state == State::Held;
    }
}
