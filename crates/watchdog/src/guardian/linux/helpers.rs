//! Disposable copies of the guardian, which may be kept waiting by a process or a disk.

use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};

use super::closer;
use crate::guardian::evidence::{Evidence, Part, Writing};
use crate::job::linux::{Child, copy, leave, let_go_of_descriptors, ready, reap};

/// How many processes a copy tells of: a pipe takes so much at once.
const PIDS: usize = 1000;
/// The nice value of a copy that writes.
const WRITING_NICE: i32 = 10;
/// How many copies of the guardian write at the same time.
const HELPERS: usize = 4;

/// The copies of the guardian that are still writing.
#[derive(Debug)]
pub(in crate::guardian) struct Helpers {
    /// How long the guardian waits for the look at the tree.
    wait: Duration,
    running: Vec<Child>,
    /// The one that asks over the network.
    asking: Option<Child>,
    /// The last one that was not done with its attempt in time.
    late: Option<Child>,
}

impl Helpers {
    /// Copies whose look at the tree is waited for so long.
    pub(in crate::guardian) fn new(wait: Duration) -> Self {
        Self { wait, running: Vec::new(), asking: None, late: None }
    }

    /// Lets a copy of this process gather evidence and write it down. Returns when it has gathered, or the time is over: the
    /// processes that it has found, as far as it has told by then.
    pub(in crate::guardian) fn capture(&mut self, gather: impl FnOnce() -> Evidence, writing: &Writing) -> Vec<u32> {
        self.reap();
        if self.running.len() >= HELPERS {
            return Vec::new();
        }
        let deadline = Instant::now() + self.wait;
        let Ok((gathered, gathering)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else { return Vec::new() };
        match copy() {
            Ok(None) => {
                let mut evidence = gather();
                // By then the kill has gone on without it.
                let late = Instant::now() >= deadline;
                closer::look_by_threads(&mut evidence, deadline);
                if late {
                    evidence.unfinished.insert(0, "tree".to_owned());
                }
                // At once, or as much of it as there is room for.
                let found: Vec<u8> = evidence.tree.iter().flat_map(|one| one.process.id.pid.to_ne_bytes()).collect();
                let _ = rustix::io::write(&gathering, &found);
                // Writing can wait; the end of those that are killed now is what is waited for.
                let _ = rustix::process::setpriority_process(None, WRITING_NICE);
                // The end of the pipe is the sign.
                drop(gathering);
                write_down(evidence, writing)
            }
            Ok(Some(child)) => {
                drop(gathering);
                self.running.push(child);
                // Whatever else happens, the kill goes on.
                ready::readable(&gathered, deadline.saturating_duration_since(Instant::now()));
                let mut found = [0; PIDS * size_of::<u32>()];
                let read = rustix::io::read(&gathered, &mut found).unwrap_or(0);
                found[..read].as_chunks().0.iter().map(|pid| u32::from_ne_bytes(*pid)).collect()
            }
            Err(_) => Vec::new(),
        }
    }

    /// Lets a copy of this process write evidence down that was gathered before.
    pub(in crate::guardian) fn write(&mut self, evidence: Evidence, writing: &Writing) {
        self.reap();
        if self.running.len() >= HELPERS {
            return;
        }
        match copy() {
            Ok(None) => write_down(evidence, writing),
            Ok(Some(child)) => self.running.push(child),
            Err(_) => {}
        }
    }

    /// Lets a copy of this process do something that may keep it waiting for a disk. Whether it was done, and done well, within
    /// `wait`; if not, it goes on by itself. `None` if no copy is to be had: then nothing was done.
    pub(in crate::guardian) fn attempt(&mut self, wait: Duration, work: impl FnOnce() -> bool) -> Option<bool> {
        self.running.extend(self.late.take());
        match copy() {
            Ok(None) => leave(i32::from(!work())),
            Ok(Some(child)) => {
                let well = ended_well(&child, wait);
                if well.is_none() {
                    self.late = Some(child);
                }
                Some(well == Some(true))
            }
            Err(_) => None,
        }
    }

    /// Whether the last attempt, if it was not done in time, has been done by now, or is within `wait`, and well. `None` if not.
    pub(in crate::guardian) fn late(&mut self, wait: Duration) -> Option<bool> {
        let well = ended_well(self.late.as_ref()?, wait)?;
        self.late = None;
        Some(well)
    }

    /// Lets a copy of this process do something that takes long. Whether it does.
    pub(in crate::guardian) fn begin(&mut self, work: impl FnOnce() -> bool) -> bool {
        match copy() {
            Ok(None) => {
                let_go_of_descriptors();
                leave(i32::from(!work()))
            }
            Ok(Some(child)) => {
                self.running.extend(self.asking.replace(child));
                true
            }
            Err(_) => false,
        }
    }

    /// Whether the last one that was begun has ended since the last look, and not well.
    pub(in crate::guardian) fn has_failed(&mut self) -> bool {
        let Some(reaped) = self.asking.as_ref().and_then(|child| reap(&child.fd)) else { return false };
        self.asking = None;
        reaped.exit().is_some_and(|exit| exit.code != Some(0))
    }

    /// Forgets the copies that have ended.
    fn reap(&mut self) {
        self.running.retain(|child| ended_well(child, Duration::ZERO).is_none());
    }

    /// Waits for the copies that are still writing, at most `wait` for all of them. Then they are on their own.
    pub(in crate::guardian) fn finish(&mut self, wait: Duration) {
        let deadline = Instant::now() + wait;
        for child in self.running.drain(..).chain(self.late.take()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = ended_well(&child, left);
        }
    }
}

/// In the copy: adds what is known without the processes, and writes it all down.
fn write_down(mut evidence: Evidence, writing: &Writing) -> ! {
    let mut pids = writing.pids.clone();
    pids.extend(evidence.tree.iter().map(|one| one.process.id.pid));
    pids.extend(evidence.report.iter().flat_map(|report| &report.survivors).map(|survivor| survivor.pid));
    evidence.kernel = writing.kernel.as_ref().map(|log| log.about(&evidence.job, &pids));
    // Above all of the job's lock: the disk may keep this copy waiting for long.
    let_go_of_descriptors();
    evidence.output = writing.output.as_ref().and_then(Part::read);
    writing.recorder.record(&writing.state_dir, &evidence);
    leave(0)
}

/// Whether the copy has ended, and with code 0; `None` if it has not within `wait`.
fn ended_well(child: &Child, wait: Duration) -> Option<bool> {
    let deadline = Instant::now() + wait;
    // A wait that is interrupted is no wait that is over.
    while !ready::readable(&child.fd, deadline.saturating_duration_since(Instant::now())) && Instant::now() < deadline {
    }
    reap(&child.fd).map(|reaped| reaped.exit().is_some_and(|exit| exit.code == Some(0)))
}
