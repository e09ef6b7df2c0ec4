//! How much memory estop's own processes take.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::interrupt::Interrupt;
use super::measurement::{Measurement, Unit};
use crate::brain::api::{self, Call};
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::platform::commands::own_program;
use crate::platform::processes::memory;
use crate::site::Site;

/// How long the daemon may take to be there, and to end.
const DAEMON_LIMIT: Duration = Duration::from_secs(20);
const NAME: &str = "brain_memory";

/// Starts a daemon with nothing to guard, looks and ends it.
pub(super) fn of_brain(dir: &Path, interrupt: &Interrupt) -> Result<Measurement> {
    let home = dir.join("daemon");
    let config = home.join("estop.toml");
    std::fs::create_dir(&home).map_err(|error| Failure::io("create", &home, &error))?;
    std::fs::write(&config, "").map_err(|error| Failure::io("write", &config, &error))?;
    let program = own_program().map_err(|error| Failure::failed(format!("cannot find this program: {error}"), ""))?;
    let mut command = Command::new(program);
    command
        .arg("--config")
        .arg(&config)
        .arg("--state-dir")
        .arg(home.join("state"))
        .arg("up")
        .env_remove("ESTOP_RUN_DIR");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = command.spawn().map_err(|error| Failure::failed(format!("cannot start the daemon: {error}"), ""))?;
    let site = Site::below(&home, Config::default());
    let socket = site.brain_socket();
    let mut daemon = Daemon { process, site };
    let deadline = Instant::now() + DAEMON_LIMIT;
    while !socket.exists() {
        interrupt.check()?;
        if !matches!(daemon.process.try_wait(), Ok(None)) {
            return Ok(Measurement::missing(NAME, Unit::Bytes, "the daemon ended at once"));
        }
        if Instant::now() > deadline {
            return Ok(Measurement::missing(NAME, Unit::Bytes, "the daemon did not start"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let value = memory(daemon.process.id()).map(|memory| memory.private);
    Ok(Measurement::middle(NAME, Unit::Bytes, value.into_iter().collect()).with("private, nothing to guard"))
}

/// A daemon that is ended with this: asked first.
struct Daemon {
    process: Child,
    site: Site,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let deadline = Instant::now() + DAEMON_LIMIT;
        // One that does not hear it is killed.
        let _ = api::request(&self.site, &Call::Down);
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
