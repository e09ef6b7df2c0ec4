//! Starting a guardian, and becoming one.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use estop_durable::lock::Lock;

use super::evidence::Recorder;
use super::log::Log;
use super::server::{Prepared, Server};
use super::sockets;
use super::spec::GuardianSpec;
use super::surroundings::{NowFile, close_on_exec, own_id, watch_signals};
use crate::emergency::{end_abandoned, settle_abandoned};
use crate::error::Context as _;
use crate::job::linux;
use crate::latch::{Handle as LatchHandle, Latch};
use crate::registry::{Entry, Failure, FailureKind, JobDir, RunDir, boot_id};
use crate::stop::Category;
use crate::{Error, JobObjectManager, Result};

/// The first argument of a process that is to be a guardian.
pub const ARGUMENT: &str = "__guardian";
/// Where the guardian finds the channel to its starter: above what a caller is likely to hand down to its program.
const CHANNEL: i32 = 100;
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
    let (mut channel, inner) = UnixStream::pair().doing("create a socket pair")?;
    let mut command = Command::new(linux::OWN_EXECUTABLE);
    for own in OWN_VARIABLES {
        command.env_remove(own);
    }
    command.arg0("estop").arg(ARGUMENT).stdin(streams.input).stdout(streams.output).stderr(streams.error);
    command
        .fd_mappings(vec![FdMapping { parent_fd: inner.into(), child_fd: CHANNEL }])
        .map_err(|_| Error::Containment("a descriptor is in use twice".to_owned()))?;
    let mut process = command.spawn().doing("start a guardian")?;
    // The command holds the other end of the channel, whose closing is the sign of a guardian's death.
    drop(command);
    let dir = RunDir::at(&spec.run_dir).job(&spec.job.name);
    match converse(&mut channel, spec) {
        Ok(()) => Ok(Guardian { process, dir, id: spec.job.id.clone() }),
        Err(error) => {
            // A guardian that failed ends by itself; one that hangs does not.
            let _ = process.kill();
            let _ = process.wait();
            // One that was killed may have started the program; what cannot be ended here, the next of this name ends.
            let _ = settle_abandoned(&dir, &spec.job.id);
            Err(error)
        }
    }
}

fn converse(channel: &mut UnixStream, spec: &GuardianSpec) -> Result<()> {
    let died = |detail: String| Error::GuardianDied { name: spec.job.name.clone(), detail };
    let bytes = serde_json::to_vec(spec).map_err(|error| died(error.to_string()))?;
    channel.set_read_timeout(Some(START_LIMIT)).doing("limit the wait for a guardian")?;
    // If it died meanwhile, its last words are still to be read.
    let _ = channel.write_all(&bytes).and_then(|()| channel.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    channel.read_to_end(&mut answer).map_err(|error| died(format!("it did not report in time ({error})")))?;
    let failure: Option<Failure> =
        serde_json::from_slice(&answer).map_err(|_| died("it ended before it had started the program".to_owned()))?;
    failure.map_or(Ok(()), |failure| Err(error_of(failure, spec)))
}

/// The guardian's failure as the starter's own error.
fn error_of(failure: Failure, spec: &GuardianSpec) -> Error {
    let program = || {
        spec.job.program.argv.first().map(|name| name.to_os_string().to_string_lossy().into_owned()).unwrap_or_default()
    };
    let exec = |errno| Error::Exec { program: program(), source: std::io::Error::from_raw_os_error(errno) };
    match failure.kind {
        FailureKind::NotFound => exec(libc::ENOENT),
        FailureKind::NotExecutable => exec(libc::EACCES),
        FailureKind::NameTaken => Error::NameTaken { name: spec.job.name.clone() },
        FailureKind::Latched => match Latch::at(&spec.state_dir).holds(&spec.job.name) {
            Ok(Some(entry)) => Error::Latched { since: entry.since, reason: entry.reason },
            _ => Error::Latched { since: "just now".to_owned(), reason: failure.message },
        },
        FailureKind::TierTooLow => Error::Refused { name: spec.job.name.clone(), reason: failure.message },
        FailureKind::Other => Error::NotStarted(failure.message),
    }
}

/// Becomes a guardian, if this process was started as one: then this does not return. To be called first in `main`, before
/// any thread is started.
pub fn enter(recorder: &dyn Recorder) {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT) {
        let code = match become_guardian(recorder) {
            Ok(()) => 0,
            Err(_) => 1,
        };
        std::process::exit(code);
    }
}

fn become_guardian(recorder: &dyn Recorder) -> Result<()> {
    // SAFETY: the starter has put the channel there, and nothing else in this process has used that number yet.
    let mut channel = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CHANNEL) });
    close_on_exec(&channel)?;
    let mut bytes = Vec::new();
    channel.read_to_end(&mut bytes).doing("hear from the starter")?;
    let started = serde_json::from_slice(&bytes)
        .map_err(|error| Error::Containment(format!("a guardian is started by estop only: {error}")))
        .and_then(prepare);
    let failure = started.as_ref().err().map(Failure::from);
    // A starter that has gone is noticed as a brain that is lost.
    let _ = serde_json::to_writer(&mut channel, &failure);
    drop(channel);
    let (prepared, lock) = started?;
    linux::detach_standard_streams()?;
    // Out of the process group that the program was put into, and of the session: as a parent in the same session a guardian
    // would keep the group from being orphaned, and so a suspended one from being hung up on when its shell is gone.
    let _ = rustix::process::setsid();
    Server::new(prepared, recorder).serve();
    drop(lock);
    Ok(())
}

fn prepare(mut spec: GuardianSpec) -> Result<(Prepared, Lock)> {
    if spec.job.program.process_group.is_none() {
        // Away from the starter's terminal: its Ctrl-C is not meant for this workload.
        let _ = rustix::process::setsid();
    }
    let signals = watch_signals()?;
    spec.job.program.oom_score = protect_from_oom();
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
    match set_up(spec, &run_dir, &dir, latches, signals) {
        Ok(prepared) => Ok((prepared, lock)),
        Err(error) => {
            // The plaintext of secrets is in it. What cannot be removed, the next job of this name takes over.
            let _ = std::fs::remove_dir_all(dir.secrets());
            let _ = dir.remove_held(&lock);
            Err(error)
        }
    }
}

/// Puts the job together and starts its program. Leaves nothing but files in `dir` if that fails.
fn set_up(
    mut spec: GuardianSpec,
    run_dir: &RunDir,
    dir: &JobDir,
    latches: Latches,
    signals: OwnedFd,
) -> Result<Prepared> {
    let reserve = dir.reserve()?;
    let socket = sockets::bound(&dir.socket())?;
    let now_file = NowFile::watch(run_dir)?;
    deliver_secret_files(&spec)?;
    let mut job = JobObjectManager::create(spec.job.clone(), spec.thresholds)?;
    let places = linux::Places { run_dir: spec.run_dir.clone(), state_dir: spec.state_dir.clone() };
    // Where a kernel cannot keep it, another estop's `now` still ends the job by its cgroup.
    let _ = places.record(&spec.job.instance);
    if let Err(error) = begin(&spec, dir, &latches, &mut job) {
        if job.main().is_some() {
            job.stop(Category::Kill, KILL_LIMIT, |_| {});
        }
        job.release();
        return Err(error);
    }
    spec.job.program.environment.clear();
    spec.secret_files.clear();
    let Latches { own: latch_own, all: latch_all } = latches;
    let log = spec.log.as_ref().and_then(Log::open);
    Ok(Prepared { log, spec, job, dir: dir.clone(), reserve, socket, latch_own, latch_all, now_file, signals })
}

/// Limits the job, records it and starts its program.
fn begin(spec: &GuardianSpec, dir: &JobDir, latches: &Latches, job: &mut JobObjectManager) -> Result<()> {
    let effective = spec.effective_thresholds(job.job().enforced().cpu);
    job.set_limits(spec.job.limits, effective)?;
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
    dir.write_entry(&Entry { handle: job.job().handle(), ..entry })
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

/// The kernel should end anything else first. It allows that only to the privileged. Returns the score before, which the
/// workload is to have: of all programs it must not be spared.
fn protect_from_oom() -> Option<String> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let before = std::fs::read_to_string(SCORE).ok();
    let _ = std::fs::write(SCORE, "-900");
    before
}

/// Puts the secret files where only the workload's user can read them.
fn deliver_secret_files(spec: &GuardianSpec) -> Result<()> {
    let Some(secrets) = spec.job.secrets_dir.clone() else { return Ok(()) };
    let _ = std::fs::remove_dir_all(&secrets);
    std::fs::create_dir(&secrets).on("create", &secrets)?;
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o700)).on("protect", &secrets)?;
    let owner = spec.job.program.user.as_ref().map(|user| (user.uid, user.gid));
    for secret in &spec.secret_files {
        let path = secrets.join(&secret.file);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).on("create", &path)?;
        file.write_all(&secret.value).on("write", &path)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).on("hand over", &path)?;
        }
    }
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(&secrets, Some(uid), Some(gid)).on("hand over", &secrets)?;
    }
    Ok(())
}
