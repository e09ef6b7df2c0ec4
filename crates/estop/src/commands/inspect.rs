//! `estop inspect`: the processes of a workload, live and past.

mod text;

use std::collections::{BTreeMap, HashMap, HashSet};

use estop_watchdog::Error;
use estop_watchdog::guardian::wire::Status;
use estop_watchdog::guardian::{Client, Watched};
use estop_watchdog::history::{self, Gap, History, Member, Present, Store};
use estop_watchdog::job::ProcessId;
use estop_watchdog::registry::{Entry, JobDir, RunDir};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::status;
use crate::brain::Known;
use crate::brain::api::{self, Presence};
use crate::cli::Output;
use crate::engine::keys::ledger;
use crate::engine::launch::check_name;
use crate::engine::masks::Masks;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// Shows the processes of the workload `name`: of its present or last job, or of the job `job`.
///
/// # Errors
/// If there is no such job, or its history cannot be read.
pub(super) fn inspect(site: &Site, name: &str, job: Option<&str>, output: &Output) -> Result<Code> {
    check_name(name)?;
    let store = Store::at(&site.history());
    let jobs = store.jobs(name)?;
    let dir = RunDir::at(&site.run_dir).job(name);
    let alive = if dir.is_alive()? { dir.entry()? } else { None };
    let found = match (job, &alive) {
        (Some(job), _) => jobs.iter().find(|known| *known == job).cloned(),
        (None, Some(entry)) => Some(entry.id.clone()),
        (None, None) => jobs.last().cloned(),
    };
    let Some(id) = found else { return Err(unknown(name, job, &jobs)) };
    let live = alive.filter(|entry| entry.id == id).map(|entry| Live::look(&dir, entry)).transpose()?;
    let history = store.read(name, &id)?;
    let status =
        live.as_ref().and_then(|live| live.status.as_ref()).map(|status| status::running(status, &Known::default()));
    let (tier, isolation) = match (&live, &history) {
        (Some(live), _) => (Some(live.entry.tier), Some(live.entry.isolation)),
        (None, history) => (history.as_ref().map(|one| one.tier), history.as_ref().map(|one| one.isolation)),
    };
    let gaps = gaps(site, history.as_ref(), live.as_ref());
    let processes = Processes { site, name, output, users: BTreeMap::new() }.list(history.as_ref(), live.as_ref());
    let answer = json!({
        "schema_version": 1, "name": name, "job": id, "jobs": jobs, "tier": tier, "isolation": isolation, "status": status,
        "history": {
            "source": history.as_ref().map(|history| history.source),
            "complete": history.as_ref().is_some_and(|history| history.is_complete() && gaps.is_empty()),
            "as_of": history.as_ref().map(|history| history.as_of),
            "ended": history.as_ref().and_then(|history| history.closed),
            "gaps": gaps,
            "omitted": history.as_ref().map_or(0, |history| history.omitted),
        },
        "processes": processes,
    });
    output.result(&answer, |answer| text::text(answer, output));
    Ok(Code::Done)
}

fn unknown(name: &str, job: Option<&str>, jobs: &[String]) -> Failure {
    match job {
        Some(job) if jobs.is_empty() => {
            Failure::failed(format!("there is no job {job} of {name}, and no other"), "see `estop status`")
        }
        Some(job) => {
            let hint = format!("those that are known: {}", jobs.join(", "));
            Failure::failed(format!("there is no job {job} of {name}"), hint)
        }
        None => Failure::failed(format!("{name} does not run, and there is no history of it"), "see `estop status`"),
    }
}

/// A job that runs.
struct Live {
    entry: Entry,
    /// What its guardian says, if it answers.
    status: Option<Status>,
    /// Its processes; `None` if they could not be looked at.
    present: Option<Vec<Present>>,
}

impl Live {
    /// # Errors
    /// If the guardian refuses this caller, who may be inside a job.
    fn look(dir: &JobDir, entry: Entry) -> Result<Self> {
        // While it is being started its processes are the next look's.
        let status = match Client::new(dir).and_then(|mut client| client.status()) {
            Err(error @ Error::Refused { .. }) => return Err(error.into()),
            answer => answer.ok(),
        };
        let present = history::present(dir, &entry);
        Ok(Self { entry, status, present })
    }
}

/// When the history may have missed something, up to now.
fn gaps(site: &Site, history: Option<&History>, live: Option<&Live>) -> Vec<Gap> {
    let mut gaps = history.map(|history| history.gaps.clone()).unwrap_or_default();
    let open = |from, reason: &str| Gap { from, to: None, reason: reason.to_owned() };
    match (history, live) {
        (Some(History { closed: None, as_of, .. }), None) => {
            gaps.push(open(*as_of, "no estop followed it to its end"));
        }
        (Some(History { closed: None, as_of, .. }), Some(live)) if !is_followed(site, &live.entry) => {
            gaps.push(open(*as_of, "no estop follows it"));
        }
        (None, Some(live)) => {
            gaps.push(open(live.entry.started.parse().unwrap_or_default(), "nothing was written of it yet"));
        }
        _ => {}
    }
    gaps
}

/// Whether somebody follows the job: the command that has started it, or the daemon.
fn is_followed(site: &Site, entry: &Entry) -> bool {
    entry.starter.and_then(Watched::open).is_some() || !matches!(api::look(site), Presence::Away)
}

/// Lists processes as the contract names what is known of them.
struct Processes<'a> {
    site: &'a Site,
    name: &'a str,
    output: &'a Output,
    users: BTreeMap<u32, String>,
}

impl Processes<'_> {
    /// Those that live, parents before their children, then those that have ended, in the order of their end.
    fn list(mut self, history: Option<&History>, live: Option<&Live>) -> Vec<Value> {
        let known = history.map(|history| history.processes.as_slice()).unwrap_or_default();
        let present = live.and_then(|live| live.present.as_deref());
        let arguments = self.arguments(present.unwrap_or_default());
        let mut list: Vec<Value> = Vec::new();
        for (process, arguments) in tree(present.unwrap_or_default()).into_iter().zip(arguments) {
            let before = known.iter().rev().find(|member| member.id == process.member.id);
            let parent = before.and_then(|member| member.parent).or_else(|| {
                let found = present?.iter().find(|other| other.member.id.pid == process.parent);
                found.map(|found| found.member.id)
            });
            let member = Member { parent, arguments, ..process.member.clone() };
            list.push(self.value(&member, Some(process)));
        }
        let alive: HashSet<ProcessId> = present.into_iter().flatten().map(|process| process.member.id).collect();
        // One that is not there any more, and whose end was not written yet, ended as nobody knows.
        let past = known.iter().filter(|member| !alive.contains(&member.id) || member.ended.is_some());
        let mut past: Vec<&Member> = past.collect();
        past.sort_by_key(|member| member.ended.unwrap_or(Timestamp::MAX));
        list.extend(past.into_iter().map(|member| self.value(member, None)));
        list
    }

    /// What the processes are called with, in the order of their tree, secrets masked.
    fn arguments(&self, present: &[Present]) -> Vec<Option<String>> {
        let texts: Vec<Option<Vec<u8>>> =
            tree(present).into_iter().map(|process| history::arguments(process.member.id)).collect();
        let mut masks = Masks::default();
        if let Err(failure) = masks.read(&ledger(self.site), self.name, || Ok(self.site.clone())) {
            self.output
                .warn(&format!("arguments are left out, since secrets in them cannot be masked: {}", failure.message));
            return vec![None; texts.len()];
        }
        let masked = |text: Vec<u8>| history::shorten(&masks.apply(&text));
        texts.into_iter().map(|text| text.map(masked)).collect()
    }

    fn value(&mut self, member: &Member, present: Option<&Present>) -> Value {
        let user = member.user.map(|number| self.user(number));
        json!({
            "pid": member.id.pid, "start_time": member.id.start_time, "started": member.started, "parent": member.parent,
            "user": user, "command": member.command, "arguments": member.arguments,
            "state": present.map(|process| process.state), "memory_bytes": present.map(|process| process.memory_bytes),
            "cpu_seconds": member.cpu_seconds, "memory_peak_bytes": member.memory_peak_bytes,
            "exit": member.exit, "ended": member.ended,
        })
    }

    fn user(&mut self, number: u32) -> String {
        let named = || history::owner_of(number).unwrap_or_else(|| number.to_string());
        self.users.entry(number).or_insert_with(named).clone()
    }
}

/// The processes with each one's children after it.
fn tree(present: &[Present]) -> Vec<&Present> {
    let ids: HashSet<u32> = present.iter().map(|process| process.member.id.pid).collect();
    let mut children: HashMap<u32, Vec<&Present>> = HashMap::new();
    let mut sorted: Vec<&Present> = present.iter().collect();
    sorted.sort_by_key(|process| (process.member.started, process.member.id.pid));
    // From the back, so that the earliest is taken first.
    let mut waiting: Vec<&Present> = Vec::new();
    for process in sorted.into_iter().rev() {
        if ids.contains(&process.parent) && process.parent != process.member.id.pid {
            children.entry(process.parent).or_default().push(process);
        } else {
            waiting.push(process);
        }
    }
    let mut listed = Vec::new();
    while let Some(process) = waiting.pop() {
        listed.push(process);
        waiting.extend(children.remove(&process.member.id.pid).unwrap_or_default());
    }
    // What a look in the middle of changes left in a circle.
    listed.extend(children.into_values().flatten());
    listed
}
