//! How a guardian is started and told what to do, and how it finds its place among processes.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};

use super::surroundings::close_on_exec;
use crate::error::Context as _;
use crate::guardian::spec::GuardianSpec;
use crate::guardian::start::{ARGUMENT, OWN_VARIABLES, Streams};
use crate::job::linux;
use crate::{Error, Result};

/// What the system says of a command that does not exist.
pub(in crate::guardian) const NOT_FOUND: i32 = libc::ENOENT;
/// What it says of one that cannot be executed.
pub(in crate::guardian) const NOT_EXECUTABLE: i32 = libc::EACCES;
/// Where the guardian finds the channel to its starter: above what a caller is likely to hand down to its program.
const CHANNEL: i32 = 100;

/// The starter's end of the channel.
pub(in crate::guardian) struct Starter(UnixStream);

/// Starts a guardian, which waits to be told.
///
/// # Errors
/// If no process is to be had.
pub(in crate::guardian) fn launch(_spec: &GuardianSpec, streams: Streams) -> Result<(Child, Starter)> {
    let (channel, inner) = UnixStream::pair().doing("create a socket pair")?;
    let mut command = Command::new(linux::OWN_EXECUTABLE);
    for own in OWN_VARIABLES {
        command.env_remove(own);
    }
    command.arg0("estop").arg(ARGUMENT).stdin(streams.input).stdout(streams.output).stderr(streams.error);
    command
        .fd_mappings(vec![FdMapping { parent_fd: inner.into(), child_fd: CHANNEL }])
        .map_err(|_| Error::Containment("a descriptor is in use twice".to_owned()))?;
    // The command, which goes here, holds the other end of the channel, whose closing is the sign of a guardian's death.
    Ok((command.spawn().doing("start a guardian")?, Starter(channel)))
}

impl Starter {
    /// Tells the guardian what to do. Answers what it reports, within `limit`; nothing, if it ends without a word.
    ///
    /// # Errors
    /// If it does not report in time.
    pub(in crate::guardian) fn converse(
        mut self,
        _process: &mut Child,
        spec: &[u8],
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        self.0.set_read_timeout(Some(limit))?;
        // If it died meanwhile, its last words are still to be read.
        let _ = self.0.write_all(spec).and_then(|()| self.0.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        self.0.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// The guardian's end of the channel.
pub(in crate::guardian) struct Told(UnixStream);

impl Told {
    /// Hears what to do.
    ///
    /// # Errors
    /// If nobody says it.
    pub(in crate::guardian) fn hear() -> Result<(Vec<u8>, Self)> {
        // SAFETY: the starter has put the channel there, and nothing else in this process has used that number yet.
        let mut channel = UnixStream::from(unsafe { OwnedFd::from_raw_fd(CHANNEL) });
        close_on_exec(&channel)?;
        let mut bytes = Vec::new();
        channel.read_to_end(&mut bytes).doing("hear from the starter")?;
        Ok((bytes, Self(channel)))
    }

    /// Says how it went.
    pub(in crate::guardian) fn report(mut self, bytes: &[u8]) {
        // A starter that has gone is noticed as a brain that is lost.
        let _ = self.0.write_all(bytes);
    }
}

/// What a guardian changes about itself before it starts its program.
pub(in crate::guardian) fn settle_in(spec: &mut GuardianSpec) {
    if spec.job.program.process_group.is_none() {
        // Away from the starter's terminal: its Ctrl-C is not meant for this workload.
        let _ = rustix::process::setsid();
    }
    spec.job.program.oom_score = protect_from_oom();
}

/// The kernel should end anything else first. It allows that only to the privileged. Returns the score before, which the
/// workload is to have: of all programs it must not be spared.
fn protect_from_oom() -> Option<String> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let before = std::fs::read_to_string(SCORE).ok();
    // Never chosen at all; else as before.
    let _ = std::fs::write(SCORE, "-1000");
    before
}

/// Leaves word of where this estop is.
pub(in crate::guardian) fn note_place(spec: &GuardianSpec) {
    let places = linux::Places { run_dir: spec.run_dir.clone(), state_dir: spec.state_dir.clone() };
    // Where a kernel cannot keep it, another estop's `now` still ends the job by its cgroup.
    let _ = places.record(&spec.job.instance);
}

/// Lets go of what is the program's once it runs.
///
/// # Errors
/// If there is nothing to be had in place of the standard streams.
pub(in crate::guardian) fn step_aside() -> Result<()> {
    linux::detach_standard_streams()?;
    // Out of the process group that the program was put into, and of the session: as a parent in the same session a guardian
    // would keep the group from being orphaned, and so a suspended one from being hung up on when its shell is gone.
    let _ = rustix::process::setsid();
    Ok(())
}
