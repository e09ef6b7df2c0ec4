//! From a workload's definition to a running job.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use estop_integrity::progress::Silent;
use estop_integrity::{NewSnapshot, Origin};
use estop_secrets::SecretName;
use estop_secrets::exposure::{Channel, Exposure};
use estop_watchdog::guardian::{Ask, GuardianSpec, LogSpec, NotifySpec, OWN_VARIABLES, StopStep, ThawRule, process_id};
use estop_watchdog::job::{Bytes, Containment, JobSpec, Limits, ProcessId, Program, SecretFile, Together};

use super::ballast;
use super::keys::Keys;
use super::recorder::LogRecorder;
use super::stores::{JobWriters, Place, vaults};
use crate::config::{self, Check, Probe, Workload};
use crate::failure::{Code, Failure, Result};
use crate::platform::{Account, account, words};
use crate::site::Site;

/// The variables by which a service manager tells a service how to speak to it. See `sd_notify(3)`.
const SERVICE_MANAGERS: [&str; 7] =
    ["FDSTORE", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// How a workload is started.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Where.
    pub site: &'a Site,
    /// Its name.
    pub name: &'a str,
    /// Its definition.
    pub workload: &'a Workload,
    /// The command, if it is not UTF-8 and so not in the definition.
    pub argv: Option<Vec<OsString>>,
    /// The process group whose terminal it shares, for a foreground run.
    pub process_group: Option<u32>,
    /// Signals that it ignores from the start.
    pub ignored_signals: Vec<i32>,
    /// Use a cgroup where there is one.
    pub cgroup: bool,
}

/// The stores of a workload.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// Those that it writes.
    pub writes: Vec<Place>,
    /// Those that are put back after a `CRITICAL_STOP`.
    pub protects: Vec<Place>,
}

impl Stores {
    /// Finds the stores of `workload`.
    ///
    /// # Errors
    /// If one is not there.
    pub fn of(site: &Site, workload: &Workload) -> Result<Self> {
        let find = |names: &[String]| names.iter().map(|name| Place::find(site, name)).collect::<Result<Vec<_>>>();
        Ok(Self { writes: find(&workload.stores)?, protects: find(&workload.protect)? })
    }

    /// Makes the snapshots to which the protected stores are put back after an emergency in the job `name`. Answers what a
    /// person should know of them.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn snapshot_before_run(&self, site: &Site, name: &str) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        for place in &self.protects {
            let label = Some(before_run_of(name));
            let wanted = NewSnapshot { origin: Origin::BeforeRun, label, ..NewSnapshot::default() };
            let snapshot = place.open()?.create(&wanted, &JobWriters::of(site, place), &Silent)?;
            if snapshot.skipped.unreadable > 0 {
                let first = snapshot.skipped.first.first().map(|skip| skip.path.to_string()).unwrap_or_default();
                let more = match snapshot.skipped.unreadable - 1 {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                warnings.push(format!(
                    "{}: {first}{more} cannot be read, so an emergency puts back everything but that",
                    place.name
                ));
            }
        }
        Ok(warnings)
    }

    fn all(&self) -> impl Iterator<Item = &Place> {
        self.writes.iter().chain(&self.protects)
    }
}

/// The label of the snapshot that a run of the job `name` begins with.
pub fn before_run_of(name: &str) -> String {
    format!("before the run of {name}")
}

/// The secrets of one start, read and already noted in the ledger. Never shown.
#[derive(Default)]
struct Delivered {
    variables: Vec<(String, Bytes)>,
    files: Vec<SecretFile>,
}

impl Launch<'_> {
    /// All that the guardian is told. Reads the workload's secrets and records their exposure before they leave.
    ///
    /// # Errors
    /// If it is latched, a secret or a user is not there, or the ledger cannot be written.
    pub async fn guardian_spec(&self, keys: Option<&Keys>, stores: &Stores) -> Result<GuardianSpec> {
        if let Some(entry) = self.site.latch().holds(self.name)? {
            return Err(estop_watchdog::Error::Latched { since: entry.since, reason: entry.reason }.into());
        }
        let run_dir = self.site.open_run_dir()?;
        ballast::take_on(&self.site.state_dir);
        let id = uuid::Uuid::now_v7().to_string();
        let account = self.workload.user.as_deref().map(account::look_up).transpose()?;
        let delivered = self.deliver(keys, &id).await?;
        let secrets_dir = (!self.workload.secret_files.is_empty()).then(|| run_dir.job(self.name).secrets());
        let environment = self.environment(account.as_ref(), delivered.variables, secrets_dir.as_ref(), &id);
        let workload = self.workload;
        Ok(GuardianSpec {
            job: JobSpec {
                name: self.name.to_owned(),
                id: id.clone(),
                instance: self.site.instance(),
                program: self.program(environment, account),
                limits: limits(workload),
                together: self.site.configured.then(|| together(&self.site.config.together)),
                containment: self.containment(stores),
                output_counted: self.process_group.is_none(),
                secrets_dir,
            },
            run_dir: run_dir.path().to_owned(),
            state_dir: self.site.state_dir.clone(),
            thresholds: workload.limits.thresholds(),
            on_breach: workload.on_breach,
            notify: self.notify(&id),
            stop: stop_steps(workload),
            freezable: workload.freezable,
            freeze_max: workload.freeze_max.duration(),
            thaw: workload.thaw_after.map(|after| ThawRule { after: after.duration(), most: workload.thaw_max }),
            sample_interval: workload.sample_interval.duration(),
            evidence_max: workload.evidence_max.duration(),
            brain: Some(this_process()),
            on_brain_loss: workload.on_brain_loss,
            brain_loss_grace: workload.brain_loss_grace.duration(),
            stores: stores.all().map(|place| place.path.clone()).collect(),
            protects: stores.protects.iter().map(|place| place.name.clone()).collect(),
            log: self.log(),
            secret_files: delivered.files,
            incident: estop_recovery::IncidentId::new().to_string(),
            note: LogRecorder::note(self.site),
        })
    }

    /// Where a workload's output goes that runs on its own. One in the foreground writes to its caller's streams.
    fn log(&self) -> Option<LogSpec> {
        self.process_group.is_none().then(|| LogSpec {
            path: self.site.log_file(self.name),
            max_bytes: self.workload.log_max.bytes(),
            max_age: self.workload.log_age_max.map(config::Period::duration),
        })
    }

    /// How the workload says that it is ready and alive, if it does.
    fn notify(&self, id: &str) -> Option<NotifySpec> {
        let says = |check: &&Check| check.probe == Probe::Notify;
        let alive = self.workload.alive.as_ref().filter(says);
        let speaks = alive.is_some() || self.workload.ready.as_ref().is_some_and(|check| says(&check));
        speaks.then(|| NotifySpec {
            socket: format!("estop/{id}"),
            watchdog: alive.map(|check| check.timeout.duration()),
        })
    }

    fn program(&self, environment: Vec<(Bytes, Bytes)>, account: Option<Account>) -> Program {
        let argv = match &self.argv {
            Some(argv) => argv.iter().cloned().map(Bytes::from).collect(),
            None => self.workload.command.argv().iter().cloned().map(Bytes::from).collect(),
        };
        Program {
            argv,
            environment,
            directory: self.workload.directory.clone(),
            user: account.map(|account| account.ids),
            process_group: self.process_group,
            ignored_signals: self.ignored_signals.clone(),
            commands: commands(self.workload),
            ..Program::default()
        }
    }

    fn containment(&self, stores: &Stores) -> Containment {
        let mut cover = vec![self.site.state_dir.clone(), self.site.run_dir.clone()];
        cover.extend(vaults(self.site));
        cover.extend(stores.all().map(|place| place.vault.clone()));
        // What estop logs in to the Vault with opens all secrets.
        cover.extend(self.site.config.vault.iter().map(|vault| match &vault.auth {
            config::Auth::Token { token_file } => token_file.clone(),
            config::Auth::AppRole { secret_id_file, .. } => secret_id_file.clone(),
        }));
        cover.sort_unstable();
        cover.dedup();
        Containment {
            require_tier: self.workload.require_tier,
            enforce_by_kernel: self.workload.enforce == config::Enforce::Kernel,
            pid_namespace: self.workload.pid_namespace,
            new_privileges: self.workload.new_privs,
            landlock: self.workload.landlock,
            cgroup: self.cgroup,
            cover,
        }
    }

    /// The caller's environment, the workload's own variables, its secrets.
    fn environment(
        &self,
        account: Option<&Account>,
        secrets: Vec<(String, Bytes)>,
        secrets_dir: Option<&PathBuf>,
        id: &str,
    ) -> Vec<(Bytes, Bytes)> {
        let mut variables = BTreeMap::new();
        let mut set = |name: OsString, value: Bytes| drop(variables.insert(words::variable(&name), (name, value)));
        // What estop itself is to say to its service manager is nobody else's.
        let own = |name: &OsString| SERVICE_MANAGERS.iter().any(|known| name == known);
        for (name, value) in std::env::vars_os().filter(|(name, _)| !own(name)) {
            set(name, value.into());
        }
        for (name, value) in account.map(|account| &account.variables).into_iter().flatten() {
            set((*name).into(), value.clone().into());
        }
        for (name, value) in &self.workload.environment {
            set(name.into(), value.clone().into());
        }
        if let Some(dir) = secrets_dir {
            set("ESTOP_SECRETS_DIR".into(), dir.clone().into());
        }
        if let Some(notify) = self.notify(id) {
            set("NOTIFY_SOCKET".into(), format!("@{}", notify.socket).into());
            if let Some(watchdog) = notify.watchdog {
                set("WATCHDOG_USEC".into(), watchdog.as_micros().to_string().into());
            }
        }
        // estop's own key opens all secrets; it is nobody's but estop's, unless the configuration hands it on by name.
        for own in OWN_VARIABLES.into_iter().filter(|own| !self.workload.environment.contains_key(*own)) {
            variables.remove(&words::variable(own.as_ref()));
        }
        variables
            .extend(secrets.into_iter().map(|(name, value)| (words::variable(name.as_ref()), (name.into(), value))));
        variables.into_values().map(|(name, value)| (name.into(), value)).collect()
    }

    async fn deliver(&self, keys: Option<&Keys>, run_id: &str) -> Result<Delivered> {
        let wanted = self.workload.secrets.iter().map(|pair| (pair, Channel::Env));
        let wanted = wanted.chain(self.workload.secret_files.iter().map(|pair| (pair, Channel::File)));
        let (mut delivered, mut exposures) = (Delivered::default(), Vec::new());
        for ((target, name), channel) in wanted {
            let keys = keys.ok_or_else(|| Failure::failed("the secrets were not opened", ""))?;
            let name = SecretName::new(name.clone())?;
            let secret = keys.cache.get(&name).await?;
            exposures.push(Exposure::now(self.name, run_id, name.clone(), secret.version(), channel));
            match channel {
                Channel::File => {
                    if let Some(fault) = words::file_name_fault(target) {
                        return Err(Failure::usage(
                            format!("no file can be called {target:?}: {fault}"),
                            "choose another",
                        ));
                    }
                    delivered.files.push(SecretFile {
                        file: target.clone(),
                        secret: name.to_string(),
                        value: secret.value().expose().to_vec(),
                    });
                }
                _ => match words::variable_value(secret.value().expose()) {
                    Ok(value) => delivered.variables.push((target.clone(), value)),
                    Err(why) => {
                        return Err(Failure::usage(format!("the secret {name} {why}"), "deliver it as a file"));
                    }
                },
            }
        }
        if let Some(keys) = keys.filter(|_| !exposures.is_empty()) {
            keys.ledger.record(&exposures)?;
        }
        Ok(delivered)
    }
}

/// This process, as a guardian's brain.
pub fn this_process() -> ProcessId {
    let pid = std::process::id();
    process_id(pid).unwrap_or(ProcessId { pid, start_time: 0 })
}

/// Refuses a name that cannot be a directory's and a cgroup's.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<()> {
    if let Some(fault) = words::file_name_fault(name) {
        return Err(Failure::usage(format!("{name:?} is no name for a workload: {fault}"), "choose another"));
    }
    if config::is_name(name) {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{name:?} is no name for a workload"),
        "use a-z, 0-9, `.`, `_`, `-`, at most 63, beginning with a letter or digit",
    ))
}

/// Runs `future` to its end on a runtime of its own.
///
/// # Errors
/// The future's own, or that no runtime can be had.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime
        .map_err(|error| Failure::new(Code::Failed, "system", format!("cannot start a runtime: {error}"), ""))?
        .block_on(future)
}

/// The limits of `workload`.
pub fn limits(workload: &Workload) -> Limits {
    Limits {
        memory_max: workload.memory_max.map(config::Size::bytes),
        cpu_max: workload.cpu_max.map(config::CpuPercent::cores),
        pids_max: workload.pids_max,
        time_max: workload.time_max.map(config::Period::duration),
        process_memory_max: workload.process_memory_max.map(config::Size::bytes),
        cpu_weight: workload.cpu_weight,
        cpu_time_max: workload.cpu_time_max.map(config::Period::duration),
        io_max: workload.io_max.map(config::Size::bytes),
    }
}

/// What all jobs of one estop may have together.
fn together(together: &config::Together) -> Together {
    Together {
        memory_max: together.memory_max.map(config::Size::bytes),
        cpu_max: together.cpu_max.map(config::CpuPercent::cores),
        pids_max: together.pids_max,
    }
}

/// How `workload` is asked to end.
fn stop_steps(workload: &Workload) -> Vec<StopStep> {
    let grace = workload.grace.duration();
    let mut commands = 0..;
    let mut ask = |ask: &config::Ask| match ask {
        config::Ask::Signal(name) => words::signal_number(name).map(Ask::Signal),
        config::Ask::Exec(_) => commands.next().map(Ask::Run),
        config::Ask::Http(url) => Some(Ask::Http(url.clone())),
    };
    let wait = |step: &config::StopStep| step.wait.map_or(grace, config::Period::duration);
    let steps: Vec<StopStep> =
        workload.stop.iter().filter_map(|step| Some(StopStep { ask: ask(&step.ask)?, wait: wait(step) })).collect();
    if steps.is_empty() { vec![StopStep::plain(grace)] } else { steps }
}

/// The further commands of `workload`: those of its stop, in their order, of `ready` and of `alive`.
fn commands(workload: &Workload) -> Vec<Vec<Bytes>> {
    let stop = workload.stop.iter().filter_map(|step| match &step.ask {
        config::Ask::Exec(command) => Some(command),
        _ => None,
    });
    let checks = workload.ready.iter().chain(&workload.alive).filter_map(|check| match &check.probe {
        Probe::Exec(command) => Some(command),
        _ => None,
    });
    stop.chain(checks).map(|command| command.argv().iter().cloned().map(Bytes::from).collect()).collect()
}

/// The number of the further command that is the check `which` of `workload`.
pub fn check_command(workload: &Workload, which: &Check) -> usize {
    let is_exec = |check: &&Check| matches!(check.probe, Probe::Exec(_));
    let before = workload.stop.iter().filter(|step| matches!(step.ask, config::Ask::Exec(_))).count();
    let ready = workload.ready.as_ref().filter(is_exec);
    let is_alive = workload.alive.as_ref() == Some(which) && ready != Some(which);
    before + usize::from(is_alive && ready.is_some())
}
