//! What a scene has from Unix: other users, cgroups, signals, and `/proc` to find everything by.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use super::group::Group;
use super::{Running, Scene};
use crate::house::{ESTOP, House};

/// The ordinary user that tests become: not `nobody`, whom workloads of other tests become.
const ORDINARY: u32 = 61_234;
/// The variable by which a test finds everything that it started, without asking estop.
const MARK: &str = "SCENE_MARK";
/// The options by which a run gets each tier.
pub(crate) const TIERS: &[&[&str]] = &[&[], &["--no-cgroup"], &["--no-cgroup", "--no-pid-namespace"]];
/// A program of many habits.
const VILLAIN: &str = include_str!("villain.sh");

/// As whom estop runs.
pub(super) struct Guise {
    mark: String,
    program: PathBuf,
    ordinary: bool,
    /// The cgroup that it is started in, if not that of the test.
    group: Option<Group>,
}

impl Guise {
    /// As the user that runs the tests.
    pub(super) fn own(house: &House) -> Self {
        house.script("villain.sh", VILLAIN);
        let mark = format!("{}-{}", std::process::id(), house.path().display());
        Self { mark, program: ESTOP.into(), ordinary: false, group: None }
    }

    /// `plain`, as that user, in that cgroup, marked.
    pub(super) fn command(&self, plain: Command, directory: &Path) -> Command {
        let mut command = if self.ordinary || self.group.is_some() {
            let mut command = Command::new("sh");
            command.args(["-c", "test -z \"$0\" || echo $$ > \"$0/cgroup.procs\"; exec \"$@\""]);
            command.arg(self.group.as_ref().map_or(Path::new(""), Group::path));
            if self.ordinary {
                let id = ORDINARY.to_string();
                command.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
            }
            command.arg(&self.program).args(plain.get_args()).current_dir(directory);
            for (name, value) in plain.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command
        } else {
            plain
        };
        command.env(MARK, &self.mark);
        command
    }
}

pub(super) fn end_all(_scene: &Scene, alive: &BTreeMap<u32, String>) {
    for pid in alive.keys() {
        signal(*pid, Signal::KILL);
    }
}

pub(super) fn leave(brain: Running) {
    brain.signal(Signal::TERM);
    brain.wait().expect(0);
}

pub(super) fn villain(scene: &Path) -> PathBuf {
    scene.join("villain.sh")
}

impl Scene {
    /// With estop as an ordinary user; `None` where the tests are not run by root, who alone can become another.
    pub(crate) fn ordinary() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let mut scene = Self::new();
        scene.guise.ordinary = true;
        // The build's directory need not be readable for others.
        scene.guise.program = scene.path().join("bin-estop");
        std::fs::copy(ESTOP, &scene.guise.program).unwrap();
        give(&scene.path());
        give(&scene.canary());
        Some(scene)
    }

    /// As [`Scene::ordinary`], in a cgroup that was delegated to that user.
    pub(crate) fn delegated() -> Option<Self> {
        let mut scene = Self::ordinary()?;
        let group = Group::new();
        group.delegate(ORDINARY);
        scene.guise.group = Some(group);
        Some(scene)
    }

    /// As whom estop runs.
    pub(crate) fn user(&self) -> u32 {
        if self.guise.ordinary { ORDINARY } else { rustix::process::geteuid().as_raw() }
    }

    /// The same, with estop in a cgroup of its own that was delegated to nobody.
    pub(crate) fn grouped(mut self) -> Self {
        self.guise.group = Some(Group::new());
        self
    }

    /// The cgroup that estop was started in, if it is one of the test's own.
    pub(crate) fn group(&self) -> Option<&Path> {
        self.guise.group.as_ref().map(Group::path)
    }

    /// Whether estop runs as the ordinary user.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.guise.ordinary
    }

    /// Lets other users look for what they know by name.
    pub(crate) fn open_to_others(&self) {
        std::fs::set_permissions(self.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    }

    /// Everything that this test started and that is alive, found without asking estop: by its environment and its
    /// arguments.
    pub(crate) fn alive(&self) -> BTreeMap<u32, String> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let wanted = format!("{MARK}={}", self.guise.mark);
            let marked = read("environ").split(|&byte| byte == 0).any(|one| one == wanted.as_bytes());
            let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            if pid != std::process::id() && (marked || arguments.contains(self.path().to_str().unwrap())) {
                found.insert(pid, arguments);
            }
        }
        found
    }

    /// Of those, what is not estop itself.
    pub(crate) fn workload_alive(&self) -> BTreeMap<u32, String> {
        let mut found = self.alive();
        found.retain(|pid, _| {
            std::fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe != self.guise.program && exe != Path::new(ESTOP))
        });
        found
    }

    /// The name of this estop's group of jobs.
    pub(crate) fn instance(&self) -> String {
        let path = self.house.state_dir();
        blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned()
    }

    /// The cgroups of this estop's jobs that exist, in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, mount, kind) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(mount))
        });
        let paths: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
        let delegated = self.guise.group.iter().map(|group| group.path().join("estop").join(self.instance()));
        let mut found: Vec<PathBuf> = delegated.filter(|group| group.is_dir()).collect();
        for mount in mounts {
            for path in paths.iter().chain(&["/"]) {
                let group = mount.join(path.trim_start_matches('/')).join("estop").join(self.instance());
                if group.is_dir() && !found.contains(&group) {
                    found.push(group);
                }
            }
        }
        found
    }
}

/// What the system still has of this estop's jobs.
pub(super) fn left_in_the_system(scene: &Scene) -> Vec<PathBuf> {
    scene.cgroups()
}

/// Takes away what a failed test has left in the system.
pub(super) fn tidy(scene: &Scene, deadline: Instant) {
    // A group is busy until the last of its processes was reaped.
    while !scene.cgroups().is_empty() && Instant::now() < deadline {
        for group in scene.cgroups() {
            for job in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(job.path());
            }
            let _ = std::fs::remove_dir(&group);
            let _ = std::fs::remove_dir(group.parent().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: u32, which: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = kill_process(pid, which);
}

/// Makes `path` the ordinary user's.
pub(crate) fn give(path: &Path) {
    std::os::unix::fs::chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
}

/// A process that a test will do something to, also when it may have ended by then.
pub(crate) struct Held(u32);

impl Held {
    pub(crate) fn new(pid: u32) -> Self {
        Self(pid)
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(self.0, which);
    }

    /// Whether it was stopped, and may go on.
    pub(crate) fn has_stopped(&self) -> bool {
        process_state(self.0.into()) == Some('T')
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        !runs(self.0.into())
    }

    /// Its children, as the kernel lists them.
    pub(crate) fn children(&self) -> String {
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.0)).unwrap()
    }
}

/// Whether the tests are run by root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The state letter of a process, as `/proc` names it; `None` once it is gone.
pub(crate) fn process_state(pid: u64) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process is there and not just waiting to be reaped.
pub(crate) fn runs(pid: u64) -> bool {
    process_state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// A process that has nothing to do with estop.
pub(crate) fn bystander() -> Child {
    Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
}

/// The processor time of a process with one thread.
pub(crate) fn spent_by(pid: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// What a file takes of the disk, in bytes.
pub(crate) fn taken_by(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(path).unwrap()) * 512
}

/// A process as records name it.
pub(crate) struct Identity {
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
}

/// The identity of a process, read without estop's help.
pub(crate) fn identity(pid: u32) -> Identity {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start_time = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    Identity { pid, start_time }
}
