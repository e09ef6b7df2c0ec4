//! What the kernel says of a job's pressure, heard beside its guardian.

use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use estop_watchdog::job::linux::{Trigger, ready};
use estop_watchdog::registry::Handle;
use rustix::event::{PollFd, PollFlags};

/// A question to the kernel, as a guardian asks it.
pub(crate) struct Question(Trigger);

/// What waiting for the answer has brought.
pub(crate) enum Heard {
    /// Nothing yet.
    Nothing,
    /// It was reached at this moment.
    Reached(SystemTime),
    /// There is nothing more to be told of.
    Gone,
}

impl Question {
    /// Whether the processes of the job wait for a processor for `share` of the time.
    ///
    /// # Errors
    /// Why the kernel does not tell.
    pub(crate) fn of_processors(job: &Handle, share: f64) -> Result<Self, String> {
        let group = job.cgroup.as_ref().ok_or("pressure is told of a cgroup v2, which there is none of here")?;
        let trigger = Trigger::set(&group.path.join("cpu.pressure"), share);
        trigger.map(Self).map_err(|error| format!("the kernel does not tell of a cgroup's pressure: {error}"))
    }

    /// Waits for the answer, at most `wait`.
    pub(crate) fn wait(&self, wait: Duration) -> Heard {
        let trigger = self.0.as_fd();
        let mut fds = [PollFd::from_borrowed_fd(trigger, PollFlags::PRI)];
        let told = ready::any(&mut fds, wait);
        let now = SystemTime::now();
        match fds[0].revents() {
            _ if !told => Heard::Nothing,
            said if said.contains(PollFlags::ERR) => Heard::Gone,
            _ => Heard::Reached(now),
        }
    }
}
