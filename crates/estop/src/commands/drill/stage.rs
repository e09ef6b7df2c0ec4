//! The stage of a drill, and what happens on it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use estop_integrity::progress::Silent;
use estop_integrity::{KBSnapshot, NewSnapshot, NoWriters, Origin};
use estop_recovery::{Event, Incident};
use estop_secrets::{SecretName, SecretValue, Version};
use estop_watchdog::guardian::{self, Streams};
use estop_watchdog::registry::Outcome;
use tempfile::TempDir;

use super::{agent, knowledge};
use crate::config::Config;
use crate::engine::keys::Keys;
use crate::engine::launch::{Launch, Stores, block_on};
use crate::engine::response;
use crate::engine::stores::Place;
use crate::failure::{Failure, Result};
use crate::platform::processes::memory;
use crate::site::Site;

/// The name of the drill's workload.
pub(super) const AGENT: &str = "agent";
/// The name of its store.
pub(super) const STORE: &str = "knowledge";
/// The name of its secret.
pub(super) const SECRET: &str = "api/token";
/// The secret's first value.
pub(super) const FIRST_VALUE: &str = "drill-token-that-leaks";
/// How long the drill waits for the limit to trip.
const PATIENCE: Duration = Duration::from_mins(2);

/// The stage: a place of its own with a knowledge base and a secret.
pub(super) struct Stage {
    // Removed with everything in it when the drill is over.
    dir: TempDir,
    pub(super) site: Site,
    pub(super) snapshot: KBSnapshot,
    /// What the knowledge base was, read independently of the snapshot.
    pub(super) before: BTreeMap<PathBuf, Vec<u8>>,
}

/// What the agent's run came to.
pub(super) struct Acted {
    pub(super) outcome: Outcome,
    /// The run's identifier, which marks all its processes.
    pub(super) job: String,
}

impl Stage {
    /// Sets the stage.
    ///
    /// # Errors
    /// If something of it cannot be made.
    pub(super) fn set() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("estop-drill-")
            .tempdir()
            .map_err(|error| Failure::failed(format!("cannot make a temporary directory: {error}"), "check TMPDIR"))?;
        let root = dunce::canonicalize(dir.path()).map_err(|error| Failure::io("find", dir.path(), &error))?;
        let site = Site::below(&root, config(&root)?);
        for folder in ["knowledge", "signs"] {
            let path = root.join(folder);
            std::fs::create_dir(&path).map_err(|error| Failure::io("create", &path, &error))?;
        }
        knowledge::make(&root.join("knowledge"))?;
        site.open_state_dir()?;
        site.check(None)?;
        block_on(async {
            let keys = Keys::open(&site).await?;
            Ok(keys.store.write(&SecretName::new(SECRET)?, &SecretValue::from(FIRST_VALUE), Version::NONE).await?)
        })?;
        let wanted =
            NewSnapshot { label: Some("before the drill".to_owned()), origin: Origin::BeforeRun, pinned: false };
        let snapshot = Place::find(&site, STORE)?.open()?.create(&wanted, &NoWriters, &Silent)?;
        let before = knowledge::look(&root.join("knowledge")).map_err(|error| Failure::io("read", &root, &error))?;
        Ok(Self { dir, site, snapshot, before })
    }

    pub(super) fn knowledge(&self) -> PathBuf {
        self.site.config.stores[STORE].path.clone()
    }

    pub(super) fn signs(&self) -> PathBuf {
        self.dir.path().join("signs")
    }

    /// How many files there are.
    pub(super) fn files(&self) -> u64 {
        self.snapshot.files
    }

    /// How many bytes they have.
    pub(super) fn bytes(&self) -> u64 {
        self.snapshot.bytes
    }

    /// Starts the agent under a guardian and waits until that has stopped it.
    ///
    /// # Errors
    /// If it cannot be started, or nothing stops it.
    pub(super) fn let_it_run(&self, say: impl Fn(&str)) -> Result<Acted> {
        let workload = &self.site.config.workloads[AGENT];
        let stores = Stores::of(&self.site, workload)?;
        let launch = Launch {
            site: &self.site,
            name: AGENT,
            workload,
            argv: None,
            process_group: None,
            ignored_signals: Vec::new(),
            cgroup: true,
        };
        let spec = block_on(async { launch.guardian_spec(Some(&Keys::open(&self.site).await?), &stores).await })?;
        let streams = Streams { input: Stdio::null(), output: Stdio::null(), error: Stdio::null() };
        let mut guardian = guardian::start(&spec, streams)?;
        say("  the agent works");
        let mut told = false;
        let deadline = Instant::now() + PATIENCE;
        while guardian.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            if !told
                && std::fs::read_to_string(self.signs().join("signs")).is_ok_and(|signs| signs.contains("going wrong"))
            {
                told = true;
                say("  the agent goes wrong: it shreds, encrypts and deletes, spawns children, eats memory");
            }
            if Instant::now() >= deadline {
                let _ = guardian.process.kill();
                let _ = guardian.process.wait();
                return Err(Failure::failed(
                    "no limit tripped within two minutes",
                    "this is a fault in estop; please report it",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let outcome = guardian
            .dir
            .outcome()?
            .ok_or_else(|| Failure::failed("the guardian of the drill died", "see the system's log"))?;
        Ok(Acted { outcome, job: spec.job.id.clone() })
    }
}

impl Acted {
    /// The rest of the incident.
    ///
    /// # Errors
    /// If it cannot be carried through.
    pub(super) fn recover(
        &self,
        stage: &Stage,
        observer: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> Result<Incident> {
        Ok(response::attend(&stage.site, &self.outcome, &[STORE.to_owned()], true, observer)?.incident)
    }
}

/// What the agent and all its helpers may take, in bytes: what they are made of, which a system may count for each of them, and a
/// part of what the agent eats.
fn memory_max() -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    let one = memory(std::process::id()).map_or(0.0, |memory| memory.private) as u64;
    one * u64::from(agent::PROCESSES_AT_MOST) + (128 << 20)
}

/// The drill's configuration, as a person would write it.
fn config(root: &std::path::Path) -> Result<Config> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find estop's own executable: {error}"), ""))?;
    let quoted = |path: &std::path::Path| toml::Value::String(path.display().to_string()).to_string();
    let text = format!(
        r#"
[workload.{AGENT}]
command = [{executable}, "__drill-agent", {knowledge}, {signs}]
memory_max = {memory}
pids_max = 64
time_max = "60s"
protect = ["{STORE}"]
secrets = {{ API_TOKEN = "{SECRET}" }}

[store.{STORE}]
path = {knowledge}

[secret."{SECRET}"]
generate = {{ length = 40 }}
notify = [{{ exec = [{executable}, "__helper", "write-down", {notified}] }}]
"#,
        memory = memory_max(),
        executable = quoted(&executable),
        knowledge = quoted(&root.join("knowledge")),
        signs = quoted(&root.join("signs")),
        notified = quoted(&root.join("signs/notified.json")),
    );
    Ok(Config::parse(&text, &root.join("estop.toml"))?)
}
