//! Threads of the guardian, which may be kept waiting by a disk.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::guardian::evidence::{Evidence, Part, Writing};

/// How many write at the same time.
const HELPERS: usize = 4;
/// How often their end is looked for.
const LOOK: Duration = Duration::from_millis(2);

/// The threads that are still writing.
#[derive(Debug, Default)]
pub(in crate::guardian) struct Helpers {
    running: Vec<JoinHandle<()>>,
    /// What the one has done that asks over the network.
    asking: Option<Receiver<bool>>,
    /// The last attempt that was not done in time.
    late: Option<Receiver<bool>>,
}

impl Helpers {
    /// Threads that write. The look at the processes waits for none of them, so that no time is given.
    pub(in crate::guardian) fn new(_wait: Duration) -> Self {
        Self::default()
    }

    /// Gathers evidence and lets a thread write it down. The system's list of processes waits for none of them.
    pub(in crate::guardian) fn capture(&mut self, gather: impl FnOnce() -> Evidence, writing: &Writing) -> Vec<u32> {
        self.write(gather(), writing);
        // Nobody says anything of them that they would have to be known for.
        Vec::new()
    }

    /// Lets a thread write evidence down that was gathered before.
    pub(in crate::guardian) fn write(&mut self, mut evidence: Evidence, writing: &Writing) {
        self.running.retain(|thread| !thread.is_finished());
        if self.running.len() >= HELPERS {
            return;
        }
        let (recorder, state_dir, output) = (writing.recorder, writing.state_dir.clone(), writing.output.clone());
        evidence.kernel = writing.kernel.as_ref().map(|log| log.about(&evidence.job, &writing.pids));
        let write = move || {
            // Only here: a process can keep its reader waiting.
            for one in &mut evidence.tree {
                one.process.arguments = super::arguments(one.process.id);
            }
            evidence.output = output.as_ref().and_then(Part::read);
            recorder.record(&state_dir, &evidence);
        };
        // Without a thread there is no evidence; the kill goes on.
        self.running.extend(std::thread::Builder::new().spawn(write));
    }

    /// Lets a thread do something that may keep it waiting for a disk. Whether it was done, and done well, within `wait`; if not,
    /// it goes on by itself. `None` if no thread is to be had: then nothing was done.
    pub(in crate::guardian) fn attempt(
        &mut self,
        wait: Duration,
        work: impl FnOnce() -> bool + Send + 'static,
    ) -> Option<bool> {
        self.late = None;
        let done = self.spawn(work);
        match done.recv_timeout(wait) {
            Ok(well) => Some(well),
            Err(RecvTimeoutError::Timeout) => {
                self.late = Some(done);
                Some(false)
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// Whether the last attempt, if it was not done in time, has been done by now, or is within `wait`, and well. `None` if not.
    pub(in crate::guardian) fn late(&mut self, wait: Duration) -> Option<bool> {
        let well = self.late.as_ref()?.recv_timeout(wait).ok()?;
        self.late = None;
        Some(well)
    }

    fn spawn(&mut self, work: impl FnOnce() -> bool + Send + 'static) -> Receiver<bool> {
        let (done, well) = channel();
        let thread = std::thread::Builder::new().spawn(move || {
            // Whoever waits may have given up.
            let _ = done.send(work());
        });
        self.running.extend(thread);
        well
    }

    /// Lets a thread do something that takes long. Whether it does is seen later.
    pub(in crate::guardian) fn begin(&mut self, work: impl FnOnce() -> bool + Send + 'static) -> bool {
        self.asking = Some(self.spawn(work));
        true
    }

    /// Whether the last one that was begun has ended since the last look, and not well.
    pub(in crate::guardian) fn has_failed(&mut self) -> bool {
        use std::sync::mpsc::TryRecvError;
        let failed = match self.asking.as_ref().map(Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => return false,
            Some(well) => well != Ok(true),
        };
        self.asking = None;
        failed
    }

    /// Waits for those that are still writing, at most `wait` for all of them.
    pub(in crate::guardian) fn finish(&mut self, wait: Duration) {
        let deadline = Instant::now() + wait;
        while self.running.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }
}
