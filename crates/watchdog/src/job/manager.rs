//! The job together with its monitor and the stop protocol's last part: freeze, kill, prove.

use std::time::{Duration, Instant};

use super::{Exit, Isolation, Job, JobSpec, Limits, Process, ProcessId, Tier, Way, Woken};
use crate::ladder::{Breach, Metric, Thresholds};
use crate::monitor::{Reading, ResourceMonitor, Sample};
use crate::stop::{Category, Phases, StopReport};
use crate::{Error, Result};

/// How long a freeze before a kill may take. A kill reaches frozen and running processes alike, so it is not waited for longer.
const FREEZE_WAIT: Duration = Duration::from_millis(100);
/// How long one round of the kill is waited for before the next. One write to `cgroup.kill` can miss a forking process.
const ROUND: Duration = Duration::from_millis(10);

/// A job with its monitor: contains a workload's process tree (a cgroup on Linux, a Job Object on Windows), samples it,
/// and ends it with proof.
pub struct JobObjectManager {
    spec: JobSpec,
    job: Box<dyn Job>,
    monitor: ResourceMonitor,
    frozen: bool,
}

impl std::fmt::Debug for JobObjectManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobObjectManager")
            .field("name", &self.spec.name)
            .field("tier", &self.job.tier())
            .finish_non_exhaustive()
    }
}

impl JobObjectManager {
    /// Makes the job, empty, with the limits of `spec` above the ladder `thresholds`.
    ///
    /// # Errors
    /// [`Error::TierTooLow`] if the host offers less than `spec` requires, [`Error::Unenforceable`] if nothing here enforces
    /// one of its limits; others if the system refuses.
    pub fn create(spec: JobSpec, thresholds: Thresholds) -> Result<Self> {
        #[cfg(target_os = "linux")]
        let mut job = super::linux::LinuxJob::create(&spec)?;
        #[cfg(windows)]
        let mut job = super::windows::WindowsJob::create(&spec)?;
        match effective(&job, &spec, &spec.limits, &thresholds) {
            Ok(effective) => {
                job.listen(&effective);
                let monitor = ResourceMonitor::new(effective).together(spec.together);
                Ok(Self { spec, job: Box::new(job), monitor, frozen: false })
            }
            Err(error) => {
                job.release();
                Err(error)
            }
        }
    }

    /// Starts the program inside.
    ///
    /// # Errors
    /// [`Error::Exec`] if it cannot be executed, [`Error::Containment`] if it cannot be contained.
    pub fn spawn(&mut self) -> Result<()> {
        self.job.rehearse();
        self.job.spawn(&self.spec)?;
        // The environment may hold secrets, which nobody needs any more.
        self.spec.program.environment.clear();
        self.monitor = ResourceMonitor::new(*self.monitor.thresholds()).together(self.spec.together);
        Ok(())
    }

    /// What the job was made from, without the environment.
    pub fn spec(&self) -> &JobSpec {
        &self.spec
    }

    /// The platform's side.
    pub fn job(&self) -> &dyn Job {
        self.job.as_ref()
    }

    /// The monitor.
    pub fn monitor(&self) -> &ResourceMonitor {
        &self.monitor
    }

    /// What a hostile workload could still reach.
    pub fn isolation(&self) -> Isolation {
        let user = self.spec.program.user.as_ref();
        #[cfg(target_os = "linux")]
        return super::linux::isolation(user);
        #[cfg(windows)]
        super::windows::isolation(user)
    }

    /// The main process, once it is known.
    pub fn main(&self) -> Option<ProcessId> {
        self.job.main()
    }

    /// How the main process ended, if it did.
    pub fn reap(&mut self) -> Option<Exit> {
        self.job.reap()
    }

    /// Takes a sample. Answers the breach that it causes.
    ///
    /// `output_bytes` is what it has written so far, where somebody counts it.
    pub fn sample(&mut self, output_bytes: Option<u64>) -> Option<Breach> {
        let reading = Reading { output_bytes, ..self.job.read(self.monitor.thresholds()) };
        self.monitor.observe(Instant::now(), reading)
    }

    /// Slows it down in one way, or in that way no longer. Its limits stay what they are, and a change of them ends this.
    ///
    /// # Errors
    /// [`Error::System`] if that way is not to be had here, or the kernel refuses.
    pub fn slow(&mut self, way: Way, to: Option<f64>) -> Result<()> {
        self.job.slow(way, to).map_err(|source| Error::System { action: "slow the job down", source })
    }

    /// Judges its thresholds afresh, as if none had been reached yet, and by nothing that was before.
    pub fn judge_afresh(&mut self) {
        self.monitor.begin_again();
        self.job.listen(self.monitor.thresholds());
    }

    /// Takes note of what has woken the guardian. Whether that tells of a limit of this job.
    pub fn woken(&mut self, by: Woken) -> bool {
        self.job.woken(by)
    }

    /// The last sample.
    pub fn last_sample(&self) -> Option<&Sample> {
        self.monitor.last()
    }

    /// The processes there are, at most `limit`, without their arguments.
    pub fn processes(&self, limit: usize) -> Vec<Process> {
        self.job.processes(limit)
    }

    /// Changes the limits, and the ladder below them, while the job runs.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel refuses, [`Error::Unenforceable`] if nothing here enforces one of them; then those
    /// from before are in force.
    pub fn set_limits(&mut self, limits: Limits, thresholds: Thresholds) -> Result<()> {
        let effective = effective(self.job.as_ref(), &self.spec, &limits, &thresholds)?;
        if let Err(source) = self.job.set_limits(&limits) {
            // What was in force a moment ago, the kernel takes again.
            let _ = self.job.set_limits(&self.spec.limits);
            return Err(Error::System { action: "change the limits", source });
        }
        self.spec.limits = limits;
        self.job.listen(&effective);
        self.monitor.set_thresholds(effective);
        Ok(())
    }

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// [`Error::System`] if it has ended or the signal does not exist.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.job.signal(signal).map_err(|source| Error::System { action: "signal the main process", source })
    }

    /// Sends a signal to every process.
    pub fn signal_all(&self, signal: i32) {
        self.job.signal_all(signal);
    }

    /// Starts the further command of this number inside the job.
    ///
    /// # Errors
    /// [`Error::System`] if there is none, or it cannot be started.
    pub fn run(&mut self, command: usize) -> Result<()> {
        self.job.run(command).map_err(|source| Error::System { action: "start a command inside the job", source })
    }

    /// A further command that has ended since the last call, and how.
    pub fn take_result(&mut self) -> Option<(usize, Exit)> {
        self.job.take_result()
    }

    /// Freezes the job. Returns whether the kernel confirmed it within `wait`.
    pub fn freeze(&mut self, wait: Duration) -> bool {
        self.frozen = true;
        self.job.freeze(wait)
    }

    /// Thaws the job.
    pub fn thaw(&mut self) {
        self.job.thaw();
        self.frozen = false;
    }

    /// Whether it was frozen and not thawed.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// How many processes there are.
    pub fn count(&mut self) -> u64 {
        self.job.count()
    }

    /// Whether nothing is left in the job.
    pub fn is_empty(&mut self) -> bool {
        self.job.is_empty()
    }

    /// Freezes, calls `capture`, kills until the job is empty or `limit` is over, and proves it. Without a `capture` what the kernel
    /// ends at once is not frozen first.
    ///
    /// Nothing is claimed that was not proven: after `limit` the survivors are named. As long as they become fewer, up to twice as
    /// long: thousands of processes need processors to end, which others may have.
    pub fn stop(&mut self, category: Category, limit: Duration, capture: Option<impl FnOnce(&mut Self)>) -> StopReport {
        let started = Instant::now();
        // Where they cannot be counted now, as they were counted last.
        let seen = |count: u64| if count > 0 { count } else { self.monitor.last().map_or(0, |last| last.processes) };
        let processes_before = seen(self.job.count());
        let mut phases = Phases::default();
        // What must be found one by one must not run away meanwhile.
        if capture.is_some() || self.job.tier() == Tier::Tracked {
            self.freeze(FREEZE_WAIT);
        }
        phases.freeze_seconds = started.elapsed().as_secs_f64();
        let capturing = Instant::now();
        if let Some(capture) = capture {
            capture(self);
        }
        phases.capture_seconds = capturing.elapsed().as_secs_f64();
        let killing = Instant::now();
        let mut patience = Patience { limit, next: limit, left: processes_before };
        loop {
            self.job.kill();
            if self.job.wait_empty(ROUND) || patience.is_over(killing.elapsed(), || self.job.count()) {
                break;
            }
        }
        let proof = self.job.prove();
        phases.kill_seconds = killing.elapsed().as_secs_f64();
        StopReport {
            name: self.spec.name.clone(),
            tier: self.job.tier(),
            isolation: self.isolation(),
            category,
            processes_before,
            survivors: proof.survivors,
            survivors_omitted: 0,
            proven_empty: proof.empty,
            proof: proof.by,
            stop_seconds: started.elapsed().as_secs_f64(),
            phases,
            latch_durable: None,
        }
    }

    /// Removes what the job left in the system. Call it after the job was proven empty.
    pub fn release(mut self) {
        self.job.release();
    }
}

/// For how long a kill goes on.
struct Patience {
    limit: Duration,
    /// When it is looked next whether they have become fewer.
    next: Duration,
    /// How many there were.
    left: u64,
}

impl Patience {
    /// So often within the limit it is looked whether they become fewer, once it is over.
    const LOOKS: u32 = 5;

    /// Whether, after so long, it is time to say what is left, of which there is `count`.
    fn is_over(&mut self, elapsed: Duration, count: impl FnOnce() -> u64) -> bool {
        if elapsed < self.next {
            return false;
        }
        let before = std::mem::replace(&mut self.left, count());
        self.next = elapsed + self.limit / Self::LOOKS;
        self.left >= before || elapsed >= self.limit * 2
    }
}

/// The thresholds by which the monitor enforces what the kernel does not, and tells what the kernel refused.
///
/// # Errors
/// [`Error::Unenforceable`]: a limit must not be taken for one that holds.
fn effective(job: &dyn Job, spec: &JobSpec, limits: &Limits, thresholds: &Thresholds) -> Result<Thresholds> {
    let effective = limits.on_top_of(thresholds, job.enforced());
    if spec.containment.enforce_by_kernel
        && let Some(limit) = limits.left_to_the_monitor(job.enforced())
    {
        let reason = "its guardian would, and the kernel is asked for; see `estop doctor`";
        return Err(Error::Unenforceable { limit, reason });
    }
    if !spec.output_counted && !effective.output.is_empty() {
        let reason = "in the foreground it writes to its caller's own streams";
        return Err(Error::Unenforceable { limit: Metric::Output.key(), reason });
    }
    match job.unenforceable(limits, &effective) {
        None => Ok(effective),
        Some((limit, reason)) => Err(Error::Unenforceable { limit, reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how long a kill gives up that has so many left at each second.
    fn given_up(left: impl Fn(u64) -> u64) -> u64 {
        let mut patience = Patience { limit: Duration::from_secs(5), next: Duration::from_secs(5), left: 1000 };
        let over = |second: &u64| patience.is_over(Duration::from_secs(*second), || left(*second));
        (0..100).find(over).unwrap_or(100)
    }

    #[test]
    fn a_kill_goes_on_as_long_as_it_leaves_fewer_and_no_longer_than_twice() {
        assert_eq!(given_up(|_| 1000), 5);
        assert_eq!(given_up(|_| 1), 6, "all but one had ended by then");
        assert_eq!(given_up(|second| 990 - second.min(7)), 8);
        assert_eq!(given_up(|second| 900 - second), 10);
    }
}
