//! Sampling a job's resources.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ladder::{Breach, CPU_WINDOW, Ladder, Metric, Thresholds};

/// What a platform reads of a job at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// CPU time used since the start by all processes that ever were in the job.
    pub cpu: Duration,
    /// Memory that cannot be dropped: anonymous and shared, in bytes.
    pub memory_bytes: u64,
    /// Processes (and threads, where the kernel counts them).
    pub pids: u64,
    /// How often the kernel ended a process of the job for lack of memory.
    pub oom_kills: u64,
    /// How often the kernel refused a new process because of the limit.
    pub pids_refused: u64,
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Time since the start of the job, in seconds.
    pub at_seconds: f64,
    /// Cores busy since the sample before: 1.0 is one core.
    pub cpu_cores: f64,
    /// Memory that cannot be dropped, in bytes.
    pub memory_bytes: u64,
    /// Processes.
    pub processes: u64,
}

/// The highest values seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Cores busy.
    pub cpu_cores: f64,
    /// Processes.
    pub processes: u64,
}

/// How many samples are kept.
const HISTORY: usize = 600;

/// Samples a job and compares it with its thresholds.
#[derive(Debug)]
pub struct ResourceMonitor {
    started: Instant,
    thresholds: Thresholds,
    ladder: Ladder,
    history: VecDeque<Sample>,
    /// CPU time at moments of the last [`CPU_WINDOW`].
    cpu: VecDeque<(Instant, Duration)>,
    last: Reading,
    peak: Peak,
}

impl ResourceMonitor {
    /// A monitor of a job that starts now. The history is allocated here, once.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            started: Instant::now(),
            thresholds,
            ladder: Ladder::default(),
            history: VecDeque::with_capacity(HISTORY),
            cpu: VecDeque::with_capacity(64),
            last: Reading::default(),
            peak: Peak::default(),
        }
    }

    /// Takes one reading. Answers the breach that it causes, the gravest if there are several.
    pub fn observe(&mut self, now: Instant, reading: Reading) -> Option<Breach> {
        let sample = self.sample(now, &reading);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(sample);
        self.peak.memory_bytes = self.peak.memory_bytes.max(sample.memory_bytes);
        self.peak.cpu_cores = self.peak.cpu_cores.max(sample.cpu_cores);
        self.peak.processes = self.peak.processes.max(sample.processes);
        let windowed = self.windowed_cpu(now, reading.cpu);
        let kernel = self.kernel_breach(&reading);
        self.last = reading;
        let (thresholds, ladder) = (&self.thresholds, &mut self.ladder);
        #[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 bytes is enough")]
        let observed = [
            ladder.observe(thresholds, Metric::Memory, reading.memory_bytes as f64),
            windowed.and_then(|cores| ladder.observe(thresholds, Metric::Cpu, cores)),
            ladder.observe(thresholds, Metric::Pids, reading.pids as f64),
            ladder.observe(thresholds, Metric::Time, sample.at_seconds),
        ];
        observed.into_iter().flatten().chain(kernel).max_by_key(|breach| breach.rung)
    }

    /// The kernel's own limit struck between two samples: that is a breach even though no sample shows it.
    fn kernel_breach(&self, reading: &Reading) -> Option<Breach> {
        use crate::ladder::Rung;
        #[expect(clippy::cast_precision_loss, reason = "shown to a person")]
        let breach = |metric, value: u64| {
            let limit = self.thresholds.of(metric).stop?;
            Some(Breach { metric, rung: Rung::Stop, value: (value as f64).max(limit), limit })
        };
        if reading.oom_kills > self.last.oom_kills {
            return breach(Metric::Memory, self.peak.memory_bytes);
        }
        if reading.pids_refused > self.last.pids_refused {
            return breach(Metric::Pids, reading.pids);
        }
        None
    }

    fn sample(&self, now: Instant, reading: &Reading) -> Sample {
        let since = self.cpu.back().map_or(self.started, |(at, _)| *at);
        let elapsed = now.saturating_duration_since(since).as_secs_f64();
        let used = reading.cpu.saturating_sub(self.last.cpu).as_secs_f64();
        Sample {
            at_seconds: now.saturating_duration_since(self.started).as_secs_f64(),
            cpu_cores: if elapsed > 0.0 { used / elapsed } else { 0.0 },
            memory_bytes: reading.memory_bytes,
            processes: reading.pids,
        }
    }

    /// Cores busy over the last [`CPU_WINDOW`]; `None` until it is over once.
    fn windowed_cpu(&mut self, now: Instant, cpu: Duration) -> Option<f64> {
        self.cpu.push_back((now, cpu));
        while self.cpu.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= CPU_WINDOW) {
            self.cpu.pop_front();
        }
        let (first, used) = *self.cpu.front()?;
        let elapsed = now.saturating_duration_since(first);
        (elapsed >= CPU_WINDOW).then(|| cpu.saturating_sub(used).as_secs_f64() / elapsed.as_secs_f64())
    }

    /// The samples kept, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Sample> {
        self.history.iter()
    }

    /// The last sample.
    pub fn last(&self) -> Option<&Sample> {
        self.history.back()
    }

    /// The highest values seen.
    pub fn peak(&self) -> Peak {
        self.peak
    }

    /// The thresholds in force.
    pub fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// Changes the thresholds. What was reached before is forgotten, so that the new ones are judged afresh.
    pub fn set_thresholds(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
        self.ladder = Ladder::default();
    }

    /// When the job was started.
    pub fn started(&self) -> Instant {
        self.started
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ladder::{Rung, Steps};

    fn at(monitor: &ResourceMonitor, seconds: f64) -> Instant {
        monitor.started() + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn cpu_is_judged_over_its_window_and_not_by_a_burst() {
        let stop = Steps { stop: Some(0.8), ..Steps::default() };
        let mut monitor = ResourceMonitor::new(Thresholds { cpu: stop, ..Thresholds::default() });
        let mut cpu = 0.0;
        let mut tripped = None;
        for tick in 1..=200_u32 {
            let seconds = f64::from(tick) / 10.0;
            // One busy second, then quiet, then busy from the eighth second on.
            cpu += if seconds <= 1.0 || seconds > 8.0 { 0.1 } else { 0.0 };
            let reading = Reading { cpu: Duration::from_secs_f64(cpu), ..Reading::default() };
            if monitor.observe(at(&monitor, seconds), reading).is_some() {
                tripped = Some(seconds);
                break;
            }
        }
        let tripped = tripped.unwrap();
        assert!((11.5..13.5).contains(&tripped), "{tripped}");
    }

    #[test]
    fn a_kernel_oom_kill_is_a_breach_even_when_no_sample_showed_it() {
        let stop = Steps { stop: Some(1000.0), ..Steps::default() };
        let mut monitor = ResourceMonitor::new(Thresholds { memory: stop, ..Thresholds::default() });
        assert!(monitor.observe(at(&monitor, 0.1), Reading { memory_bytes: 10, ..Reading::default() }).is_none());
        let killed = Reading { memory_bytes: 5, oom_kills: 1, ..Reading::default() };
        let breach = monitor.observe(at(&monitor, 0.2), killed).unwrap();
        assert_eq!((breach.metric, breach.rung), (Metric::Memory, Rung::Stop));
        assert!(monitor.observe(at(&monitor, 0.3), killed).is_none(), "the same kill is not counted twice");
    }

    #[test]
    fn history_is_bounded_and_peaks_are_kept() {
        let mut monitor = ResourceMonitor::new(Thresholds::default());
        for tick in 0..2000_u32 {
            let reading = Reading { memory_bytes: u64::from(2000 - tick), pids: 3, ..Reading::default() };
            monitor.observe(at(&monitor, f64::from(tick) / 10.0), reading);
        }
        assert_eq!(monitor.history().count(), HISTORY);
        assert_eq!(monitor.peak().memory_bytes, 2000);
    }
}
