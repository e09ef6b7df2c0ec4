//! Sampling a job's resources.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::job::Together;
use crate::ladder::{Breach, Cause, Ladder, Metric, Rung, Step, Thresholds, WINDOW};

/// What a platform reads of a job at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// CPU time used since the start by all processes that ever were in the job.
    pub cpu: Duration,
    /// Memory that cannot be dropped: anonymous and shared, in bytes.
    pub memory_bytes: u64,
    /// All that is charged to it, that of files too, in bytes; 0 where it does not tell.
    pub memory_charged_bytes: u64,
    /// The most that the kernel ever counted of it, in bytes; 0 where it does not tell.
    pub memory_peak_bytes: u64,
    /// Memory of the largest process, in bytes; 0 where it was not asked for.
    pub process_memory_bytes: u64,
    /// Processes (and threads, where the kernel counts them).
    pub pids: u64,
    /// Bytes read and written since the start by all processes that ever were in the job; `None` where nobody counts them.
    pub io_bytes: Option<u64>,
    /// Memory that was swapped out, in bytes; `None` where it is not counted.
    pub swap_bytes: Option<u64>,
    /// How long its share of the processors was used up since the start; `None` where that is not counted.
    pub throttled: Option<Duration>,
    /// How long some of its threads had to wait since the start. Dear to read, so now and then only where nothing asks for it.
    pub pressure: Pressure,
    /// The host around it, where something asks for that.
    pub host: Host,
    /// The pressures of which the kernel has said since the last reading that they were reached, and at which share.
    pub tripped: Tripped,
    /// How often the kernel slowed it down because it had more memory than it is to have.
    pub memory_slowed: u64,
    /// Open descriptors of all its processes; `None` where they were not asked for.
    pub open_files: Option<u64>,
    /// Bytes of output written since the start; `None` where it goes where nobody counts it.
    pub output_bytes: Option<u64>,
    /// How often the kernel ended a process of the job for lack of memory, or refused memory to the whole of it.
    pub oom_kills: u64,
    /// How often the kernel refused memory to one process because of its own limit.
    pub process_memory_refused: u64,
    /// How often the kernel refused a new process because of the limit.
    pub pids_refused: u64,
}

/// How long some threads of a job had to wait, in all; `None` where it is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// For a processor.
    pub cpu: Option<Duration>,
    /// For memory.
    pub memory: Option<Duration>,
    /// For input and output.
    pub io: Option<Duration>,
}

/// The host that a job runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Host {
    /// The share of its memory that is in use, 1.0 being all of it.
    pub memory: Option<f64>,
    /// How long some of its threads had to wait since it was started.
    pub pressure: Pressure,
}

/// The pressures that the kernel tells of by itself.
pub const PRESSURES: [Metric; 6] = [
    Metric::CpuPressure,
    Metric::MemoryPressure,
    Metric::IoPressure,
    Metric::HostCpuPressure,
    Metric::HostMemoryPressure,
    Metric::HostIoPressure,
];

/// For each of [`PRESSURES`] the share that was reached, if one was.
pub type Tripped = [Option<f64>; PRESSURES.len()];

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
    /// Memory that was swapped out, in bytes; absent where it is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Bytes read and written so far; absent where they are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_bytes: Option<u64>,
    /// The share of the last [`WINDOW`] in which its share of the processors was used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_throttled: Option<f64>,
    /// The share of the last [`WINDOW`] in which some of its threads waited for memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<f64>,
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
    /// CPU time in seconds, all in all.
    #[serde(default)]
    pub cpu_seconds: f64,
    /// Bytes read and written, all in all; absent where nobody counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_bytes: Option<u64>,
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
    rates: Rates,
    last: Reading,
    peak: Peak,
    /// What all jobs may have together.
    together: Option<Together>,
}

/// The share of its own memory limit from which on a job is taken to have reached that, and not the one of all together.
const NEARLY: f64 = 0.9;

impl ResourceMonitor {
    /// A monitor of a job that starts now. The history is allocated here, once.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            started: Instant::now(),
            thresholds,
            ladder: Ladder::default(),
            history: VecDeque::with_capacity(HISTORY),
            rates: Rates::new(),
            last: Reading::default(),
            peak: Peak::default(),
            together: None,
        }
    }

    /// One of a job that may have only so much together with others, which the kernel keeps.
    #[must_use]
    pub fn together(self, together: Option<Together>) -> Self {
        Self { together, ..self }
    }

    /// Takes one reading. Answers the breach that it causes, the gravest if there are several.
    pub fn observe(&mut self, now: Instant, reading: Reading) -> Option<Breach> {
        let mut sample = self.sample(now, &reading);
        let rates = self.rates.observe(now, &reading);
        (sample.cpu_throttled, sample.memory_pressure) = (rates.throttled, rates.memory_pressure);
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(sample);
        self.note_peak(&sample, &reading);
        let kernel = self.kernel_breach(&reading);
        self.last = reading;
        let (thresholds, ladder) = (&self.thresholds, &mut self.ladder);
        let breaches = Metric::ALL.into_iter().filter_map(|metric| {
            let value = value_of(metric, &reading, &sample, &rates)?;
            ladder.observe(thresholds, metric, value, now)
        });
        breaches.chain(kernel).max_by_key(|breach| breach.rung)
    }

    fn note_peak(&mut self, sample: &Sample, reading: &Reading) {
        let peak = &mut self.peak;
        peak.memory_bytes = peak.memory_bytes.max(sample.memory_bytes).max(reading.memory_peak_bytes);
        peak.cpu_cores = peak.cpu_cores.max(sample.cpu_cores);
        peak.processes = peak.processes.max(sample.processes);
        peak.cpu_seconds = peak.cpu_seconds.max(reading.cpu.as_secs_f64());
        peak.io_bytes = peak.io_bytes.max(reading.io_bytes);
    }

    /// The kernel's own limit struck between two samples: that is a breach even though no sample shows it.
    fn kernel_breach(&self, reading: &Reading) -> Option<Breach> {
        #[expect(clippy::cast_precision_loss, reason = "shown to a person")]
        let breach = |metric, value: u64| {
            let limit = self.thresholds.of(metric).top()?.at;
            let value = (value as f64).max(limit);
            Some(Breach { metric, rung: Rung::Stop, value, limit, for_seconds: 0.0, by: Cause::Value })
        };
        if reading.oom_kills > self.last.oom_kills {
            return self.together_breach().or_else(|| breach(Metric::Memory, self.peak.memory_bytes));
        }
        if reading.process_memory_refused > self.last.process_memory_refused {
            return breach(Metric::ProcessMemory, reading.process_memory_bytes);
        }
        if reading.pids_refused > self.last.pids_refused && !self.pids_refused_to_all(reading) {
            return breach(Metric::Pids, reading.pids);
        }
        None
    }

    /// Older kernels count with the job that asked what all of them together were refused.
    fn pids_refused_to_all(&self, reading: &Reading) -> bool {
        let seen = whole(reading.pids.max(self.peak.processes));
        let near = |own: Step| seen >= own.at * NEARLY;
        self.together.is_some_and(|all| all.pids_max.is_some()) && !self.thresholds.pids.top().is_some_and(near)
    }

    /// The job was ended for what all of them had, if it had not nearly reached its own limit.
    fn together_breach(&self) -> Option<Breach> {
        let limit = whole(self.together?.memory_max?);
        let own = self.thresholds.memory.top().is_some_and(|own| whole(self.peak.memory_bytes) >= own.at * NEARLY);
        let breach = Breach {
            metric: Metric::Memory,
            rung: Rung::Stop,
            value: limit,
            limit,
            for_seconds: 0.0,
            by: Cause::Together,
        };
        (!own).then_some(breach)
    }

    fn sample(&self, now: Instant, reading: &Reading) -> Sample {
        let since = self.rates.cpu.last().unwrap_or(self.started);
        let elapsed = now.saturating_duration_since(since).as_secs_f64();
        let used = reading.cpu.saturating_sub(self.last.cpu).as_secs_f64();
        Sample {
            at_seconds: now.saturating_duration_since(self.started).as_secs_f64(),
            cpu_cores: if elapsed > 0.0 { used / elapsed } else { 0.0 },
            memory_bytes: reading.memory_bytes,
            processes: reading.pids,
            swap_bytes: reading.swap_bytes,
            io_bytes: reading.io_bytes,
            cpu_throttled: None,
            memory_pressure: None,
        }
    }

    /// What was read last.
    pub fn last_reading(&self) -> &Reading {
        &self.last
    }

    /// The rung that `metric` stands on.
    pub fn standing(&self, metric: Metric) -> Option<Rung> {
        self.ladder.standing(metric)
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

    /// Forgets what was reached before and how fast anything has grown.
    pub fn begin_again(&mut self) {
        self.ladder = Ladder::default();
        self.rates = Rates::new();
    }

    /// When the job was started.
    pub fn started(&self) -> Instant {
        self.started
    }
}

#[expect(clippy::cast_precision_loss, reason = "thresholds are compared as floats; 2^53 bytes is enough")]
fn whole(number: u64) -> f64 {
    number as f64
}

/// What is compared with the thresholds of `metric`; `None` where it is not known, or not yet.
fn value_of(metric: Metric, reading: &Reading, sample: &Sample, rates: &Averages) -> Option<f64> {
    let tripped = PRESSURES.iter().zip(reading.tripped).find(|(known, _)| **known == metric).and_then(|(_, at)| at);
    let reached = |own: Option<f64>| own.into_iter().chain(tripped).reduce(f64::max);
    match metric {
        Metric::Memory => Some(whole(reading.memory_bytes)),
        Metric::Cpu => rates.cpu,
        Metric::Pids => Some(whole(reading.pids)),
        Metric::Time => Some(sample.at_seconds),
        Metric::ProcessMemory => Some(whole(reading.process_memory_bytes)),
        Metric::CpuTime => Some(reading.cpu.as_secs_f64()),
        Metric::Io => rates.io,
        Metric::Swap => reading.swap_bytes.map(whole),
        Metric::CpuThrottled => rates.throttled,
        Metric::CpuPressure => reached(rates.cpu_pressure),
        Metric::MemoryPressure => reached(rates.memory_pressure),
        Metric::IoPressure => reached(rates.io_pressure),
        Metric::HostCpuPressure => reached(rates.host_cpu_pressure),
        Metric::HostMemoryPressure => reached(rates.host_memory_pressure),
        Metric::HostIoPressure => reached(rates.host_io_pressure),
        Metric::HostMemory => reading.host.memory,
        Metric::OpenFiles => reading.open_files.map(whole),
        Metric::Output => rates.output,
    }
}

/// What only grows, to tell how fast.
#[derive(Debug)]
struct Rates {
    cpu: Window,
    io: Window,
    throttled: Window,
    cpu_pressure: Window,
    memory_pressure: Window,
    io_pressure: Window,
    host_cpu_pressure: Window,
    host_memory_pressure: Window,
    host_io_pressure: Window,
    output: Window,
}

/// How fast it has grown over the last [`WINDOW`].
struct Averages {
    cpu: Option<f64>,
    io: Option<f64>,
    throttled: Option<f64>,
    cpu_pressure: Option<f64>,
    memory_pressure: Option<f64>,
    io_pressure: Option<f64>,
    host_cpu_pressure: Option<f64>,
    host_memory_pressure: Option<f64>,
    host_io_pressure: Option<f64>,
    output: Option<f64>,
}

impl Rates {
    /// Their room is allocated here, once.
    fn new() -> Self {
        let new = Window::new;
        Self {
            cpu: new(),
            io: new(),
            throttled: new(),
            cpu_pressure: new(),
            memory_pressure: new(),
            io_pressure: new(),
            host_cpu_pressure: new(),
            host_memory_pressure: new(),
            host_io_pressure: new(),
            output: new(),
        }
    }

    fn observe(&mut self, now: Instant, reading: &Reading) -> Averages {
        let share = |window: &mut Window, stalled: Option<Duration>| window.rate(now, stalled?.as_secs_f64());
        let host = reading.host.pressure;
        Averages {
            cpu: share(&mut self.cpu, Some(reading.cpu)),
            io: reading.io_bytes.and_then(|bytes| self.io.rate(now, whole(bytes))),
            throttled: share(&mut self.throttled, reading.throttled),
            cpu_pressure: share(&mut self.cpu_pressure, reading.pressure.cpu),
            memory_pressure: share(&mut self.memory_pressure, reading.pressure.memory),
            io_pressure: share(&mut self.io_pressure, reading.pressure.io),
            host_cpu_pressure: share(&mut self.host_cpu_pressure, host.cpu),
            host_memory_pressure: share(&mut self.host_memory_pressure, host.memory),
            host_io_pressure: share(&mut self.host_io_pressure, host.io),
            output: reading.output_bytes.and_then(|bytes| self.output.rate(now, whole(bytes))),
        }
    }
}

/// What only grows, as it was at moments of the last [`WINDOW`].
#[derive(Debug)]
struct Window(VecDeque<(Instant, f64)>);

impl Window {
    /// Its room is allocated here, once.
    fn new() -> Self {
        Self(VecDeque::with_capacity(64))
    }

    /// The last moment.
    fn last(&self) -> Option<Instant> {
        self.0.back().map(|(at, _)| *at)
    }

    /// How much it has grown in a second, over the last [`WINDOW`]; `None` until that is over once.
    fn rate(&mut self, now: Instant, value: f64) -> Option<f64> {
        self.0.push_back((now, value));
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            self.0.pop_front();
        }
        let (first, before) = *self.0.front()?;
        let elapsed = now.saturating_duration_since(first);
        (elapsed >= WINDOW).then(|| (value - before).max(0.0) / elapsed.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ladder::Steps;

    fn at(monitor: &ResourceMonitor, seconds: f64) -> Instant {
        monitor.started() + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn cpu_is_judged_over_its_window_and_not_by_a_burst() {
        let stop = Steps { stop: Some(0.8.into()), ..Steps::default() };
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
        assert!((10.7..12.7).contains(&tripped), "{tripped}");
    }

    #[test]
    fn a_kernel_oom_kill_is_a_breach_even_when_no_sample_showed_it() {
        let stop = Steps { stop: Some(1000.0.into()), ..Steps::default() };
        let mut monitor = ResourceMonitor::new(Thresholds { memory: stop, ..Thresholds::default() });
        assert!(monitor.observe(at(&monitor, 0.1), Reading { memory_bytes: 10, ..Reading::default() }).is_none());
        let killed = Reading { memory_bytes: 5, oom_kills: 1, ..Reading::default() };
        let breach = monitor.observe(at(&monitor, 0.2), killed).unwrap();
        assert_eq!((breach.metric, breach.rung), (Metric::Memory, Rung::Stop));
        assert!(monitor.observe(at(&monitor, 0.3), killed).is_none(), "the same kill is not counted twice");
    }

    #[test]
    fn an_oom_kill_is_put_down_to_the_limit_that_was_reached() {
        let stop = Steps { stop: Some(1000.0.into()), ..Steps::default() };
        let killed = |memory: Steps, memory_bytes| {
            let thresholds = Thresholds { memory, ..Thresholds::default() };
            let mut monitor = ResourceMonitor::new(thresholds)
                .together(Some(Together { memory_max: Some(5000), ..Together::default() }));
            monitor.observe(at(&monitor, 0.1), Reading { memory_bytes, ..Reading::default() });
            let reading = Reading { memory_bytes: 1, oom_kills: 1, ..Reading::default() };
            let breach = monitor.observe(at(&monitor, 0.2), reading).unwrap();
            (breach.by, breach.limit)
        };
        assert_eq!(killed(stop, 950), (Cause::Value, 1000.0));
        assert_eq!(killed(stop, 500), (Cause::Together, 5000.0));
        assert_eq!(killed(Steps::default(), 4000), (Cause::Together, 5000.0));
    }

    #[test]
    fn memory_refused_to_one_process_is_a_breach_of_its_own_limit() {
        let stop = Steps { stop: Some(1000.0.into()), ..Steps::default() };
        let mut monitor = ResourceMonitor::new(Thresholds { process_memory: stop, ..Thresholds::default() });
        let small = Reading { memory_bytes: 5000, process_memory_bytes: 999, ..Reading::default() };
        assert!(monitor.observe(at(&monitor, 0.1), small).is_none(), "together they may have more");
        let refused = Reading { process_memory_refused: 1, ..small };
        let breach = monitor.observe(at(&monitor, 0.2), refused).unwrap();
        assert_eq!((breach.metric, breach.rung), (Metric::ProcessMemory, Rung::Stop));
        let large = Reading { process_memory_bytes: 1000, ..refused };
        assert_eq!(monitor.observe(at(&monitor, 0.3), large).unwrap().metric, Metric::ProcessMemory);
    }

    #[test]
    fn cpu_time_is_counted_over_the_whole_run() {
        let stop = Steps { stop: Some(2.0.into()), ..Steps::default() };
        let mut monitor = ResourceMonitor::new(Thresholds { cpu_time: stop, ..Thresholds::default() });
        let mut used = |at_seconds: f64, cpu: u64| {
            let reading = Reading { cpu: Duration::from_millis(cpu), ..Reading::default() };
            monitor.observe(at(&monitor, at_seconds), reading).map(|breach| breach.metric)
        };
        assert_eq!(used(1000.0, 1900), None, "idle hours do not count");
        assert_eq!(used(1000.1, 2000), Some(Metric::CpuTime));
    }

    #[test]
    fn io_is_judged_over_its_window_and_only_where_it_is_counted() {
        let stop = Steps { stop: Some(1000.0.into()), ..Steps::default() };
        let tripped = |counted: bool| {
            let mut monitor = ResourceMonitor::new(Thresholds { io: stop, ..Thresholds::default() });
            (1..=200_u32).find(|tick| {
                // A burst in the first second, and twice the limit from the eighth on.
                let bytes = u64::from(*tick.min(&10)) * 300 + u64::from(tick.saturating_sub(80)) * 200;
                let reading = Reading { io_bytes: counted.then_some(bytes), ..Reading::default() };
                let breach = monitor.observe(at(&monitor, f64::from(*tick) / 10.0), reading);
                breach.is_some_and(|breach| breach.metric == Metric::Io)
            })
        };
        assert!((100..115).contains(&tripped(true).unwrap()), "{:?}", tripped(true));
        assert_eq!(tripped(false), None);
    }

    #[test]
    fn history_is_bounded_and_peaks_are_kept() {
        let mut monitor = ResourceMonitor::new(Thresholds::default());
        for tick in 0..2000_u32 {
            let cpu = Duration::from_millis(tick.into());
            let reading = Reading { cpu, memory_bytes: u64::from(2000 - tick), pids: 3, ..Reading::default() };
            monitor.observe(at(&monitor, f64::from(tick) / 10.0), reading);
        }
        assert_eq!(monitor.history().count(), HISTORY);
        let peak = monitor.peak();
        assert_eq!((peak.memory_bytes, peak.processes, peak.io_bytes), (2000, 3, None));
        assert!((peak.cpu_seconds - 1.999).abs() < 1e-9, "{peak:?}");
        // What the kernel has seen between two samples counts too.
        let told = Reading { memory_peak_bytes: 9000, io_bytes: Some(7), ..Reading::default() };
        monitor.observe(at(&monitor, 300.0), told);
        assert_eq!((monitor.peak().memory_bytes, monitor.peak().io_bytes), (9000, Some(7)));
    }
}
