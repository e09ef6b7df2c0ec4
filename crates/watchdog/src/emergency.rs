//! `CRITICAL_STOP` from outside: orders to the guardians, and the kernel where one does not answer.
//!
//! It needs no brain, no network and no free disk. Jobs are found twice: by the records in the run directory, and on Linux by the
//! names of the cgroups themselves. On Windows a job cannot outlive its guardian, which the record names.

mod abandoned;
mod latching;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::latching::Latching;
use crate::Result;
use crate::guardian::wire::{Order, Verb};
use crate::guardian::{Answer, Client};
use crate::job::platform::{self, Ending, Stranded};
use crate::job::{Isolation, Proof, Tier};
use crate::registry::{Entry, JobDir, Outcome, Owner, RunDir};
use crate::stop::{Category, Phases, StopReport};

pub use abandoned::{end_abandoned, settle_abandoned};

/// How long a guardian has to say that it has heard the order.
const ACCEPT_WAIT: Duration = Duration::from_millis(400);
/// How long a guardian's answer is waited for beyond the workload's grace.
const ANSWER_WAIT: Duration = Duration::from_secs(12);
/// The longest grace that is waited for in category 1.
const GRACE_WAIT: Duration = Duration::from_mins(2);
/// How long a guardian may take that has yet to start its program, to see that it is latched.
const STARTING_WAIT: Duration = Duration::from_secs(2);
/// How often it is looked at meanwhile.
const STARTING_LOOK: Duration = Duration::from_millis(20);
/// How often a guardian that is waited for is looked at: one that has gone says nothing more.
const ANSWER_LOOK: Duration = Duration::from_millis(250);
/// How long a job is killed directly that its guardian could not prove empty.
const SECOND_LIMIT: Duration = Duration::from_secs(1);
/// How long a job is killed directly before its survivors are reported.
const DIRECT_LIMIT: Duration = Duration::from_secs(5);

/// One estop: where its jobs and its latch are.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Its state directory; unknown for another user's, which is then latched by its guardians alone.
    pub state_dir: Option<PathBuf>,
    /// Which cgroups are looked through beside its records.
    pub groups: Groups,
    /// Whether the emergency's incident is recorded there. If not, its guardians open incidents of their own, which are for
    /// whoever runs that estop: it alone knows the stores and the secrets.
    pub keeps_incident: bool,
}

/// Which cgroups are looked through for jobs that no record leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    /// Those of one estop, by the name of its group.
    Of(String),
    /// All below estop's root.
    All,
    /// None: somebody else looks through them.
    Nobodys,
}

/// What to stop, and why.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The jobs' names; all if empty.
    pub names: &'a [String],
    /// How.
    pub category: Category,
    /// Why.
    pub reason: &'a str,
    /// The incident that it belongs to.
    pub incident: &'a str,
}

/// Whether the job called `name` is to be stopped where `names` are: all, if there are none.
pub fn concerns(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

/// What was stopped.
#[derive(Clone, Debug, Default)]
pub struct Stopped {
    /// The stop of each job.
    pub jobs: Vec<StopReport>,
    /// The stores that are to be put back after these stops.
    pub protects: Vec<String>,
    /// Guardians that did not answer.
    pub unreachable: Vec<String>,
    /// Where jobs were looked for.
    pub searched: Vec<String>,
    /// What could not be looked at, and why: where there is anything of it, a job may run.
    pub doubts: Vec<String>,
    /// Whether every latch that was to be set holds, as it was read back or by its guardian's word.
    pub latched: bool,
    /// Whether every latch that was to be set is on the device.
    pub latch_durable: bool,
    /// The cgroups of jobs that their guardians have proven empty.
    settled: Vec<PathBuf>,
    /// Jobs of which nothing was there, and whose guardians did not answer: they may be about to start their program.
    starting: Vec<JobDir>,
}

impl Stopped {
    /// Nothing found yet, by whoever looks there.
    pub fn searching(searched: Vec<String>) -> Self {
        Self { searched, ..Self::default() }
    }

    /// Whether jobs were found and all of them are proven empty.
    pub fn is_proven(&self) -> bool {
        !self.jobs.is_empty() && self.is_clear()
    }

    /// Whether everything could be looked at, and all that was found is proven empty, if anything was.
    pub fn is_clear(&self) -> bool {
        self.doubts.is_empty() && self.jobs.iter().all(|job| job.proven_empty)
    }

    /// Those of `names` of which no job was found.
    pub fn missing<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let is_found = |name: &&String| self.jobs.iter().any(|job| job.name == **name);
        names.iter().filter(|name| !is_found(name)).map(String::as_str).collect()
    }

    fn take(&mut self, ended: Ended) {
        self.doubts.extend(ended.doubt.map(|doubt| format!("{}: {doubt}", ended.report.name)));
        self.jobs.push(ended.report);
    }

    /// Takes over whether the latch holds: `own` as it was set here.
    fn conclude(&mut self, own: latching::Set) {
        self.latched &= own.latched;
        self.latch_durable &= own.durable;
        for job in &mut self.jobs {
            job.latch_durable = Some(self.latch_durable);
        }
        // A guardian that has yet to start its program looks at the latch before it does, and ends. One that does not end has a job
        // to which its record does not lead.
        let deadline = Instant::now() + if self.latch_durable { STARTING_WAIT } else { Duration::ZERO };
        for dir in std::mem::take(&mut self.starting) {
            while dir.is_alive().unwrap_or(true) && Instant::now() < deadline {
                std::thread::sleep(STARTING_LOOK);
            }
            let found = self.jobs.iter().any(|job| job.name == dir.name());
            if !found && dir.is_alive().unwrap_or(true) {
                let why = "its guardian lives and did not answer, and its record does not lead to the job";
                self.doubts.push(format!("{}: {why}: it may run", dir.name()));
            }
        }
    }
}

/// Stops the jobs of `instances` and latches them.
pub fn critical_stop(instances: &[Instance], request: Request<'_>) -> Stopped {
    let mut latching = Latching::begin(instances, request);
    latching.wait();
    let mut stopped = Stopped { latched: true, latch_durable: true, ..Stopped::default() };
    let mut pending = Vec::new();
    for instance in instances {
        order_guardians(instance, request, &mut pending, &mut stopped);
    }
    for order in pending {
        conclude(order, request, &mut stopped);
    }
    for instance in instances {
        end_unrecorded(instance, request, &mut stopped);
    }
    stopped.conclude(latching.result());
    stopped
}

/// Ends what a dead guardian left of the job in `dir`, if it left anything. `None` if there is nothing to end.
///
/// # Errors
/// If the job's record cannot be trusted or read.
pub fn end_stranded(dir: &JobDir) -> Result<Option<StopReport>> {
    Ok(end_left(dir)?.map(|ended| ended.report))
}

/// A job that was ended without its guardian.
struct Ended {
    report: StopReport,
    /// Why it is not proven though nothing was found.
    doubt: Option<String>,
}

fn end_left(dir: &JobDir) -> Result<Option<Ended>> {
    let Some((entry, owner)) = dir.owned_entry()? else { return Ok(None) };
    let alive = dir.is_alive()?;
    let ended = end_recorded(&entry, owner, alive, false);
    // Another user's paths may lead anywhere: those are that user's to clear.
    if !alive && platform::is_own(owner) {
        abandoned::clear_secrets(dir, &entry.id);
    }
    Ok(ended)
}

/// Ends what is left of a job, and proves it; where nothing is left, only if that is to be proven `too`.
fn end_recorded(entry: &Entry, owner: Owner, alive: bool, too: bool) -> Option<Ended> {
    let stranded = Stranded::open(entry, alive, owner);
    let ended = (too || !stranded.is_over())
        .then(|| end_directly(&stranded, &entry.name, entry.tier, entry.isolation, DIRECT_LIMIT));
    if ended.as_ref().is_none_or(|ended| ended.report.proven_empty && !alive) {
        stranded.release(Some(entry));
    }
    stranded.wake_guardian();
    ended
}

/// An order on its way.
struct Pending {
    dir: JobDir,
    /// The stores that are to be put back.
    protects: Vec<String>,
    /// The record as it was before the order.
    known: Option<(Entry, Owner)>,
    alive: bool,
    client: Option<Client>,
    /// Whether nobody but the guardian sets the job's latch.
    latches_alone: bool,
    sent: Instant,
}

fn order_guardians(instance: &Instance, request: Request<'_>, pending: &mut Vec<Pending>, stopped: &mut Stopped) {
    let run_dir = RunDir::at(&instance.run_dir);
    stopped.searched.push(run_dir.path().join("jobs").display().to_string());
    let dirs = run_dir.jobs().unwrap_or_else(|error| {
        stopped.doubts.push(error.to_string());
        request.names.iter().map(|name| run_dir.job(name)).collect()
    });
    for dir in dirs.into_iter().filter(|dir| concerns(request.names, dir.name())) {
        let known = dir.owned_entry();
        // Where it cannot be told, the guardian is asked, and the record says more.
        let alive = dir.is_alive().unwrap_or(true);
        if !alive && (matches!(known, Ok(None)) || matches!(dir.outcome(), Ok(Some(_)))) {
            continue;
        }
        let incident = if instance.keeps_incident { request.incident } else { "" };
        let client = if alive { ordered(&dir, Request { incident, ..request }) } else { None };
        // A record that cannot be trusted leads nowhere, but a living guardian can still be spoken to.
        let known = known.ok().flatten();
        let entry = known.as_ref().map(|(entry, _)| entry).filter(|_| instance.keeps_incident);
        let protects = entry.map(|entry| entry.protects.clone()).unwrap_or_default();
        let latches_alone = instance.state_dir.is_none();
        pending.push(Pending { dir, protects, known, alive, client, latches_alone, sent: Instant::now() });
    }
}

/// Sends the order; `None` if it does not reach the guardian.
fn ordered(dir: &JobDir, request: Request<'_>) -> Option<Client> {
    let mut client = Client::new(dir).ok()?;
    let order = Order {
        category: request.category,
        latch_all: request.names.is_empty(),
        reason: request.reason,
        incident: request.incident,
        ..Order::new(Verb::Now, 0)
    };
    client.send(order).ok()?;
    Some(client)
}

fn conclude(mut order: Pending, request: Request<'_>, stopped: &mut Stopped) {
    let before = stopped.jobs.len();
    settle(&mut order, request, stopped);
    for job in &stopped.jobs[before..] {
        stopped.protects.extend_from_slice(&order.protects);
        let confirmed = job.latch_durable;
        stopped.latch_durable &= confirmed != Some(false) && (confirmed.is_some() || !order.latches_alone);
        stopped.latched &= confirmed.is_some() || !order.latches_alone;
    }
    stopped.protects.sort_unstable();
    stopped.protects.dedup();
}

/// Hears the guardian out, or ends the job without it.
fn settle(order: &mut Pending, request: Request<'_>, stopped: &mut Stopped) {
    match order.client.as_mut().map(|client| hear(client, &order.dir, order.sent, request)) {
        Some(Heard::Report(report)) if report.proven_empty => {
            // What another user's record says of cgroups is not relied upon.
            let own = order.known.as_ref().filter(|(_, owner)| platform::is_own(*owner));
            let cgroup = own.and_then(|(entry, _)| entry.handle.cgroup.as_ref());
            stopped.settled.extend(cgroup.map(|cgroup| cgroup.path.clone()));
            return stopped.jobs.push(*report);
        }
        Some(Heard::Report(report)) => return stopped.jobs.push(end_unproven(&order.dir, *report)),
        Some(Heard::Refused) if matches!(order.dir.outcome(), Ok(Some(_))) => return,
        _ => {}
    }
    // It may have ended by itself meanwhile.
    let silent = order.alive && order.dir.is_alive().unwrap_or(true);
    // An answer that was lost on the way is written down too.
    if order.client.is_some()
        && !silent
        && let Ok(Some(Outcome { report: Some(report), .. })) = order.dir.outcome()
    {
        return stopped.jobs.push(report);
    }
    if silent {
        stopped.unreachable.push(order.dir.name().to_owned());
    }
    match end_left(&order.dir) {
        Ok(Some(ended)) => stopped.take(ended),
        Ok(None) if silent => stopped.starting.push(order.dir.clone()),
        // A guardian that has died over the order, and its job with it, is no job that was never found.
        Ok(None) if order.client.is_some() => {
            let known = order.known.take();
            if let Some(ended) = known.and_then(|(entry, owner)| end_recorded(&entry, owner, false, true)) {
                stopped.take(ended);
            }
        }
        Ok(None) => {}
        Err(error) => stopped.doubts.push(format!("{}: {error}", order.dir.name())),
    }
}

/// What a guardian could not prove to be ended, this process tries to end: the kernel may have refused the guardian what it grants
/// here. If that is in vain too, what the guardian said stands.
fn end_unproven(dir: &JobDir, said: StopReport) -> StopReport {
    let Ok(Some((entry, owner))) = dir.owned_entry() else { return said };
    let started = Instant::now();
    let stranded = Stranded::open(&entry, dir.is_alive().unwrap_or(true), owner);
    let report = end_directly(&stranded, &entry.name, entry.tier, entry.isolation, SECOND_LIMIT).report;
    let mut proof = report.proven_empty.then_some(report.proof);
    // It goes on trying, and reports the end of nothing that it has not seen empty.
    let deadline = Instant::now() + SECOND_LIMIT;
    while proof.is_none() && Instant::now() < deadline {
        match dir.outcome() {
            Ok(Some(Outcome { report: Some(report), .. })) if report.proven_empty => proof = Some(report.proof),
            _ => std::thread::sleep(STARTING_LOOK),
        }
    }
    let Some(proof) = proof else { return said };
    StopReport {
        processes_before: report.processes_before.max(said.processes_before),
        stop_seconds: said.stop_seconds + started.elapsed().as_secs_f64(),
        proof,
        proven_empty: true,
        survivors: Vec::new(),
        survivors_omitted: 0,
        ..said
    }
}

/// What a guardian said to the order.
enum Heard {
    Report(Box<StopReport>),
    Refused,
    Nothing,
}

fn hear(client: &mut Client, dir: &JobDir, sent: Instant, request: Request<'_>) -> Heard {
    let mut answer = client.receive(ACCEPT_WAIT.saturating_sub(sent.elapsed()));
    if matches!(answer, Answer::Accepted) {
        let grace = if request.category == Category::Ask { GRACE_WAIT } else { Duration::ZERO };
        let left = || (ANSWER_WAIT + grace).saturating_sub(sent.elapsed());
        let mut lives = true;
        // Once more after its end: its last word may have come in between.
        while matches!(answer, Answer::Accepted | Answer::Nothing) && lives && !left().is_zero() {
            lives = dir.is_alive().unwrap_or(true);
            answer = client.receive(left().min(ANSWER_LOOK));
        }
    }
    match answer {
        Answer::Done(body) => {
            serde_json::from_slice(&body).map_or(Heard::Nothing, |report| Heard::Report(Box::new(report)))
        }
        Answer::Refused(_) => Heard::Refused,
        Answer::Accepted | Answer::Nothing => Heard::Nothing,
    }
}

/// Ends the jobs that no record leads to.
fn end_unrecorded(instance: &Instance, request: Request<'_>, stopped: &mut Stopped) {
    let group = match &instance.groups {
        Groups::Of(name) => Some(name.as_str()),
        Groups::All => None,
        Groups::Nobodys => return,
    };
    let unrecorded = platform::unrecorded(group, &|name| concerns(request.names, name), &stopped.settled);
    stopped.searched.extend(unrecorded.searched);
    stopped.doubts.extend(unrecorded.doubts);
    // A populated group is a job; what was just ended, or is still being put together by its guardian, is empty.
    for (name, stranded) in unrecorded.found.into_iter().filter(|(_, stranded)| !stranded.is_over()) {
        stopped.take(end_directly(&stranded, &name, Tier::Kernel, isolation_unknown(), DIRECT_LIMIT));
        stranded.release(None);
    }
}

/// Without a record nobody can say as whom a job ran; root is the least that can be promised.
fn isolation_unknown() -> Isolation {
    Isolation::Root
}

fn end_directly(stranded: &Stranded, name: &str, tier: Tier, isolation: Isolation, limit: Duration) -> Ended {
    let started = Instant::now();
    let processes_before = stranded.count();
    let Ending { proof: Proof { empty, by, survivors }, doubt } = stranded.end(limit);
    let seconds = started.elapsed().as_secs_f64();
    let report = StopReport {
        name: name.to_owned(),
        tier,
        isolation,
        category: Category::Kill,
        processes_before,
        survivors,
        survivors_omitted: 0,
        proven_empty: empty,
        proof: by,
        stop_seconds: seconds,
        phases: Phases { kill_seconds: seconds, ..Phases::default() },
        latch_durable: None,
    };
    Ended { report, doubt }
}
