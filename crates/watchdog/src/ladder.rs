//! The limit ladder: warn, then throttle, then freeze, then stop.
//!
//! A pure state machine: the guardian feeds it each sample's values and does what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Memory that cannot be dropped (anonymous and shared), in bytes.
    Memory,
    /// Cores busy, averaged over [`WINDOW`]: 1.0 is one core.
    Cpu,
    /// Processes and threads.
    Pids,
    /// Seconds since the start.
    Time,
    /// Memory of the largest process, in bytes.
    ProcessMemory,
    /// CPU time of all processes that ever were in the job, in seconds.
    CpuTime,
    /// Bytes read and written in a second, averaged over [`WINDOW`].
    Io,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; METRICS] =
        [Self::Memory, Self::Cpu, Self::Pids, Self::Time, Self::ProcessMemory, Self::CpuTime, Self::Io];

    fn index(self) -> usize {
        match self {
            Self::Memory => 0,
            Self::Cpu => 1,
            Self::Pids => 2,
            Self::Time => 3,
            Self::ProcessMemory => 4,
            Self::CpuTime => 5,
            Self::Io => 6,
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Time => "time",
            Self::ProcessMemory => "process-memory",
            Self::CpuTime => "cpu-time",
            Self::Io => "io",
        })
    }
}

/// How many metrics there are.
const METRICS: usize = 7;
/// Over how long rates, those of CPU and I/O, are averaged before they are compared.
pub const WINDOW: Duration = Duration::from_secs(5);

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
    const ALL: [Self; 4] = [Self::Warn, Self::Throttle, Self::Freeze, Self::Stop];
}

/// The values at which one metric reaches each rung.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steps {
    /// At which to warn.
    pub warn: Option<f64>,
    /// At which to throttle.
    pub throttle: Option<f64>,
    /// At which to freeze.
    pub freeze: Option<f64>,
    /// At which to stop.
    pub stop: Option<f64>,
}

impl Steps {
    fn at(&self, rung: Rung) -> Option<f64> {
        match rung {
            Rung::Warn => self.warn,
            Rung::Throttle => self.throttle,
            Rung::Freeze => self.freeze,
            Rung::Stop => self.stop,
        }
    }

    /// The lowest value above `value` at which a rung is reached.
    pub fn next_above(&self, value: f64) -> Option<f64> {
        Rung::ALL.into_iter().filter_map(|rung| self.at(rung)).filter(|limit| *limit > value).reduce(f64::min)
    }

    fn reached(&self, value: f64) -> Option<Rung> {
        Rung::ALL.into_iter().rfind(|rung| self.at(*rung).is_some_and(|limit| value >= limit))
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
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { metric, value, limit, .. } = self;
        match metric {
            Metric::Memory | Metric::ProcessMemory => {
                write!(f, "{metric} {value:.0} bytes reached the limit of {limit:.0}")
            }
            Metric::Cpu => write!(f, "{metric} {value:.2} cores reached the limit of {limit:.2}"),
            Metric::Pids => write!(f, "{metric} {value:.0} reached the limit of {limit:.0}"),
            Metric::Time | Metric::CpuTime => write!(f, "{metric} {value:.1} s reached the limit of {limit:.1} s"),
            Metric::Io => write!(f, "{metric} {value:.0} bytes a second reached the limit of {limit:.0}"),
        }
    }
}

/// Where a job stands on the ladder.
#[derive(Clone, Debug, Default)]
pub struct Ladder {
    standing: [Option<Rung>; METRICS],
}

/// A rung is left only when the value has fallen below this share of its threshold, so that a value that trembles
/// around it does not trip it again and again.
const HYSTERESIS: f64 = 0.95;

impl Ladder {
    /// Takes one value and answers the rung that it newly reached, if any.
    pub fn observe(&mut self, thresholds: &Thresholds, metric: Metric, value: f64) -> Option<Breach> {
        let steps = thresholds.of(metric);
        let standing = &mut self.standing[metric.index()];
        let reached = steps.reached(value);
        if reached > *standing {
            *standing = reached;
            return reached.and_then(|rung| steps.at(rung).map(|limit| Breach { metric, rung, value, limit }));
        }
        if reached < *standing {
            let held = standing.and_then(|rung| steps.at(rung)).is_some_and(|limit| value >= limit * HYSTERESIS);
            if !held {
                *standing = reached;
            }
        }
        None
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

    fn thresholds() -> Thresholds {
        let memory = Steps { warn: Some(100.0), throttle: None, freeze: Some(200.0), stop: Some(300.0) };
        Thresholds { memory, ..Thresholds::default() }
    }

    #[test]
    fn each_rung_trips_once_and_again_only_after_it_was_left() {
        let (thresholds, mut ladder) = (thresholds(), Ladder::default());
        let mut observe = |value| ladder.observe(&thresholds, Metric::Memory, value).map(|breach| breach.rung);
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
    fn metrics_do_not_know_each_other() {
        let mut thresholds = thresholds();
        thresholds.pids.stop = Some(10.0);
        let mut ladder = Ladder::default();
        assert!(ladder.observe(&thresholds, Metric::Memory, 100.0).is_some());
        assert_eq!(ladder.observe(&thresholds, Metric::Pids, 10.0).unwrap().rung, Rung::Stop);
        assert!(ladder.observe(&thresholds, Metric::Cpu, 1e9).is_none(), "no threshold, no breach");
        assert_eq!(ladder.highest(), Some(Rung::Stop));
    }

    /// What a person reads of a metric is what a program reads, and each has a standing of its own.
    #[test]
    fn every_metric_is_named_once_and_counted_by_itself() {
        for (index, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(metric).unwrap(), metric.to_string());
            assert_eq!(metric.index(), index);
            let mut thresholds = Thresholds::default();
            thresholds.of_mut(metric).stop = Some(1.0);
            let reached = |other| Ladder::default().observe(&thresholds, other, 1.0).map(|breach| breach.to_string());
            assert!(reached(metric).unwrap().starts_with(&format!("{metric} 1")));
            assert_eq!(Metric::ALL.into_iter().filter_map(reached).count(), 1);
        }
    }

    proptest! {
        /// Whatever the values do, a breach is answered exactly when the standing rises.
        #[test]
        fn a_breach_means_that_the_threshold_was_reached(values in prop::collection::vec(0.0_f64..400.0, 1..100)) {
            let (thresholds, mut ladder) = (thresholds(), Ladder::default());
            for value in values {
                let before = ladder.highest();
                let breach = ladder.observe(&thresholds, Metric::Memory, value);
                prop_assert_eq!(breach.is_some(), ladder.highest() > before);
                if let Some(breach) = breach {
                    prop_assert!(value >= breach.limit);
                }
            }
        }
    }
}
