//! What the steps of an incident do here, and how an incident is opened and carried through.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use estop_integrity::progress::Silent;
use estop_integrity::{KBSnapshot, Origin, RecoveryPoint, RollbackRequest, SnapshotManager, verify};
use estop_recovery::{
    Actions, Answer, Claim, CriticalFailure, CriticalFailureLog, Detail, Event, Failure as Failed, Incident,
    IncidentId, IncidentStore, Order, Plan, Run, Saga, StepKind, StepState, Stopped, Trigger,
};
use estop_secrets::SecretName;
use estop_secrets::rotate::Request;
use estop_watchdog::emergency::{self, Groups, Instance};
use estop_watchdog::guardian::{Client, Watched};
use estop_watchdog::latch::Entry as LatchEntry;
use estop_watchdog::monitor::Peak;
use estop_watchdog::registry::{Entry as JobEntry, JobDir, Outcome, RunDir};
use estop_watchdog::stop::{Category, StopReport, StoppedBy};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ballast;
use super::keys::{Keys, exposed_to, ledger};
use super::launch::{before_run_of, block_on};
use super::recorder;
use super::stores::{JobWriters, Place};
use crate::failure::{Failure, Result};
use crate::site::Site;

/// An emergency whose stop is over, or was tried.
#[derive(Clone, Debug)]
pub struct Emergency {
    /// Its identifier, if it was chosen beforehand.
    pub id: Option<String>,
    /// When it began; a state from after that is not sound. Now, if that is not known.
    pub began: Option<Timestamp>,
    /// What set it off.
    pub trigger: Trigger,
    /// Why.
    pub reason: String,
    /// The workloads concerned.
    pub workloads: Vec<String>,
    /// The stores to put back.
    pub protects: Vec<String>,
    /// What was stopped.
    pub reports: Vec<StopReport>,
    /// Whether the jobs had been latched and had ended before. A person may have released and started them again since, which no
    /// incident takes back.
    pub over: bool,
}

/// Opens an incident for `emergency` and records it. The steps of the stop are taken over as they were.
///
/// # Errors
/// If it cannot be planned or recorded, or is recorded already.
pub fn open(site: &Site, emergency: &Emergency) -> Result<(Claim, Incident)> {
    ballast::with(&site.state_dir, || try_open(site, emergency))
}

fn try_open(site: &Site, emergency: &Emergency) -> Result<(Claim, Incident)> {
    let incident = plan(site, emergency)?;
    let store = IncidentStore::open(&site.incidents())?;
    let claim = store.claim(incident.id)?;
    if store.exists(incident.id) {
        return Err(Failure::failed(
            format!("incident {} is recorded already", incident.id),
            "`estop incident resume` goes on with it",
        ));
    }
    estop_recovery::Journal::save(&store, &incident)?;
    Ok((claim, incident))
}

/// Records `emergency` anew, whose incident the caller has opened and still holds.
///
/// # Errors
/// As for [`open`].
pub fn save(site: &Site, emergency: &Emergency) -> Result<Incident> {
    ballast::with(&site.state_dir, || {
        let incident = plan(site, emergency)?;
        estop_recovery::Journal::save(&IncidentStore::open(&site.incidents())?, &incident)?;
        Ok(incident)
    })
}

/// Takes back the record of an emergency that was none.
///
/// # Errors
/// If it cannot be removed.
pub fn withdraw(site: &Site, claim: Claim, incident: &Incident) -> Result<()> {
    Ok(IncidentStore::open(&site.incidents())?.withdraw(claim, incident.id)?)
}

fn plan(site: &Site, emergency: &Emergency) -> Result<Incident> {
    let exposed = exposed_to(&ledger(site), &emergency.workloads)?;
    let settings = site.config.recovery.settings(emergency.protects.iter().cloned().collect(), exposed);
    let plan = Plan::build(&settings)?;
    let mut incident =
        Incident::new(emergency.trigger, Some(emergency.reason.clone()), emergency.workloads.clone(), &plan);
    if let Some(id) = emergency.id.as_deref().and_then(|id| id.parse::<IncidentId>().ok()) {
        incident.id = id;
    }
    if let Some(began) = emergency.began {
        incident.opened = began;
    }
    take_over(&mut incident, &emergency.reports);
    if emergency.over && emergency.reports.is_empty() {
        incident.already_taken(StepKind::Latch, StepState::Done, 0.0, &object(json!({})));
        let released = |name: &String| matches!(site.latch().holds(name), Ok(None));
        if emergency.workloads.iter().any(released) {
            let detail = object(json!({"reason": "the job had ended, and a person has released it since"}));
            for kind in [StepKind::Freeze, StepKind::Capture, StepKind::Stop] {
                incident.already_taken(kind, StepState::Skipped, 0.0, &detail);
            }
        }
    }
    Ok(incident)
}

/// How long a guardian whose job has ended may take to write down how.
const CLOSING_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const CLOSING_LOOK: Duration = Duration::from_millis(10);
/// How long whoever ordered a stop has to record its incident.
const RECORD_WAIT: Duration = Duration::from_secs(20);
/// How often the record of an incident is looked at that somebody else works on.
const RECORD_POLL: Duration = Duration::from_millis(50);

/// Carries through the incident of a job that ended by `CRITICAL_STOP`: opens it, or takes up the one that whoever ordered
/// the stop has opened. If somebody else is at work on that, waits for its end where `patient`: not for a daemon, whom that
/// somebody may be waiting for.
///
/// # Errors
/// If it can neither be opened nor read.
pub fn attend(
    site: &Site,
    outcome: &Outcome,
    protects: &[String],
    patient: bool,
    observer: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> Result<Run> {
    let mut emergency = Emergency {
        id: outcome.incident.clone(),
        began: outcome.stopped_at.as_deref().and_then(|at| at.parse().ok()),
        trigger: if outcome.breach.is_some() { Trigger::Limit } else { Trigger::Operator },
        reason: outcome.reason.clone(),
        workloads: vec![outcome.name.clone()],
        protects: protects.to_vec(),
        reports: outcome.report.iter().cloned().collect(),
        over: true,
    };
    if let Some(id) = outcome.incident.as_deref().filter(|_| !outcome.opened_incident) {
        match take_part(site, id, &outcome.name, patient)? {
            Part::NotOurs(incident) => return Ok(Run { incident, unrecorded: Vec::new() }),
            Part::Open(_claim, incident) => return carry_through(site, incident, true, observer),
            Part::Unrecorded => {}
            // It is about others, and may be over: this job has an incident of its own.
            Part::NotConcerned => emergency.id = None,
        }
    }
    let (_claim, incident) = open(site, &emergency)?;
    carry_through(site, incident, false, observer)
}

/// How the job of `entry` ended, whose guardian died before it could tell, if that was by an emergency: the latch says so.
/// `report` is the stop of what the guardian left.
pub fn outcome_of_lost(site: &Site, entry: &JobEntry, report: Option<StopReport>) -> Option<Outcome> {
    let latched = site.latch().holds(&entry.name).ok().flatten()?;
    let id: IncidentId = latched.incident.parse().ok()?;
    let recorded = IncidentStore::open(&site.incidents()).is_ok_and(|store| store.exists(id));
    Some(Outcome {
        schema_version: 1,
        name: entry.name.clone(),
        id: entry.id.clone(),
        tier: entry.tier,
        isolation: entry.isolation,
        exit: None,
        stopped_by: Some(StoppedBy::CriticalStop),
        stopped_at: Some(latched.since),
        incident: Some(latched.incident),
        opened_incident: !recorded && latched.by != "operator",
        breach: None,
        reason: latched.reason,
        report,
        peak: Peak::default(),
        seconds: 0.0,
        failure: None,
    })
}

/// What becomes of an incident that whoever ordered the stop was to record.
enum Part {
    /// It is over, or somebody else works on it.
    NotOurs(Incident),
    /// It is left for whoever takes it up, which we have.
    Open(Claim, Incident),
    /// It was not recorded in time.
    Unrecorded,
    /// It does not concern the workload.
    NotConcerned,
}

/// Whether the record of the incident `id`, in whose emergency `workload` was latched, may still come: whoever ordered that lives,
/// or is not known.
fn is_to_be_recorded(site: &Site, id: &str, workload: &str) -> bool {
    let latched = site.latch().holds(workload).ok().flatten();
    let orderer = latched.filter(|entry| entry.incident == id).and_then(|entry| entry.orderer);
    orderer.is_none_or(|orderer| Watched::open(orderer).is_some_and(|process| !process.has_ended()))
}

/// Takes up the incident `id`, waiting for its record, and for the end of whoever works on it.
fn take_part(site: &Site, id: &str, workload: &str, patient: bool) -> Result<Part> {
    let store = IncidentStore::open(&site.incidents())?;
    let deadline = Instant::now() + RECORD_WAIT;
    loop {
        // Before the look: what whoever is gone by now has recorded is seen by it.
        let awaited = is_to_be_recorded(site, id, workload) && Instant::now() < deadline;
        match store.take_up(id) {
            Ok((_, incident)) if !incident.workloads.iter().any(|name| name == workload) => {
                return Ok(Part::NotConcerned);
            }
            Ok((_, incident)) if !incident.is_open() => return Ok(Part::NotOurs(incident)),
            Ok((claim, incident)) => return Ok(Part::Open(claim, incident)),
            // However long that takes: whoever holds it works on it, or has gone.
            Err(estop_recovery::Error::Busy { .. }) => {
                let recorded = if patient { None } else { store.show(id).ok() };
                if let Some(incident) = recorded.filter(Incident::is_stop_settled) {
                    return Ok(Part::NotOurs(incident));
                }
            }
            Err(estop_recovery::Error::NotFound { .. }) if awaited => {}
            Err(estop_recovery::Error::NotFound { .. }) => return Ok(Part::Unrecorded),
            Err(error) => return Err(error.into()),
        }
        std::thread::sleep(RECORD_POLL);
    }
}

/// Notes the steps that the guardians took in the stops of `reports`.
fn take_over(incident: &mut Incident, reports: &[StopReport]) {
    if reports.is_empty() {
        return;
    }
    let longest = |phase: fn(&StopReport) -> f64| reports.iter().map(phase).fold(0.0, f64::max);
    let durable = reports.iter().all(|report| report.latch_durable != Some(false));
    let proven = reports.iter().all(|report| report.proven_empty);
    let steps = [
        (StepKind::Latch, durable, longest(|report| report.phases.latch_seconds), json!({"durable": durable})),
        (StepKind::Freeze, true, longest(|report| report.phases.freeze_seconds), json!({})),
        (
            StepKind::Capture,
            true,
            longest(|report| report.phases.capture_seconds),
            json!({"log": "critical-failures.jsonl"}),
        ),
        (
            StepKind::Stop,
            proven,
            longest(|report| report.phases.kill_seconds),
            json!({"proven_empty": proven, "jobs": reports}),
        ),
    ];
    for (kind, well, seconds, detail) in steps {
        let state = if well { StepState::Done } else { StepState::Failed };
        incident.already_taken(kind, state, seconds, &object(detail));
    }
}

/// Takes the incident through the steps that are left, telling `observer`.
///
/// # Errors
/// If the incidents cannot be opened, or it is closed.
pub fn carry_through(
    site: &Site,
    incident: Incident,
    resumed: bool,
    observer: impl Fn(Event<'_>) + Send + Sync + 'static,
) -> Result<Run> {
    let journal = Arc::new(IncidentStore::open(&site.incidents())?);
    let saga = Saga::new(journal, Arc::new(Response { site: site.clone() }), Box::new(observer));
    Ok(if resumed { saga.resume(incident)? } else { saga.run(incident) })
}

/// Does the steps of incidents.
#[derive(Debug)]
pub struct Response {
    site: Site,
}

impl Response {
    fn jobs(&self, workloads: &[String]) -> Vec<JobDir> {
        let run_dir = RunDir::at(&self.site.run_dir);
        let alive = |dir: &JobDir| dir.is_alive().unwrap_or(true);
        workloads.iter().map(|name| run_dir.job(name)).filter(alive).collect()
    }

    /// Which of them run. A guardian that has ended its job is waited for while it writes down how.
    fn still_running(&self, workloads: &[String]) -> Vec<String> {
        let deadline = Instant::now() + CLOSING_WAIT;
        loop {
            let running: Vec<String> = self.jobs(workloads).iter().map(|dir| dir.name().to_owned()).collect();
            if running.is_empty() || Instant::now() >= deadline {
                return running;
            }
            std::thread::sleep(CLOSING_LOOK);
        }
    }

    fn instance(&self) -> Instance {
        Instance {
            keeps_incident: true,
            run_dir: self.site.run_dir.clone(),
            state_dir: Some(self.site.state_dir.clone()),
            groups: Groups::Of(self.site.instance()),
        }
    }

    fn put_back(&self, order: &Order, store: &str) -> Result<std::result::Result<Answer, Failed>> {
        let aside = Place::remake(&self.site, store)?;
        let place = Place::find(&self.site, store)?;
        let manager = place.open()?;
        let Some(snapshot) = self.point_before(&manager, &order.incident)? else {
            return Ok(Err(Failed::new(format!(
                "{store} has no snapshot from before the incident: nothing can be put back"
            ))));
        };
        // In an emergency somebody's open file is no reason to leave the damage; the report names who has one.
        let request = RollbackRequest { despite_open: true, ..RollbackRequest::new(RecoveryPoint::from(&snapshot.id)) };
        let mut report = manager.rollback(&request, &JobWriters::of(&self.site, &place), &Silent)?;
        report.undo_command = report.undo_command.map(|command| self.site.command(&command));
        let mut detail = object(json!(report));
        detail.insert("snapshot".to_owned(), json!(snapshot.id));
        detail.insert("put_aside".to_owned(), json!(aside));
        Ok(if report.verified {
            Ok(Answer::Done(detail))
        } else {
            Err(Failed::new(format!("{store} was put back, but not everything matches")).with_detail(detail))
        })
    }

    /// Where a store is put back to: what a foreground run of the incident began with, whatever snapshots were made since; for
    /// workloads of the configuration, which run for long, the newest snapshot from before the incident that was not made for a
    /// rollback or in an incident.
    fn point_before(&self, manager: &SnapshotManager, incident: &Incident) -> Result<Option<KBSnapshot>> {
        let mut sound = manager.list()?;
        sound.retain(|snapshot| {
            snapshot.created <= incident.opened
                && matches!(snapshot.origin, Origin::Manual | Origin::Schedule | Origin::BeforeRun)
        });
        let foreground = incident.workloads.iter().filter(|name| !self.site.config.workloads.contains_key(*name));
        let began = foreground.filter_map(|name| {
            let label = before_run_of(name);
            let of_run = |snapshot: &&KBSnapshot| {
                snapshot.origin == Origin::BeforeRun && snapshot.label.as_ref() == Some(&label)
            };
            sound.iter().rfind(of_run)
        });
        // Of several runs on one store the first: it is to be as it was before all of them.
        let began = began.min_by_key(|snapshot| snapshot.created).cloned();
        Ok(began.or_else(|| sound.pop()))
    }

    fn replace_keys(&self, order: &Order, secrets: &[String]) -> Result<std::result::Result<Answer, Failed>> {
        let reason =
            format!("incident {}: {}", order.incident.id, order.incident.reason.as_deref().unwrap_or("emergency"));
        let (rotations, unknown) = block_on(async {
            let keys = Keys::open(&self.site).await?;
            let (mut plans, mut unknown) = (Vec::new(), Vec::new());
            for name in secrets {
                match keys.plan(&SecretName::new(name.clone())?).await {
                    Ok(plan) => plans.push(plan),
                    Err(error) => unknown.push(json!({"name": name, "still_exposed": true, "error": error.message})),
                }
            }
            Ok((keys.rotator().rotate_all(plans, &Request::emergency(reason)).await, unknown))
        })?;
        let complete = unknown.is_empty() && rotations.rotations.iter().all(is_complete);
        let mut detail = object(json!(rotations));
        if let Some(list) = detail.get_mut("rotations").and_then(Value::as_array_mut) {
            list.extend(unknown);
        }
        Ok(if complete {
            Ok(Answer::Done(detail))
        } else {
            Err(Failed::new(
                "a secret is still exposed, or a subscriber does not know of the new version; the detail names them",
            )
            .with_detail(detail))
        })
    }

    /// What was put back is byte for byte what it was put back to, and its databases are sound.
    fn check_store(&self, store: &str, snapshot: &str) -> Result<(bool, Value)> {
        let place = Place::find(&self.site, store)?;
        let manager = place.open()?;
        let report = manager.verify_live(&snapshot.parse()?, &Silent)?;
        let mut databases = Vec::new();
        for path in sqlite_files(&place.path) {
            let verdict = verify::sqlite_integrity(&path).err().map_or("ok".to_owned(), |error| error.to_string());
            databases.push(json!({"path": path, "integrity_check": verdict}));
        }
        let sound = databases.iter().all(|database| database["integrity_check"] == "ok");
        let detail = json!({"store": store, "files_checked": report.files_checked, "bytes_checked": report.bytes_checked,
            "ok": report.ok, "errors": report.errors, "databases": databases});
        Ok((report.ok && sound, detail))
    }
}

impl Actions for Response {
    fn latch(&self, order: &Order) -> std::result::Result<Answer, Failed> {
        let latch = estop_watchdog::latch::Latch::open(&self.site.state_dir)?;
        for workload in &order.incident.workloads {
            latch.handle(Some(workload))?.set(&LatchEntry {
                since: order.incident.opened.to_string(),
                by: order.incident.trigger.to_string(),
                reason: order.incident.reason.clone().unwrap_or_default(),
                incident: order.incident.id.to_string(),
                orderer: None,
            })?;
        }
        Ok(Answer::done())
    }

    fn freeze(&self, order: &Order) -> std::result::Result<Answer, Failed> {
        let jobs = self.jobs(&order.incident.workloads);
        if jobs.is_empty() {
            return Ok(Answer::NothingToDo { reason: "no job is running".to_owned() });
        }
        for dir in jobs {
            Client::new(&dir)?.freeze(None)?;
        }
        Ok(Answer::done())
    }

    fn capture(&self, order: &Order) -> std::result::Result<Answer, Failed> {
        let jobs = self.jobs(&order.incident.workloads);
        if jobs.is_empty() {
            return Ok(Answer::NothingToDo { reason: "no job is running".to_owned() });
        }
        let log = CriticalFailureLog::open(&self.site.critical_failures())?;
        for dir in jobs {
            let mut entry = CriticalFailure::new("capture");
            entry.workload = Some(dir.name().to_owned());
            entry.incident = Some(order.incident.id);
            entry.reason.clone_from(&order.incident.reason);
            recorder::add_tree(&mut entry, &self.site, dir.name(), &Client::new(&dir)?.inspect()?.processes);
            log.append(&entry)?;
        }
        Ok(Answer::done())
    }

    fn stop(&self, order: &Order) -> std::result::Result<Stopped, Failed> {
        let request = emergency::Request {
            names: &order.incident.workloads,
            category: Category::Kill,
            reason: order.incident.reason.as_deref().unwrap_or("incident"),
            incident: &order.incident.id.to_string(),
        };
        let stopped = emergency::critical_stop(&[self.instance()], request);
        // Here a job that is not found is one that has ended: neither its record nor its cgroup is there.
        let proven_empty = stopped.is_clear();
        let detail = object(
            json!({"jobs": stopped.jobs, "searched": stopped.searched, "doubts": stopped.doubts, "unreachable": stopped.unreachable}),
        );
        Ok(Stopped { proven_empty, detail })
    }

    fn rollback(&self, order: &Order, store: &str) -> std::result::Result<Answer, Failed> {
        self.put_back(order, store).unwrap_or_else(|failure| Err(Failed::new(failure.message)))
    }

    fn rotate(&self, order: &Order, secrets: &[String]) -> std::result::Result<Answer, Failed> {
        self.replace_keys(order, secrets).unwrap_or_else(|failure| Err(Failed::new(failure.message)))
    }

    fn verify(&self, order: &Order) -> std::result::Result<Answer, Failed> {
        let running = self.still_running(&order.incident.workloads);
        let (mut ok, mut stores) = (running.is_empty(), Vec::new());
        let done =
            order.incident.steps.iter().filter(|step| step.kind == StepKind::Rollback && step.state == StepState::Done);
        for step in done {
            let (Some(store), Some(snapshot)) =
                (step.targets.first(), step.detail.get("snapshot").and_then(Value::as_str))
            else {
                continue;
            };
            let (matches, detail) =
                self.check_store(store, snapshot).map_err(|failure| Failed::new(failure.message))?;
            ok &= matches;
            stores.push(detail);
        }
        let detail = object(json!({"running": running, "stores": stores}));
        if ok {
            Ok(Answer::Done(detail))
        } else {
            Err(Failed::new("something does not match; the detail says what").with_detail(detail))
        }
    }

    fn restart(&self, order: &Order) -> std::result::Result<Answer, Failed> {
        for workload in &order.incident.workloads {
            crate::brain::api::request(&self.site, &crate::brain::api::Call::Start { name: workload.clone() })
                .map_err(|failure| Failed::new(failure.message))?;
        }
        Ok(Answer::done())
    }
}

/// Whether a rotation did all that it was for: the new version is in force, the old one is not, and everybody knows.
pub fn is_complete(report: &estop_secrets::rotate::Report) -> bool {
    report.is_complete() && report.notified.iter().all(|notified| notified.acknowledged)
}

/// The `SQLite` databases below `dir`, by their first bytes. No symbolic link is followed.
fn sqlite_files(dir: &Path) -> Vec<std::path::PathBuf> {
    const HEADER: &[u8; 16] = b"SQLite format 3\0";
    let is_database = |path: &Path| {
        use std::io::Read as _;
        let mut header = [0; 16];
        std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut header).is_ok()) && header == *HEADER
    };
    let (mut found, mut waiting) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => waiting.push(entry.path()),
                Ok(kind) if kind.is_file() && is_database(&entry.path()) => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    found
}

fn object(value: Value) -> Detail {
    match value {
        Value::Object(fields) => fields,
        _ => Detail::new(),
    }
}
