//! Processes in a cgroup and nothing else, ended by nothing but the kernel: what a stop can be compared with.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use estop_watchdog::job::linux::{Host, inherit_orphans, procfs, ready};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Goes into the groups `$1` and `$2`, where that is one, and becomes what follows.
const INSIDE: &str = r#"echo $$ >"$1" && echo $$ >"${2:-$1}" && shift 2 && exec "$@""#;
/// How long the processes may take to be there, and to end.
const LIMIT: Duration = Duration::from_mins(1);
/// How long a freeze is waited for, and one write to `cgroup.kill`: it can miss a process that forks.
const FREEZE_WAIT: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(10);

/// Processes in a cgroup of their own. They end with it.
pub(crate) struct Bare {
    child: Child,
    group: PathBuf,
    /// The group that limits their number, where that is another hierarchy's.
    limiting: Option<PathBuf>,
    kill: File,
    freeze: File,
    events: File,
}

impl Bare {
    /// Starts `command` in a cgroup of its own with at most `most` processes.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) fn start(command: &[String], most: u64) -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let root = Host::probe().cgroup_root?;
        let name = format!("estop-bench-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let group = root.with_file_name(&name);
        let refused = |error: io::Error| format!("cannot have a cgroup of its own: {error}");
        fs::create_dir(&group).map_err(refused)?;
        let started = limit(&group, &name, most).and_then(|limiting| {
            Self::open(&group, limiting.clone(), command).inspect_err(|_| drop(limiting.map(fs::remove_dir)))
        });
        started.map_err(|error| {
            let _ = fs::remove_dir(&group);
            refused(error)
        })
    }

    fn open(group: &Path, limiting: Option<PathBuf>, command: &[String]) -> io::Result<Self> {
        let write = |file: &str| OpenOptions::new().write(true).open(group.join(file));
        let (kill, freeze) = (write("cgroup.kill")?, write("cgroup.freeze")?);
        let events = File::open(group.join("cgroup.events"))?;
        // Nobody else may wait for those whose parent has ended.
        inherit_orphans().map_err(io::Error::other)?;
        let procs = |group: &Path| group.join("cgroup.procs");
        let mut inside = Command::new("sh");
        inside.args(["-c", INSIDE, "sh"]).arg(procs(group));
        inside.arg(limiting.as_deref().map(procs).unwrap_or_default()).args(command);
        inside.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = inside.spawn()?;
        Ok(Self { child, group: group.to_owned(), limiting, kill, freeze, events })
    }

    /// Waits until the processes have made the file `sign`, while `go_on` says so.
    ///
    /// # Errors
    /// If that does not come.
    pub(crate) fn wait_for(&mut self, sign: &Path, go_on: impl Fn() -> bool) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        while !sign.exists() {
            if Instant::now() > deadline || !go_on() || !matches!(self.child.try_wait(), Ok(None)) {
                return Err("the processes were not there in time".to_owned());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends the processes, frozen first or not. How long that took, until the kernel called the group empty.
    ///
    /// # Errors
    /// If they do not end.
    pub(crate) fn end(self, frozen: bool) -> Result<Duration, String> {
        let begun = Instant::now();
        if frozen {
            // A failure shows in the wait.
            let _ = self.freeze.write_all_at(b"1", 0);
            self.wait_event(b"frozen 1", FREEZE_WAIT);
        }
        if self.kill() { Ok(begun.elapsed()) } else { Err("the kernel did not end the processes".to_owned()) }
    }

    /// Kills until the group is empty. Whether it is.
    fn kill(&self) -> bool {
        let begun = Instant::now();
        loop {
            let _ = self.kill.write_all_at(b"1", 0);
            if self.wait_event(b"populated 0", ROUND) {
                return true;
            }
            if begun.elapsed() > LIMIT {
                return false;
            }
        }
    }

    /// Waits until a line of `cgroup.events` reads `wanted`, at most `wait`.
    fn wait_event(&self, wanted: &[u8], wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            let mut buffer = [0; 256];
            let length = self.events.read_at(&mut buffer, 0).unwrap_or(0);
            if buffer[..length].split(|&byte| byte == b'\n').any(|line| line == wanted) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // The kernel signals at most one change in 10 ms, so this looks by itself too.
            ready::any(&mut [PollFd::new(&self.events, PollFlags::PRI)], left.min(Duration::from_millis(1)));
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.kill();
        let group = Pid::from_child(&self.child);
        let _ = self.child.wait();
        while waitid(WaitId::Pgid(Some(group)), WaitIdOptions::EXITED).is_ok() {}
        let deadline = Instant::now() + LIMIT;
        for group in self.limiting.iter().chain([&self.group]) {
            // The last may still be on its way out.
            while fs::remove_dir(group).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

/// Limits the processes of `group` to `most`. The group of another hierarchy that does it, if that is one.
fn limit(group: &Path, name: &str, most: u64) -> io::Result<Option<PathBuf>> {
    let own = group.join("pids.max");
    if own.exists() {
        return fs::write(own, most.to_string()).map(|()| None);
    }
    let place = procfs::cgroup_mount(Some("pids")).zip(procfs::own_v1_path("pids"));
    let (mount, path) = place.ok_or_else(|| io::Error::other("nothing here limits processes"))?;
    let limiting = mount.join(path.trim_start_matches('/')).join(name);
    fs::create_dir(&limiting)?;
    let set = fs::write(limiting.join("pids.max"), most.to_string());
    set.inspect_err(|_| drop(fs::remove_dir(&limiting))).map(|()| Some(limiting))
}
