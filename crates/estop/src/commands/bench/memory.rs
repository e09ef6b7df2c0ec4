//! How much memory estop's own processes take.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::interrupt::Interrupt;
use super::{Measurement, Unit};
use crate::failure::{Failure, Result};

/// How long the daemon may take to be there, and to end.
const DAEMON_LIMIT: Duration = Duration::from_secs(20);
const NAME: &str = "brain_memory";

/// Memory that is the process's own, in bytes. Where the kernel shows no details of it, what is resident and not shared.
pub(super) fn private(pid: u32) -> Option<f64> {
    let kibibytes = |line: &str| line.split_whitespace().nth(1)?.parse::<f64>().ok();
    let details = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let own: Vec<f64> = details.lines().filter(|line| line.starts_with("Private_")).filter_map(kibibytes).collect();
    if !own.is_empty() {
        return Some(own.iter().sum::<f64>() * 1024.0);
    }
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: Vec<f64> = statm.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    #[expect(clippy::cast_precision_loss, reason = "the size of a page")]
    Some((pages.get(1)? - pages.get(2)?) * rustix::param::page_size() as f64)
}

/// Starts a daemon with nothing to guard, looks and ends it.
pub(super) fn of_brain(dir: &Path, interrupt: &Interrupt) -> Result<Measurement> {
    let home = dir.join("daemon");
    let config = home.join("estop.toml");
    std::fs::create_dir(&home).map_err(|error| Failure::io("create", &home, &error))?;
    std::fs::write(&config, "").map_err(|error| Failure::io("write", &config, &error))?;
    // This very program, even if its file was replaced meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("--config")
        .arg(&config)
        .arg("--state-dir")
        .arg(home.join("state"))
        .arg("up")
        .env_remove("ESTOP_RUN_DIR");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = command.spawn().map_err(|error| Failure::failed(format!("cannot start the daemon: {error}"), ""))?;
    let mut daemon = Daemon(process);
    let socket = home.join("state/run/brain.sock");
    let deadline = Instant::now() + DAEMON_LIMIT;
    while !socket.exists() {
        interrupt.check()?;
        if !matches!(daemon.0.try_wait(), Ok(None)) {
            return Ok(Measurement::missing(NAME, Unit::Bytes, "the daemon ended at once"));
        }
        if Instant::now() > deadline {
            return Ok(Measurement::missing(NAME, Unit::Bytes, "the daemon did not start"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let value = private(daemon.0.id());
    Ok(Measurement::middle(NAME, Unit::Bytes, value.into_iter().collect()).with("private, nothing to guard"))
}

/// A daemon that is ended with this: asked first.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let deadline = Instant::now() + DAEMON_LIMIT;
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
            && matches!(self.0.try_wait(), Ok(None))
        {
            // Not reaped yet, so the number is still its own.
            let _ = kill_process(pid, Signal::TERM);
        }
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
