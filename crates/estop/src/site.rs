//! Where one estop lives: its configuration, its state directory, its run directory.

use std::path::{Path, PathBuf};

use estop_watchdog::emergency::{Groups, Instance};
use estop_watchdog::latch::Latch;
use estop_watchdog::registry::RunDir;

use crate::config::{Config, Daemon, Surroundings};
use crate::failure::{Failure, Result};
use crate::platform::{channel, places};

/// Where one estop lives.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its configuration; the default one if there is no file.
    pub config: Config,
    /// Whether there is a file.
    pub configured: bool,
    /// The state directory, absolute.
    pub state_dir: PathBuf,
    /// The run directory, absolute.
    pub run_dir: PathBuf,
    /// Whether the place was chosen by the caller, not by default: then other places are not looked at.
    chosen: bool,
}

/// What the caller said about the place.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `ESTOP_RUN_DIR`.
    pub run_dir: Option<PathBuf>,
}

impl Choice {
    fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| Some(places::default_config()).filter(|path| path.exists()))
    }
}

impl Site {
    /// Finds the place. Creates nothing.
    ///
    /// # Errors
    /// If the configuration cannot be read or is not well-formed.
    pub fn find(choice: &Choice) -> Result<Self> {
        let config = choice.file().as_deref().map(Config::load).transpose()?;
        let configured = config.is_some();
        Self::of(choice, config.unwrap_or_default(), configured)
    }

    /// Finds the place for an emergency, in which a broken configuration may not stand in the way: then only the place is
    /// taken from it, as far as it can be read, and what is wrong with it is returned too.
    ///
    /// # Errors
    /// If a path that the caller gave is none.
    pub fn find_anyway(choice: &Choice) -> Result<(Self, Option<Failure>)> {
        let broken = match Self::find(choice) {
            Ok(site) => return Ok((site, None)),
            Err(broken) => broken,
        };
        let mut config = Config::default();
        config.estop = choice.file().map(|file| salvage(&file)).unwrap_or_default();
        // Which of these need a person's word cannot be read: then all do.
        config.recovery.approval.clone_from(&config.recovery.on_critical_stop);
        Ok((Self::of(choice, config, false)?, Some(broken)))
    }

    /// The place that a caller without a configuration chose.
    ///
    /// # Errors
    /// If a path of the caller's is none.
    pub fn unconfigured(choice: &Choice) -> Result<Self> {
        Self::of(choice, Config::default(), false)
    }

    fn of(choice: &Choice, config: Config, configured: bool) -> Result<Self> {
        let state_dir = choice.state_dir.clone().or_else(|| config.estop.state_dir.clone());
        let chosen = state_dir.is_some();
        let state_dir = absolute(&state_dir.unwrap_or_else(places::default_state_dir))?;
        let run_dir = match choice.run_dir.clone().or_else(|| config.estop.run_dir.clone()) {
            Some(run_dir) => absolute(&run_dir)?,
            None if chosen => state_dir.join("run"),
            None => places::default_run_dir().unwrap_or_else(|| state_dir.join("run")),
        };
        Ok(Self { config, configured, state_dir, run_dir, chosen })
    }

    /// A place of its own below `dir`, for a drill.
    pub fn below(dir: &Path, config: Config) -> Self {
        Self { config, configured: true, state_dir: dir.join("state"), run_dir: dir.join("state/run"), chosen: true }
    }

    /// Checks what the configuration says against this host.
    ///
    /// # Errors
    /// All that is wrong, with the places.
    pub fn check(&self, known_secrets: Option<&dyn crate::config::KnownSecrets>) -> Result<()> {
        let surroundings =
            Surroundings { state_dir: self.state_dir.clone(), run_dir: self.run_dir.clone(), known_secrets };
        Ok(self.config.check(&surroundings)?)
    }

    /// The run directory, made if it is absent.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open_run_dir(&self) -> Result<RunDir> {
        self.open_state_dir()?;
        Ok(RunDir::open(&self.run_dir)?)
    }

    /// The state directory, made if it is absent.
    ///
    /// # Errors
    /// If it cannot be made, or others than its user can change what is in it: the latch, the incidents, the snapshots.
    pub fn open_state_dir(&self) -> Result<()> {
        let path = &self.state_dir;
        estop_durable::replace::create_dir(path, 0o700)?;
        places::refuse_strangers(path)
    }

    /// The latch.
    pub fn latch(&self) -> Latch {
        Latch::at(&self.state_dir)
    }

    /// The name of this estop's group of jobs in the system: the same for the same state directory.
    pub fn instance(&self) -> String {
        let path = dunce::canonicalize(&self.state_dir).unwrap_or_else(|_| self.state_dir.clone());
        blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned()
    }

    /// The estops that `now` stops: this one, and for root, unless it chose one, every other of root's that has jobs, and
    /// every user's.
    pub fn instances(&self) -> Vec<Instance> {
        let everyone = !self.chosen && places::is_privileged();
        let groups = if everyone { Groups::All } else { Groups::Of(self.instance()) };
        let (run_dir, state_dir) = (self.run_dir.clone(), Some(self.state_dir.clone()));
        let mut instances = vec![Instance { run_dir, state_dir, groups, keeps_incident: true }];
        if everyone {
            instances.extend(places::others(&self.run_dir));
        }
        instances
    }

    /// The critical-failure log.
    pub fn critical_failures(&self) -> PathBuf {
        critical_failures(&self.state_dir)
    }

    /// Where incidents are kept.
    pub fn incidents(&self) -> PathBuf {
        self.state_dir.join("incidents")
    }

    /// Where the output of a workload goes.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.state_dir.join("logs").join(format!("{name}.log"))
    }

    /// Where the histories of jobs are kept.
    pub fn history(&self) -> PathBuf {
        self.state_dir.join("history")
    }

    /// What shows that the daemon is there, and where.
    pub fn brain_socket(&self) -> PathBuf {
        self.run_dir.join(channel::NAME)
    }

    /// The command line `command`, which begins with `estop`, as it leads to this estop from where it is typed: with options, unless
    /// it is the one that is found by itself.
    pub fn command(&self, command: &str) -> String {
        let said = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
        let choice =
            Choice { config: said("ESTOP_CONFIG"), state_dir: said("ESTOP_STATE_DIR"), run_dir: said("ESTOP_RUN_DIR") };
        let same = |found: Self| found.state_dir == self.state_dir && found.config.origin() == self.config.origin();
        if Self::find(&choice).is_ok_and(same) {
            return command.to_owned();
        }
        let mut options = String::new();
        if self.configured {
            let origin = std::path::absolute(self.config.origin()).unwrap_or_else(|_| self.config.origin().to_owned());
            options.push_str(" --config ");
            options.push_str(&estop_integrity::quoted(&origin.to_string_lossy()));
        }
        options.push_str(" --state-dir ");
        options.push_str(&estop_integrity::quoted(&self.state_dir.to_string_lossy()));
        command.replacen("estop ", &format!("estop{options} "), 1)
    }
}

/// The critical-failure log in `state_dir`.
pub fn critical_failures(state_dir: &Path) -> PathBuf {
    state_dir.join("critical-failures.jsonl")
}

/// The `[estop]` section of a broken configuration, as far as its lines can be read.
fn salvage(file: &Path) -> Daemon {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("[estop]")).skip(1);
    let mut daemon = Daemon::default();
    for mut pairs in lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.parse::<toml::Table>().ok())
    {
        let mut path = |key: &str| {
            let path = pairs.remove(key)?.as_str().map(PathBuf::from)?;
            Some(file.parent().map_or_else(|| path.clone(), |folder| folder.join(&path)))
        };
        daemon.state_dir = path("state_dir").or(daemon.state_dir);
        daemon.run_dir = path("run_dir").or(daemon.run_dir);
    }
    daemon
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display()), ""))
}
