//! Starting a guardian, and becoming one.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use estop_durable::lock::Lock;
use estop_durable::replace;

use super::evidence::Recorder;
use super::health::Said;
use super::log::Log;
use super::platform::{self, KernelLog, Listener, NowFile, Signals, Spare, Starter, Told, own_id};
use super::server::{Prepared, Server};
use super::spec::GuardianSpec;
use crate::emergency::{end_abandoned, settle_abandoned};
use crate::error::Context as _;
use crate::latch::{Handle as LatchHandle, Latch};
use crate::registry::{Entry, Failure, FailureKind, JobDir, RunDir, boot_id};
use crate::stop::Category;
use crate::{Error, JobObjectManager, Result};

/// The first argument of a process that is to be a guardian.
pub const ARGUMENT: &str = "__guardian";
/// What opens secrets is nobody's but estop's; a guardian does not need it.
pub const OWN_VARIABLES: [&str; 3] = ["ESTOP_SECRETS_KEY", "VAULT_TOKEN", "BAO_TOKEN"];
/// How long a program is killed whose start failed after it ran.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// How long a guardian may take to start its program.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A started guardian, seen from its starter.
#[derive(Debug)]
pub struct Guardian {
    /// The guardian's process. Its end is the job's end.
    pub process: Child,
    /// The job's directory.
    pub dir: JobDir,
    /// The job's identifier.
    pub id: String,
}

/// The standard streams of the program.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub input: Stdio,
    /// Standard output.
    pub output: Stdio,
    /// Standard error.
    pub error: Stdio,
}

impl Default for Streams {
    /// The starter's own.
    fn default() -> Self {
        Self { input: Stdio::inherit(), output: Stdio::inherit(), error: Stdio::inherit() }
    }
}

/// Starts a guardian for `spec` and returns when the program runs.
///
/// # Errors
/// What kept the program from running, as the guardian reports it.
pub fn start(spec: &GuardianSpec, streams: Streams) -> Result<Guardian> {
    start_placed(spec, streams, |_| {})
}

/// As [`start`], for a service that puts its guardians somewhere of their own: `place` gets the PID of the guardian's process before
/// anything is started in it.
///
/// # Errors
/// What kept the program from running, as the guardian reports it.
pub fn start_placed(spec: &GuardianSpec, streams: Streams, place: impl FnOnce(u32)) -> Result<Guardian> {
    let (mut process, starter) = platform::launch(spec, streams)?;
    place(process.id());
    let dir = RunDir::at(&spec.run_dir).job(&spec.job.name);
    match converse(starter, &mut process, spec) {
        Ok(()) => Ok(Guardian { process, dir, id: spec.job.id.clone() }),
        Err(error) => {
            // A guardian that failed ends by itself; one that hangs does not.
            let _ = process.kill();
            let _ = process.wait();
            let left = dir.entry().ok().flatten().filter(|entry| entry.id == spec.job.id);
            // One that was killed may have started the program; what cannot be ended here, the next of this name ends.
            let _ = settle_abandoned(&dir, &spec.job.id);
            Err(match error {
                Error::GuardianDied { name, detail, .. } => {
                    Error::GuardianDied { name, detail, left: left.map(Box::new) }
                }
                other => other,
            })
        }
    }
}

fn converse(starter: Starter, process: &mut Child, spec: &GuardianSpec) -> Result<()> {
    let died = |detail: String| Error::GuardianDied { name: spec.job.name.clone(), detail, left: None };
    let bytes = serde_json::to_vec(spec).map_err(|error| died(error.to_string()))?;
    let answer = starter.converse(process, &bytes, START_LIMIT);
    let answer = answer.map_err(|error| died(format!("it did not report in time ({error})")))?;
    let failure: Option<Failure> =
        serde_json::from_slice(&answer).map_err(|_| died("it ended before it had started the program".to_owned()))?;
    failure.map_or(Ok(()), |failure| Err(error_of(failure, spec)))
}

/// The guardian's failure as the starter's own error.
fn error_of(failure: Failure, spec: &GuardianSpec) -> Error {
    let program = || {
        spec.job.program.argv.first().map(|name| name.to_os_string().to_string_lossy().into_owned()).unwrap_or_default()
    };
    let exec = |code| Error::Exec { program: program(), source: std::io::Error::from_raw_os_error(code) };
    match failure.kind {
        FailureKind::NotFound => exec(platform::NOT_FOUND),
        FailureKind::NotExecutable => exec(platform::NOT_EXECUTABLE),
        FailureKind::NameTaken => Error::NameTaken { name: spec.job.name.clone() },
        FailureKind::Latched => match Latch::at(&spec.state_dir).holds(&spec.job.name) {
            Ok(Some(entry)) => Error::Latched { since: entry.since, reason: entry.reason },
            _ => Error::Latched { since: "just now".to_owned(), reason: failure.message },
        },
        FailureKind::TierTooLow | FailureKind::Unenforceable => {
            Error::Refused { name: spec.job.name.clone(), reason: failure.message }
        }
        FailureKind::Other => Error::NotStarted(failure.message),
    }
}

/// Becomes a guardian, if this process was started as one: then this does not return. To be called first in `main`, before
/// any thread is started.
pub fn enter(recorder: &'static dyn Recorder) {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        let code = match become_guardian(recorder) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        std::process::exit(code);
    }
}

fn become_guardian(recorder: &'static dyn Recorder) -> Result<()> {
    let (bytes, told) = Told::hear()?;
    let started = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Containment(format!("a guardian is started by estop only: {error}")))
        .and_then(prepare);
    let failure = started.as_ref().err().map(Failure::from);
    told.report(&serde_json::to_vec(&failure).unwrap_or_default());
    let (prepared, lock) = started?;
    platform::step_aside()?;
    Server::new(prepared, recorder).serve();
    drop(lock);
    Ok(())
}

fn prepare(mut spec: GuardianSpec) -> Result<(Prepared, Lock)> {
    platform::settle_in(&mut spec);
    let mut held = Held { signals: Signals::watch()?, spare: Spare::default() };
    held.spare.keep(&held.signals);
    let run_dir = RunDir::open(&spec.run_dir)?;
    let dir = run_dir.job(&spec.job.name);
    let lock = dir.claim()?;
    end_earlier(&dir, &lock)?;
    let latches = Latches::open(&spec)?;
    // Before anything is cleared: how a job ended that latched the name may not have been read yet.
    if let Err(error) = latches.refuse() {
        dir.give_back(&lock);
        return Err(error);
    }
    dir.clear(&lock)?;
    match set_up(spec, &run_dir, &dir, latches, held) {
        Ok(prepared) => Ok((prepared, lock)),
        Err(error) => {
            // The plaintext of secrets is in it. What cannot be removed, the next job of this name takes over.
            let _ = std::fs::remove_dir_all(dir.secrets());
            let _ = dir.remove_held(&lock);
            Err(error)
        }
    }
}

/// What is made before all else.
struct Held {
    signals: Signals,
    spare: Spare,
}

/// Puts the job together and starts its program. Leaves nothing but files in `dir` if that fails.
fn set_up(mut spec: GuardianSpec, run_dir: &RunDir, dir: &JobDir, latches: Latches, held: Held) -> Result<Prepared> {
    let reserve = dir.reserve()?;
    let listener = Listener::bind(dir, &spec.job.id)?;
    let now_file = NowFile::watch(run_dir)?;
    let kernel_log = Arc::new(KernelLog::open());
    // Before the program starts, which may speak at once.
    let said = spec.notify.as_ref().map(Said::open).transpose()?;
    deliver_secret_files(&spec)?;
    let mut job = JobObjectManager::create(spec.job.clone(), spec.thresholds)?;
    platform::note_place(&spec);
    if let Err(error) = begin(&spec, dir, &latches, &mut job) {
        if job.main().is_some() {
            job.stop(Category::Kill, KILL_LIMIT, None::<fn(&mut _)>);
        }
        job.release();
        return Err(error);
    }
    spec.job.program.environment.clear();
    spec.secret_files.clear();
    let [latch_own, latch_all] = [latches.own, latches.all].map(Arc::new);
    let log = spec.log.as_ref().and_then(Log::open);
    Ok(Prepared {
        log,
        kernel_log,
        said,
        spec,
        job,
        dir: dir.clone(),
        reserve,
        listener,
        latch_own,
        latch_all,
        now_file,
        signals: held.signals,
        spare: held.spare,
    })
}

/// Records the job and starts its program.
fn begin(spec: &GuardianSpec, dir: &JobDir, latches: &Latches, job: &mut JobObjectManager) -> Result<()> {
    let entry = Entry {
        schema_version: 1,
        name: spec.job.name.clone(),
        id: spec.job.id.clone(),
        instance: spec.job.instance.clone(),
        boot_id: boot_id(),
        guardian: own_id(),
        starter: spec.brain,
        tier: job.job().tier(),
        isolation: job.isolation(),
        reachable: job.job().reachable(),
        handle: job.job().handle(),
        stores: spec.stores.clone(),
        protects: spec.protects.clone(),
        secret_files: spec.secret_files.iter().map(|one| (one.file.clone(), one.secret.clone())).collect(),
        started: jiff::Timestamp::now().to_string(),
    };
    dir.write_entry(&entry)?;
    // From here on `now` finds the job; whoever latched before that is found here.
    latches.refuse()?;
    job.spawn()?;
    let by_group = entry.handle.cgroup.is_some();
    match dir.write_entry(&Entry { handle: job.job().handle(), ..entry }) {
        // The program may have filled the disk by now. The record from before leads to all of it.
        Err(_) if by_group => Ok(()),
        written => written,
    }
}

/// Ends what the dead guardian of an earlier job of this name left: its record is the only way to that, and goes now.
fn end_earlier(dir: &JobDir, held: &Lock) -> Result<()> {
    match end_abandoned(dir, held)? {
        Some(report) if !report.proven_empty => {
            let left = match report.survivors.as_slice() {
                [] => "nobody can tell whether all of it has ended".to_owned(),
                survivors => format!("{} of its processes still run", survivors.len()),
            };
            Err(Error::Abandoned { name: dir.name().to_owned(), left })
        }
        _ => Ok(()),
    }
}

/// What keeps the job from starting, and is set when it is ended.
struct Latches {
    own: LatchHandle,
    all: LatchHandle,
}

impl Latches {
    fn open(spec: &GuardianSpec) -> Result<Self> {
        let latch = Latch::open(&spec.state_dir)?;
        Ok(Self { own: latch.handle(Some(&spec.job.name))?, all: latch.handle(None)? })
    }

    fn refuse(&self) -> Result<()> {
        for handle in [&self.all, &self.own] {
            if let Some(entry) = handle.read()? {
                return Err(Error::Latched { since: entry.since, reason: entry.reason });
            }
        }
        Ok(())
    }
}

/// Puts the secret files where only the workload's user can read them.
fn deliver_secret_files(spec: &GuardianSpec) -> Result<()> {
    let Some(secrets) = spec.job.secrets_dir.clone() else { return Ok(()) };
    let _ = std::fs::remove_dir_all(&secrets);
    replace::create_dir(&secrets, 0o700)?;
    let user = spec.job.program.user.as_ref();
    for secret in &spec.secret_files {
        let path = secrets.join(&secret.file);
        let mut file = platform::create_private(&path)?;
        file.write_all(&secret.value).on("write", &path)?;
        platform::hand_over(&path, user)?;
    }
    platform::hand_over(&secrets, user)
}
