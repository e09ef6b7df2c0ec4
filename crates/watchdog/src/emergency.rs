//! `CRITICAL_STOP` from outside: orders to the guardians, and the kernel where one does not answer.
//!
//! It needs no brain, no network and no free disk. Jobs are found twice: by the records in the run directory, and by the
//! names of the cgroups themselves.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Result;
use crate::guardian::wire::{Order, Verb};
use crate::guardian::{Answer, Client};
use crate::job::linux::{Stranded, cgroups_below_root};
use crate::job::{Isolation, Proof, Tier};
use crate::latch::{Entry as LatchEntry, Latch};
use crate::registry::{Entry, JobDir, RunDir};
use crate::stop::{Category, Phases, StopReport};

/// How long a guardian has to say that it has heard the order.
const ACCEPT_WAIT: Duration = Duration::from_millis(400);
/// How long a guardian's answer is waited for beyond the workload's grace.
const ANSWER_WAIT: Duration = Duration::from_secs(12);
/// The longest grace that is waited for in category 1.
const GRACE_WAIT: Duration = Duration::from_mins(2);
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
    /// Whether every latch that was to be set is on the device.
    pub latch_durable: bool,
}

impl Stopped {
    /// Whether jobs were found and all of them are proven empty.
    pub fn is_proven(&self) -> bool {
        !self.jobs.is_empty() && self.jobs.iter().all(|job| job.proven_empty)
    }
}

/// Stops the jobs of `instances` and latches them.
pub fn critical_stop(instances: &[Instance], request: Request<'_>) -> Stopped {
    let mut stopped = Stopped { latch_durable: true, ..Stopped::default() };
    for instance in instances {
        if let Some(state_dir) = &instance.state_dir {
            stopped.latch_durable &= latch(state_dir, request).is_ok();
        }
    }
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
    for job in &mut stopped.jobs {
        job.latch_durable = Some(stopped.latch_durable);
    }
    stopped
}

/// Ends what a dead guardian left of the job in `dir`, if it left anything. `None` if there is nothing to end.
///
/// # Errors
/// If the job's record cannot be trusted or read.
pub fn end_stranded(dir: &JobDir) -> Result<Option<StopReport>> {
    let Some(entry) = dir.entry()? else { return Ok(None) };
    let owner = dir.owner()?;
    let alive = dir.is_alive()?;
    let stranded = Stranded::open(&entry.handle, &entry.id, alive.then_some(entry.guardian), owner);
    if stranded.is_empty() {
        stranded.release(&entry.handle.controllers);
        return Ok(None);
    }
    let report = end_directly(&stranded, &entry.name, entry.tier, entry.isolation);
    if report.proven_empty && !alive {
        stranded.release(&entry.handle.controllers);
    }
    Ok(Some(report))
}

fn latch(state_dir: &std::path::Path, request: Request<'_>) -> Result<()> {
    let latch = Latch::open(state_dir)?;
    let entry = LatchEntry {
        since: jiff::Timestamp::now().to_string(),
        by: "operator".to_owned(),
        reason: request.reason.to_owned(),
        incident: request.incident.to_owned(),
    };
    if request.names.is_empty() {
        return latch.handle(None)?.set(&entry);
    }
    request.names.iter().try_for_each(|name| latch.handle(Some(name))?.set(&entry))
}

/// An order on its way.
struct Pending {
    dir: JobDir,
    entry: Option<Entry>,
    client: Option<Client>,
    sent: Instant,
}

fn order_guardians(instance: &Instance, request: Request<'_>, pending: &mut Vec<Pending>, stopped: &mut Stopped) {
    let run_dir = RunDir::at(&instance.run_dir);
    stopped.searched.push(run_dir.path().join("jobs").display().to_string());
    let dirs = run_dir.jobs().unwrap_or_default();
    for dir in
        dirs.into_iter().filter(|dir| request.names.is_empty() || request.names.iter().any(|name| name == dir.name()))
    {
        // A record that cannot be trusted leads nowhere, but a living guardian can still be spoken to.
        let entry = dir.entry().ok().flatten();
        let alive = dir.is_alive().unwrap_or(false);
        if !alive && (entry.is_none() || dir.outcome().ok().flatten().is_some()) {
            continue;
        }
        let mut client = Client::new(&dir).ok().filter(|_| alive);
        let order = Order {
            category: request.category,
            latch_all: request.names.is_empty(),
            reason: request.reason,
            incident: request.incident,
            ..Order::new(Verb::Now, 0)
        };
        if client.as_mut().is_some_and(|client| client.send(order).is_err()) {
            client = None;
        }
        pending.push(Pending { dir, entry, client, sent: Instant::now() });
    }
}

fn conclude(mut order: Pending, request: Request<'_>, stopped: &mut Stopped) {
    let protects = order.entry.as_ref().map(|entry| entry.protects.clone()).unwrap_or_default();
    let before = stopped.jobs.len();
    settle(&mut order, request, stopped);
    if stopped.jobs.len() > before {
        stopped.protects.extend(protects);
        stopped.protects.sort_unstable();
        stopped.protects.dedup();
    }
}

/// Hears the guardian out, or ends the job without it.
fn settle(order: &mut Pending, request: Request<'_>, stopped: &mut Stopped) {
    let ended_by_itself = |answer: &Answer| matches!(answer, Answer::Refused(_));
    if let Some(client) = &mut order.client {
        let mut answer = client.receive(ACCEPT_WAIT.saturating_sub(order.sent.elapsed()));
        if matches!(answer, Answer::Accepted) {
            let grace = if request.category == Category::Ask { GRACE_WAIT } else { Duration::ZERO };
            answer = client.receive((ANSWER_WAIT + grace).saturating_sub(order.sent.elapsed()));
        }
        match answer {
            Answer::Done(body) => {
                if let Ok(report) = serde_json::from_slice::<StopReport>(&body) {
                    return stopped.jobs.push(report);
                }
            }
            refused if ended_by_itself(&refused) && order.dir.outcome().ok().flatten().is_some() => return,
            _ => {}
        }
        stopped.unreachable.push(order.dir.name().to_owned());
    }
    match end_stranded(&order.dir) {
        Ok(Some(report)) => stopped.jobs.push(report),
        Ok(None) => {}
        Err(_) if order.entry.is_none() => {}
        Err(error) => stopped.searched.push(error.to_string()),
    }
}

/// Ends the jobs that no record leads to.
fn end_unrecorded(instance: &Instance, request: Request<'_>, stopped: &mut Stopped) {
    let group = match &instance.groups {
        Groups::Of(name) => Some(name.as_str()),
        Groups::All => None,
        Groups::Nobodys => return,
    };
    let (searched, cgroups) = cgroups_below_root(group);
    stopped.searched.push(searched.display().to_string());
    for path in cgroups {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file_name.rsplit_once('.').map_or(file_name.as_str(), |(name, _)| name).to_owned();
        if !request.names.is_empty() && !request.names.contains(&name) {
            continue;
        }
        // A populated group is a job; what was just ended, or is still being put together by its guardian, is empty.
        if let Some(stranded) = Stranded::of_cgroup(&path).filter(|stranded| !stranded.is_empty()) {
            stopped.jobs.push(end_directly(&stranded, &name, Tier::Kernel, isolation_unknown()));
            stranded.release(&[]);
        }
    }
}

/// Without a record nobody can say as whom a job ran; root is the least that can be promised.
fn isolation_unknown() -> Isolation {
    Isolation::Root
}

fn end_directly(stranded: &Stranded, name: &str, tier: Tier, isolation: Isolation) -> StopReport {
    let started = Instant::now();
    let processes_before = stranded.count();
    let Proof { empty, by, survivors } = stranded.end(DIRECT_LIMIT);
    let seconds = started.elapsed().as_secs_f64();
    StopReport {
        name: name.to_owned(),
        tier,
        isolation,
        category: Category::Kill,
        processes_before,
        survivors,
        proven_empty: empty,
        proof: by,
        stop_seconds: seconds,
        phases: Phases { kill_seconds: seconds, ..Phases::default() },
        latch_durable: None,
    }
}
