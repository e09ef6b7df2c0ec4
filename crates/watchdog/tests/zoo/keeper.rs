//! Lets one animal in after the other, stops it, and looks at once whether anything is left.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use estop_watchdog::guardian::{self, Client, Evidence, Guardian, GuardianSpec, Recorder, StopStep, Streams};
use estop_watchdog::job::linux::Host;
use estop_watchdog::job::{Containment, JobSpec, Limits, Program, Tier};
use estop_watchdog::registry::RunDir;
use estop_watchdog::stop::{Category, StopReport};

use crate::animals::{ANIMAL, NAMES, PLACE, SIZE};
use crate::cage::Cage;
use crate::sight::{self, Seen};

/// How many stops of each the fast test makes.
pub(crate) fn fast() -> u32 {
    std::env::var("ESTOP_ZOO_STOPS").map_or(20, |stops| stops.parse().unwrap())
}

/// How long it takes for them at most: where every stop of an animal is tried for seconds, there are fewer.
const FAST_TIME: Duration = Duration::from_secs(20);
/// How long anything may take on a busy machine. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_mins(1);

/// Keeps nothing: what a stop leaves in the log is others' subject.
pub(crate) struct NoRecord;

impl Recorder for NoRecord {
    fn record(&self, _state_dir: &Path, _evidence: &Evidence) {}
}

/// How an animal is contained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Housing {
    /// A cgroup, with all that stacks on it.
    Kernel,
    /// A cgroup alone, which root can leave.
    Cgroup,
    /// A PID namespace alone.
    Namespace,
    /// Lineage and marker.
    Tracked,
}

impl Housing {
    pub(crate) const ALL: [Self; 4] = [Self::Kernel, Self::Cgroup, Self::Namespace, Self::Tracked];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Cgroup => "cgroup",
            Self::Namespace => "namespace",
            Self::Tracked => "tracked",
        }
    }

    fn tier(self) -> Tier {
        match self {
            Self::Kernel | Self::Cgroup => Tier::Kernel,
            Self::Namespace => Tier::Namespace,
            Self::Tracked => Tier::Tracked,
        }
    }

    /// Whether this host has it.
    pub(crate) fn is_offered(self) -> bool {
        let host = Host::probe();
        match self {
            Self::Kernel | Self::Cgroup => host.cgroup_root.is_ok(),
            Self::Namespace => host.namespaces.is_ok(),
            Self::Tracked => true,
        }
    }

    fn containment(self) -> Containment {
        let stacked = self == Self::Kernel;
        Containment {
            require_tier: Some(self.tier()),
            cgroup: self.tier() == Tier::Kernel,
            pid_namespace: stacked || self == Self::Namespace,
            landlock: stacked,
            ..Containment::default()
        }
    }
}

/// How a stop went.
#[derive(Clone, Debug)]
pub(crate) struct Stopped {
    pub(crate) report: StopReport,
    /// Who was alive when the answer had come.
    pub(crate) left: Vec<Seen>,
    /// How much was written after that.
    pub(crate) written: u64,
}

impl Stopped {
    /// Whether somebody outlived it.
    pub(crate) fn has_survivors(&self) -> bool {
        !self.left.is_empty() || self.written > 0
    }
}

/// A folder, and a program in it by which all animals are found.
pub(crate) struct Keeper {
    dir: tempfile::TempDir,
    program: PathBuf,
    mark: String,
    stops: u32,
    _cage: Option<Cage>,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        let cage = Cage::enter();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("animal");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        Self { dir, program, mark: format!("ZOO_MARK={}", uuid::Uuid::now_v7()), stops: 0, _cage: cage }
    }

    /// Stops `animal` so often, or for as long as the fast test may take.
    pub(crate) fn stop_often(&mut self, housing: Housing, animal: &str, times: u32) {
        let begun = Instant::now();
        let mut unproven = 0;
        for round in 0..times {
            if begun.elapsed() > FAST_TIME {
                break;
            }
            let stopped = self.stop_once(housing, animal);
            judge(housing, animal, &stopped);
            unproven += u32::from(!stopped.report.proven_empty);
            assert!(round > 0 || stopped.report.tier == housing.tier(), "{stopped:#?}");
        }
        println!("{} {animal}: {} stops, {unproven} not proven", housing.name(), self.stops);
    }

    /// One stop, in the middle of whatever the animal does.
    pub(crate) fn stop_once(&mut self, housing: Housing, animal: &str) -> Stopped {
        self.stops += 1;
        let place = self.dir.path().join(format!("place-{}", self.stops));
        std::fs::create_dir(&place).unwrap();
        let spec = self.spec(housing, animal, &place);
        let mut guardian = guardian::start(&spec, quiet()).unwrap();
        until("it is ready", || place.join("ready").exists());
        let mut client = Client::new(&guardian.dir).unwrap();
        if animal == "frozen" {
            client.freeze(None).unwrap();
        }
        // Another moment of its life each time.
        std::thread::sleep(Duration::from_micros(u64::from(self.stops % 17) * 250));
        let category = if animal == "deaf" { Category::Ask } else { Category::Kill };
        let report = client.stop(category, "the keeper says so", PATIENCE).unwrap();
        let stopped = self.look(report, &place);
        self.clear(&mut guardian, &spec, &stopped, &place);
        stopped
    }

    fn look(&self, report: StopReport, place: &Path) -> Stopped {
        let before = written(place);
        let left = sight::alive(self.dir.path(), &self.mark);
        if let Ok(port) = std::fs::read_to_string(place.join("port")) {
            let bound = std::net::TcpListener::bind(("127.0.0.1", port.parse().unwrap()));
            assert!(bound.is_ok() || !report.proven_empty, "the port {port} is taken: {report:#?}");
        }
        Stopped { report, left, written: written(place) - before }
    }

    /// Waits for the guardian's end, and ends what outlived the stop.
    fn clear(&self, guardian: &mut Guardian, spec: &GuardianSpec, stopped: &Stopped, place: &Path) {
        std::fs::write(place.join("end"), "").unwrap();
        if stopped.report.proven_empty && !stopped.has_survivors() {
            guardian.process.wait().unwrap();
        } else {
            until("what outlived the stop is ended", || {
                let left = sight::alive(self.dir.path(), &self.mark);
                sight::end(&left);
                left.is_empty() && guardian.process.try_wait().unwrap().is_some()
            });
        }
        guardian.dir.remove(&spec.job.id).unwrap();
        std::fs::remove_dir_all(place).unwrap();
    }

    fn spec(&self, housing: Housing, animal: &str, place: &Path) -> GuardianSpec {
        let size = match (animal, crate::claim::is_running()) {
            // It takes as long to grow as all others live: in each tenth round of the count.
            ("wide", true) if (self.stops as usize / NAMES.len()).is_multiple_of(10) => 5000,
            ("wide", _) => 300,
            ("bomb", _) => 100,
            _ => 200,
        };
        let environment = [
            (ANIMAL, animal.to_owned()),
            (PLACE, place.to_str().unwrap().to_owned()),
            (SIZE, size.to_string()),
            self.mark.split_once('=').map(|(name, value)| (name, value.to_owned())).unwrap(),
        ];
        let program = Program {
            argv: vec![self.program.clone().into()],
            environment: environment.map(|(name, value)| (name.to_owned().into(), value.into())).into(),
            directory: Some(place.to_owned()),
            ..Program::default()
        };
        // What the kernel refuses a bomb is no reason to stop it before the keeper does.
        let limits = Limits { pids_max: (animal == "bomb").then_some(1000), ..Limits::default() };
        let job = JobSpec {
            name: "animal".to_owned(),
            id: uuid::Uuid::now_v7().to_string(),
            instance: format!("zoo-{}", std::process::id()),
            program,
            limits,
            together: None,
            containment: housing.containment(),
            output_counted: false,
            secrets_dir: None,
        };
        let (run, state) = (self.dir.path().join("run"), self.dir.path().join("state"));
        GuardianSpec {
            stop: vec![StopStep::plain(Duration::from_millis(20))],
            ..GuardianSpec::new(job, run, state, uuid::Uuid::now_v7().to_string())
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // What a failed test left is ended by its guardian, and by this.
        let jobs = RunDir::at(&self.dir.path().join("run"));
        if let Ok(mut client) = Client::new(&jobs.job("animal")) {
            let _ = client.stop(Category::Kill, "the test is over", Duration::from_secs(10));
        }
        let begun = Instant::now();
        loop {
            let left = sight::alive(self.dir.path(), &self.mark);
            if left.is_empty() || begun.elapsed() > PATIENCE {
                break;
            }
            sight::end(&left);
        }
    }
}

/// Nobody survives where the kernel holds the job; elsewhere whoever does is never kept quiet.
#[track_caller]
pub(crate) fn judge(housing: Housing, animal: &str, stopped: &Stopped) {
    let shown = || format!("{animal} in {}: {stopped:#?}", housing.name());
    assert!(!stopped.has_survivors() || !stopped.report.proven_empty, "called proven: {}", shown());
    if housing != Housing::Tracked {
        assert!(!stopped.has_survivors(), "survived: {}", shown());
        assert!(stopped.report.proven_empty, "not proven: {}", shown());
    }
}

/// How much the animals have written into their canaries.
fn written(place: &Path) -> u64 {
    let files = std::fs::read_dir(place).unwrap().flatten();
    let canaries = files.filter(|file| file.file_name().to_string_lossy().starts_with("canary"));
    canaries.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn quiet() -> Streams {
    Streams { input: Stdio::null(), output: Stdio::null(), error: Stdio::inherit() }
}

#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
