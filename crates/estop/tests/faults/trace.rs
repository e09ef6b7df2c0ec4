//! A guardian under `strace`: what it calls, and calls that fail.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::scene::{Running, Scene, until};

/// Whether processes can be traced here. Where not, it says so; the test passes, unless everything is required.
pub(crate) fn works() -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-q", "-o", "/dev/null", "-e", "inject=sync:error=EIO", "true"]);
    let works = strace.stdin(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !works {
        let required = std::env::var_os("ESTOP_TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "strace is not installed or may not trace");
        eprintln!("SKIPPED: strace is not installed or may not trace");
    }
    works
}

/// A job of a tree of processes that ignore every request to end.
pub(crate) fn villains(scene: &Scene, options: &[&str]) -> Running {
    let _ = std::fs::remove_file(scene.canary().join("ready"));
    scene.guard("w", options, &[&scene.villain(), "everything"], "canary/ready")
}

/// The guardian of the job `name`.
pub(crate) fn guardian(scene: &Scene, name: &str) -> u32 {
    u32::try_from(scene.status(name)["guardian"]["pid"].as_u64().unwrap()).unwrap()
}

/// A process that is traced until this goes, or it ends.
pub(crate) struct Traced {
    tracer: Child,
    pid: u32,
    // Not in the scene: what stands there in somebody's arguments is taken for the scene's own.
    _dir: tempfile::TempDir,
    log: PathBuf,
}

impl Traced {
    /// Attaches to `pid`, and to nothing that it starts.
    pub(crate) fn attach(pid: u32, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut strace = Command::new("strace");
        strace.args(["-q", "-y", "-s", "40", "-o"]).arg(&log).args(options).args(["-p", &pid.to_string()]);
        let tracer = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut attached = Self { tracer, pid, _dir: dir, log };
        until("it is traced", || {
            if let Some(status) = attached.tracer.try_wait().unwrap() {
                let mut said = String::new();
                attached.tracer.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("strace ended, {status}: {said}");
            }
            tracer_of(pid).is_some()
        });
        attached
    }

    /// The calls, without the signals, once the process has ended.
    pub(crate) fn calls(mut self) -> Vec<String> {
        until("the tracer has ended", || self.tracer.try_wait().unwrap().is_some());
        let log = std::fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| !line.starts_with(['-', '+'])).map(str::to_owned).collect()
    }

    /// Who else is traced: with `-f` in the options, its copies.
    pub(crate) fn others(&self) -> Vec<u32> {
        let pids =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.pid && tracer_of(*pid) == Some(self.tracer.id())).collect()
    }

    /// Lets go of it.
    pub(crate) fn detach(mut self) {
        self.let_go();
        let pid = self.pid;
        until("it is traced no more", || tracer_of(pid).is_none());
    }

    fn let_go(&mut self) {
        // A tracer that is gone holds nobody: the kernel detaches.
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Who traces `pid`.
fn tracer_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    (tracer != 0).then_some(tracer)
}

/// The name of the call in a line of a trace.
pub(crate) fn name_of(call: &str) -> &str {
    call.split('(').next().unwrap_or_default()
}

/// Whether it is the write that kills a cgroup.
pub(crate) fn is_group_kill(call: &str) -> bool {
    call.starts_with("pwrite64(") && call.contains("cgroup.kill>")
}

/// Where the guardian hears the order, and where it has killed.
pub(crate) fn kill_path(calls: &[String]) -> (usize, usize) {
    let heard = calls.iter().position(|call| call.starts_with("recvmsg(") && call.contains("\"ESTO\\1"));
    let kills =
        |call: &String| is_group_kill(call) || call.starts_with("pidfd_send_signal(") || call.starts_with("kill(");
    let killed = calls.iter().rposition(kills);
    (heard.expect("it heard no order"), killed.expect("it killed nobody"))
}
