//! The limit ladder: warn, then throttle, then freeze, then stop.
//!
//! A pure state machine: the guardian feeds it each sample's values and does what it answers.

mod metric;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use metric::METRICS;
pub use metric::{Metric, Unit};

/// Over how long rates, those of CPU and I/O, are averaged before they are compared. An even number of seconds: the kernel
/// tells others than root of pressure over no other times.
pub const WINDOW: Duration = Duration::from_secs(4);

/// A rung of the ladder, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rung {
    /// Say so.
    Warn,
    /// Slow it down.
    Throttle,
    /// Freeze and hold.
    Freeze,
    /// Stop it, as `on_breach` says.
    Stop,
}

impl Rung {
    /// All of them, lowest first.
    pub const ALL: [Self; 4] = [Self::Warn, Self::Throttle, Self::Freeze, Self::Stop];

    /// As a configuration names it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Throttle => "throttle",
            Self::Freeze => "freeze",
            Self::Stop => "stop",
        }
    }
}

/// Where a rung is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// The value at which it is reached, in the metric's unit; or the share of the metric's limit.
    pub at: f64,
    /// Whether it is a share of the limit. Without one it is never reached.
    pub of_max: bool,
    /// For how many seconds it must be reached without a pause.
    pub for_seconds: f64,
}

impl Step {
    /// Reached as soon as the value is `at`.
    pub fn at(at: f64) -> Self {
        Self { at, ..Self::default() }
    }
}

impl From<f64> for Step {
    fn from(at: f64) -> Self {
        Self::at(at)
    }
}

/// The values at which one metric reaches each rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steps {
    /// At which to warn.
    pub warn: Option<Step>,
    /// At which to throttle.
    pub throttle: Option<Step>,
    /// At which to freeze.
    pub freeze: Option<Step>,
    /// At which to stop.
    pub stop: Option<Step>,
    /// The hard limit, at which to stop too.
    #[serde(skip)]
    pub max: Option<Step>,
}

impl Steps {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Those that are set, lowest first; without the hard limit.
    pub fn set(&self) -> impl Iterator<Item = (Rung, Step)> + use<> {
        let all = *self;
        Rung::ALL.into_iter().filter_map(move |rung| Some((rung, all.at(rung)?)))
    }

    /// Where the top is: the hard limit, or the last rung where there is none.
    pub fn top(&self) -> Option<Step> {
        self.max.or(self.stop)
    }

    fn at(&self, rung: Rung) -> Option<Step> {
        match rung {
            Rung::Warn => self.warn,
            Rung::Throttle => self.throttle,
            Rung::Freeze => self.freeze,
            Rung::Stop => self.stop,
        }
    }

    /// One of them, to change it.
    pub fn at_mut(&mut self, rung: Rung) -> &mut Option<Step> {
        match rung {
            Rung::Warn => &mut self.warn,
            Rung::Throttle => &mut self.throttle,
            Rung::Freeze => &mut self.freeze,
            Rung::Stop => &mut self.stop,
        }
    }

    /// With shares of the limit `max` turned into values. Those of no limit are left out.
    #[must_use]
    pub fn resolved(self, max: Option<f64>) -> Self {
        let resolve = |step: Step| match (step.of_max, max) {
            (false, _) => Some(step),
            (true, Some(max)) => Some(Step { at: step.at * max, of_max: false, ..step }),
            (true, None) => None,
        };
        Self {
            warn: self.warn.and_then(resolve),
            throttle: self.throttle.and_then(resolve),
            freeze: self.freeze.and_then(resolve),
            stop: self.stop.and_then(resolve),
            max: self.max,
        }
    }

    /// The lowest value above `value` at which a rung is reached.
    pub fn next_above(&self, value: f64) -> Option<f64> {
        self.set()
            .map(|(_, step)| step)
            .chain(self.max)
            .map(|step| step.at)
            .filter(|limit| *limit > value)
            .reduce(f64::min)
    }
}

/// The thresholds of all metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thresholds {
    /// In bytes.
    pub memory: Steps,
    /// In cores.
    pub cpu: Steps,
    /// In processes and threads.
    pub pids: Steps,
    /// In seconds.
    pub time: Steps,
    /// In bytes.
    pub process_memory: Steps,
    /// In seconds.
    pub cpu_time: Steps,
    /// In bytes a second.
    pub io: Steps,
    /// In bytes.
    pub swap: Steps,
    /// A share of the time.
    pub cpu_throttled: Steps,
    /// A share of the time.
    pub cpu_pressure: Steps,
    /// A share of the time.
    pub memory_pressure: Steps,
    /// A share of the time.
    pub io_pressure: Steps,
    /// In descriptors.
    pub open_files: Steps,
    /// In bytes a second.
    pub output: Steps,
    /// A share of what there is.
    pub host_memory: Steps,
    /// A share of the time.
    pub host_cpu_pressure: Steps,
    /// A share of the time.
    pub host_memory_pressure: Steps,
    /// A share of the time.
    pub host_io_pressure: Steps,
}

impl Thresholds {
    /// The steps of one metric.
    pub fn of(&self, metric: Metric) -> &Steps {
        match metric {
            Metric::Memory => &self.memory,
            Metric::Cpu => &self.cpu,
            Metric::Pids => &self.pids,
            Metric::Time => &self.time,
            Metric::ProcessMemory => &self.process_memory,
            Metric::CpuTime => &self.cpu_time,
            Metric::Io => &self.io,
            Metric::Swap => &self.swap,
            Metric::CpuThrottled => &self.cpu_throttled,
            Metric::CpuPressure => &self.cpu_pressure,
            Metric::MemoryPressure => &self.memory_pressure,
            Metric::IoPressure => &self.io_pressure,
            Metric::OpenFiles => &self.open_files,
            Metric::Output => &self.output,
            Metric::HostMemory => &self.host_memory,
            Metric::HostCpuPressure => &self.host_cpu_pressure,
            Metric::HostMemoryPressure => &self.host_memory_pressure,
            Metric::HostIoPressure => &self.host_io_pressure,
        }
    }

    /// The steps of one metric, to change them while the job runs.
    pub fn of_mut(&mut self, metric: Metric) -> &mut Steps {
        match metric {
            Metric::Memory => &mut self.memory,
            Metric::Cpu => &mut self.cpu,
            Metric::Pids => &mut self.pids,
            Metric::Time => &mut self.time,
            Metric::ProcessMemory => &mut self.process_memory,
            Metric::CpuTime => &mut self.cpu_time,
            Metric::Io => &mut self.io,
            Metric::Swap => &mut self.swap,
            Metric::CpuThrottled => &mut self.cpu_throttled,
            Metric::CpuPressure => &mut self.cpu_pressure,
            Metric::MemoryPressure => &mut self.memory_pressure,
            Metric::IoPressure => &mut self.io_pressure,
            Metric::OpenFiles => &mut self.open_files,
            Metric::Output => &mut self.output,
            Metric::HostMemory => &mut self.host_memory,
            Metric::HostCpuPressure => &mut self.host_cpu_pressure,
            Metric::HostMemoryPressure => &mut self.host_memory_pressure,
            Metric::HostIoPressure => &mut self.host_io_pressure,
        }
    }
}

/// A rung that was newly reached.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breach {
    /// What is measured.
    pub metric: Metric,
    /// How far up the ladder it is.
    pub rung: Rung,
    /// The value measured.
    pub value: f64,
    /// The threshold of that rung.
    pub limit: f64,
    /// For how long it had to be reached.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub for_seconds: f64,
    /// What it was reached by.
    #[serde(default, skip_serializing_if = "Cause::is_value")]
    pub by: Cause,
}

/// What a rung was reached by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// By the value.
    #[default]
    Value,
    /// Slowed down on the rung below, the job only waited.
    Stalled,
    /// By all jobs of the instance together.
    Together,
}

impl Cause {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_value(&self) -> bool {
        *self == Self::Value
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { metric, value, limit, for_seconds, .. } = self;
        match self.by {
            Cause::Value => {}
            Cause::Stalled => {
                return write!(f, "{metric} {value:.0} bytes: slowed down, it only waited for more and did not get on");
            }
            Cause::Together => {
                return write!(f, "{metric} of all workloads together reached the limit of {limit:.0} bytes");
            }
        }
        match metric.unit() {
            Unit::Bytes => write!(f, "{metric} {value:.0} bytes reached the limit of {limit:.0}"),
            Unit::BytesPerSecond => write!(f, "{metric} {value:.0} bytes a second reached the limit of {limit:.0}"),
            Unit::Cores => write!(f, "{metric} {value:.2} cores reached the limit of {limit:.2}"),
            Unit::Number => write!(f, "{metric} {value:.0} reached the limit of {limit:.0}"),
            Unit::Seconds => write!(f, "{metric} {value:.1} s reached the limit of {limit:.1} s"),
            Unit::Share => {
                let of = if *metric == Metric::HostMemory { "" } else { " of the time" };
                write!(f, "{metric} {:.1} %{of} reached the limit of {:.1} %", value * 100.0, limit * 100.0)
            }
        }?;
        if *for_seconds > 0.0 { write!(f, " for {for_seconds} s") } else { Ok(()) }
    }
}

/// Where a job stands on the ladder.
#[derive(Clone, Debug, Default)]
pub struct Ladder {
    standing: [Option<Rung>; METRICS],
    /// Since when each rung is reached.
    since: [[Option<Instant>; 4]; METRICS],
}

/// A rung is left only when the value has fallen below this share of its threshold, so that a value that trembles
/// around it does not trip it again and again.
const HYSTERESIS: f64 = 0.95;

impl Ladder {
    /// Takes one value, of the moment `now`, and answers the rung that it newly reached, if any.
    pub fn observe(&mut self, thresholds: &Thresholds, metric: Metric, value: f64, now: Instant) -> Option<Breach> {
        let steps = thresholds.of(metric);
        let reached = self.reached(steps, metric, value, now);
        let standing = &mut self.standing[metric.index()];
        let rung = reached.map(|(rung, _)| rung);
        if rung > *standing {
            *standing = rung;
            let (rung, step) = reached?;
            return Some(Breach {
                metric,
                rung,
                value,
                limit: step.at,
                for_seconds: step.for_seconds,
                by: Cause::Value,
            });
        }
        if rung < *standing {
            // Down to the highest that was reached and still holds.
            let since = &self.since[metric.index()];
            let lasted = |rung: Rung, step: Step| {
                since[rung as usize]
                    .is_some_and(|since| now.saturating_duration_since(since).as_secs_f64() >= step.for_seconds)
            };
            let holds = |rung: &Rung| {
                let step = steps.at(*rung).filter(|step| Some(*rung) == *standing || lasted(*rung, *step));
                let top = steps.max.filter(|_| *rung == Rung::Stop && Some(Rung::Stop) == *standing);
                step.into_iter().chain(top).any(|step| value >= step.at * HYSTERESIS)
            };
            let held = Rung::ALL.into_iter().rev().filter(|rung| Some(*rung) <= *standing).find(holds);
            *standing = held.max(rung);
        }
        None
    }

    /// The highest rung that is reached, for as long as it asks for, and where it is.
    fn reached(&mut self, steps: &Steps, metric: Metric, value: f64, now: Instant) -> Option<(Rung, Step)> {
        let since = &mut self.since[metric.index()];
        let mut highest = None;
        for (rung, step) in steps.set() {
            let since = &mut since[rung as usize];
            if value >= step.at {
                let begun = *since.get_or_insert(now);
                if now.saturating_duration_since(begun).as_secs_f64() >= step.for_seconds {
                    highest = Some((rung, step));
                }
            } else if value < step.at * HYSTERESIS {
                *since = None;
            }
        }
        steps.max.filter(|max| value >= max.at).map(|max| (Rung::Stop, max)).or(highest)
    }

    /// The rung that `metric` stands on.
    pub fn standing(&self, metric: Metric) -> Option<Rung> {
        self.standing[metric.index()]
    }

    /// The highest rung that any metric stands on.
    pub fn highest(&self) -> Option<Rung> {
        self.standing.iter().flatten().max().copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn at(value: f64) -> Option<Step> {
        Some(value.into())
    }

    fn thresholds() -> Thresholds {
        let memory = Steps { warn: at(100.0), throttle: None, freeze: at(200.0), stop: at(300.0), max: None };
        Thresholds { memory, ..Thresholds::default() }
    }

    #[test]
    fn each_rung_trips_once_and_again_only_after_it_was_left() {
        let (thresholds, mut ladder) = (thresholds(), Ladder::default());
        let now = Instant::now();
        let mut observe = |value| ladder.observe(&thresholds, Metric::Memory, value, now).map(|breach| breach.rung);
        assert_eq!(observe(99.0), None);
        assert_eq!(observe(100.0), Some(Rung::Warn));
        assert_eq!(observe(101.0), None);
        assert_eq!(observe(96.0), None, "within the hysteresis");
        assert_eq!(observe(100.0), None);
        assert_eq!(observe(90.0), None);
        assert_eq!(observe(100.0), Some(Rung::Warn), "left and reached again");
        assert_eq!(observe(1000.0), Some(Rung::Stop), "straight to the top");
        assert_eq!(observe(1000.0), None);
    }

    #[test]
    fn a_rung_below_holds_when_the_one_above_is_left() {
        let memory = Steps { throttle: at(100.0), freeze: at(105.0), max: at(200.0), ..Steps::default() };
        let thresholds = Thresholds { memory, ..Thresholds::default() };
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        let mut standing = |value| {
            ladder.observe(&thresholds, Metric::Memory, value, now);
            ladder.standing(Metric::Memory)
        };
        assert_eq!(standing(110.0), Some(Rung::Freeze));
        assert_eq!(standing(98.0), Some(Rung::Throttle));
        assert_eq!(standing(94.0), None);
        assert_eq!(standing(200.0), Some(Rung::Stop));
        assert_eq!(standing(195.0), Some(Rung::Stop), "the limit trembles too");
        assert_eq!(standing(150.0), Some(Rung::Freeze));
    }

    #[test]
    fn metrics_do_not_know_each_other() {
        let mut thresholds = thresholds();
        thresholds.pids.stop = at(10.0);
        let (mut ladder, now) = (Ladder::default(), Instant::now());
        assert!(ladder.observe(&thresholds, Metric::Memory, 100.0, now).is_some());
        assert_eq!(ladder.observe(&thresholds, Metric::Pids, 10.0, now).unwrap().rung, Rung::Stop);
        assert!(ladder.observe(&thresholds, Metric::Cpu, 1e9, now).is_none(), "no threshold, no breach");
        assert_eq!(ladder.highest(), Some(Rung::Stop));
    }

    /// What a person reads of a metric is what a program reads, and each has a standing of its own.
    #[test]
    fn every_metric_is_named_once_and_counted_by_itself() {
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.to_string());
            assert_eq!(metric.index(), index);
            let mut thresholds = Thresholds::default();
            thresholds.of_mut(metric).stop = at(1.0);
            let now = Instant::now();
            let reached =
                |other| Ladder::default().observe(&thresholds, other, 1.0, now).map(|breach| breach.to_string());
            assert!(reached(metric).unwrap().starts_with(&format!("{metric} 1")));
            assert_eq!(Metric::ALL.into_iter().filter_map(reached).count(), 1);
        }
    }

    #[test]
    fn a_sustained_rung_is_reached_only_without_a_pause() {
        let stop = Some(Step { for_seconds: 30.0, ..Step::at(100.0) });
        let thresholds =
            Thresholds { memory: Steps { warn: at(100.0), stop, ..Steps::default() }, ..Thresholds::default() };
        let (mut ladder, begun) = (Ladder::default(), Instant::now());
        let mut observe = |seconds, value| {
            let now = begun + Duration::from_secs(seconds);
            ladder.observe(&thresholds, Metric::Memory, value, now).map(|breach| breach.rung)
        };
        assert_eq!(observe(0, 110.0), Some(Rung::Warn), "that one does not wait");
        assert_eq!(observe(20, 110.0), None);
        assert_eq!(observe(25, 96.0), None, "it trembles, and that is no pause");
        assert_eq!(observe(26, 50.0), None, "a pause");
        assert_eq!(observe(27, 110.0), Some(Rung::Warn));
        assert_eq!(observe(56, 110.0), None);
        assert_eq!(observe(57, 110.0), Some(Rung::Stop));
        assert_eq!(observe(60, 110.0), None, "once");
    }

    #[test]
    fn a_share_of_the_limit_moves_with_it() {
        let steps = Steps { warn: Some(Step { of_max: true, ..Step::at(0.5) }), stop: at(7.0), ..Steps::default() };
        assert_eq!(steps.resolved(Some(10.0)), Steps { warn: at(5.0), stop: at(7.0), ..Steps::default() });
        assert_eq!(steps.resolved(None), Steps { stop: at(7.0), ..Steps::default() });
    }

    proptest! {
        /// Whatever the values do, a breach is answered exactly when the standing rises.
        #[test]
        fn a_breach_means_that_the_threshold_was_reached(values in prop::collection::vec(0.0_f64..400.0, 1..100)) {
            let (thresholds, mut ladder) = (thresholds(), Ladder::default());
            for value in values {
                let before = ladder.highest();
                let breach = ladder.observe(&thresholds, Metric::Memory, value, Instant::now());
                prop_assert_eq!(breach.is_some(), ladder.highest() > before);
                if let Some(breach) = breach {
                    prop_assert!(value >= breach.limit);
                }
            }
        }
    }
}
