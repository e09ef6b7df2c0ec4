//! When a job that was slowed down is let run on, and when that was no help.
//!
//! A pure state machine, beside the ladder: the guardian feeds it what each sample shows.

use std::time::{Duration, Instant};

use crate::job::Way;
use crate::ladder::{Breach, Cause, Metric, Rung, Steps, Thresholds};

/// For how long a job must be below the rung before it is let run on: what trembles around it is not to swing.
const CALM: Duration = Duration::from_secs(10);
/// For how long a job may only wait for memory that it is not given.
const STALL: Duration = Duration::from_secs(10);
/// For how long the kernel keeps a process waiting at most (two seconds), in which it counts nothing, and a look's time.
const WAIT: Duration = Duration::from_millis(2500);
/// The share of a core below which a job that is kept waiting does not get on.
const PROGRESS: f64 = 0.02;

/// In which way a job is slowed down that has reached a rung of `metric`, and to what: to the rung itself, where the metric is
/// what is slowed down. Else to a quarter of a core: there, the point is that it gets slower at all.
pub fn way_of(breach: &Breach, charged_bytes: u64) -> (Way, f64) {
    #[expect(clippy::cast_precision_loss, reason = "a bound in bytes; 2^53 is enough")]
    let charged = charged_bytes as f64;
    match breach.metric {
        Metric::Cpu => (Way::Cpu, breach.limit),
        Metric::Io => (Way::Io, breach.limit),
        Metric::Memory => (Way::Memory, breach.limit),
        Metric::ProcessMemory | Metric::Swap | Metric::MemoryPressure | Metric::HostMemory => (Way::Memory, charged),
        _ => (Way::Cpu, QUARTER),
    }
}

/// A quarter of a core.
pub const QUARTER: f64 = 0.25;

/// One reason for which a job is slowed down.
#[derive(Clone, Copy, Debug)]
pub struct Throttle {
    /// Because of which metric.
    pub metric: Metric,
    /// In which way.
    pub way: Way,
    /// To what.
    pub to: f64,
    /// Since when it is below the rung.
    calm: Option<Instant>,
    /// Since when it does not get on, and when it was last kept waiting.
    stalled: Option<(Instant, Instant)>,
    /// How often it had been kept waiting by then.
    slowed: u64,
}

/// All reasons for which a job is slowed down, at most one for each metric.
#[derive(Debug)]
pub struct Throttles(Vec<Throttle>);

impl Throttles {
    /// None yet. Their room is allocated here, once.
    pub fn new() -> Self {
        Self(Vec::with_capacity(Metric::ALL.len()))
    }

    /// Those that there are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Throttle> {
        self.0.iter_mut()
    }

    /// Whether there is one because of `metric`.
    pub fn has(&self, metric: Metric) -> bool {
        self.0.iter().any(|throttle| throttle.metric == metric)
    }

    /// Adds one.
    pub fn add(&mut self, throttle: Throttle) {
        self.0.push(throttle);
    }

    /// Takes that because of `metric` away.
    pub fn remove(&mut self, metric: Metric) {
        self.0.retain(|throttle| throttle.metric != metric);
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// To what it is slowed down in one way: to the least, but for that because of `metric`.
    pub fn bound(&self, way: Way, but_for: Option<Metric>) -> Option<f64> {
        let others = self.0.iter().filter(|throttle| throttle.way == way && Some(throttle.metric) != but_for);
        others.map(|throttle| throttle.to).reduce(f64::min)
    }

    /// In which ways it is slowed down.
    pub fn ways(&self) -> impl Iterator<Item = Way> {
        Way::ALL.into_iter().filter(|way| self.bound(*way, None).is_some())
    }

    /// It has stood still: that was neither calm nor waiting.
    pub fn stood_still(&mut self) {
        for throttle in &mut self.0 {
            (throttle.calm, throttle.stalled) = (None, None);
        }
    }
}

impl Default for Throttles {
    fn default() -> Self {
        Self::new()
    }
}

/// What a sample shows of a job that is slowed down.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The rung that the metric stands on.
    pub standing: Option<Rung>,
    /// How often it was kept waiting for memory since its start.
    pub slowed: u64,
    /// Cores busy.
    pub cpu_cores: f64,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays slowed down.
    Stay,
    /// It is let run on.
    Lift,
    /// It only waits: slowing it down is no help, it goes up the ladder.
    Stalled,
}

impl Throttle {
    /// One that begins because of `metric`; it was kept waiting for memory `slowed` times before.
    pub fn new(metric: Metric, way: Way, to: f64, slowed: u64) -> Self {
        Self { metric, way, to, calm: None, stalled: None, slowed }
    }

    /// Takes what a sample shows at `now`.
    pub fn observe(&mut self, now: Instant, shown: Shown) -> Verdict {
        if self.is_stalled(now, &shown) {
            return Verdict::Stalled;
        }
        let calm = shown.standing < Some(Rung::Throttle);
        self.calm = if calm { Some(self.calm.unwrap_or(now)) } else { None };
        let lasted = self.calm.is_some_and(|since| now.saturating_duration_since(since) >= CALM);
        if lasted { Verdict::Lift } else { Verdict::Stay }
    }

    /// Whether it does nothing but wait, again and again: one that merely sleeps is not kept waiting.
    fn is_stalled(&mut self, now: Instant, shown: &Shown) -> bool {
        let waits = shown.slowed > self.slowed;
        self.slowed = shown.slowed;
        let last = if waits { Some(now) } else { self.stalled.map(|(_, last)| last) };
        let still = last.filter(|last| now.saturating_duration_since(*last) <= WAIT && shown.cpu_cores < PROGRESS);
        self.stalled = still.map(|last| (self.stalled.map_or(now, |(since, _)| since), last));
        self.stalled.is_some_and(|(since, _)| now.saturating_duration_since(since) >= STALL)
    }
}

/// The breach by which a job goes up the ladder that only waits for memory: the next rung that is set. `None` where there is
/// none: then it is better let run on than kept waiting for ever.
pub fn next_rung(thresholds: &Thresholds, metric: Metric, memory_bytes: u64) -> Option<Breach> {
    #[expect(clippy::cast_precision_loss, reason = "shown to a person")]
    let value = memory_bytes as f64;
    let steps: &Steps = thresholds.of(metric);
    let (rung, step) =
        steps.set().find(|(rung, _)| *rung > Rung::Throttle).or_else(|| steps.top().map(|step| (Rung::Stop, step)))?;
    Some(Breach { metric, rung, value, limit: step.at, for_seconds: step.for_seconds, by: Cause::Stalled })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BUSY: Shown = Shown { standing: Some(Rung::Throttle), slowed: 0, cpu_cores: 0.5 };

    /// What follows at the end of so many seconds of the same, ten samples in each.
    fn after(throttle: &mut Throttle, at: &mut Instant, seconds: u32, shown: impl Fn(u32) -> Shown) -> Verdict {
        let mut last = Verdict::Stay;
        for tick in 0..seconds * 10 {
            *at += Duration::from_millis(100);
            last = throttle.observe(*at, shown(tick));
            if last != Verdict::Stay {
                break;
            }
        }
        last
    }

    #[test]
    fn it_is_let_run_on_only_when_it_has_been_calm_without_a_pause() {
        let (mut throttle, mut at) = (Throttle::new(Metric::Cpu, Way::Cpu, 1.0, 0), Instant::now());
        let calm = Shown { standing: Some(Rung::Warn), ..BUSY };
        assert_eq!(after(&mut throttle, &mut at, 60, |_| BUSY), Verdict::Stay);
        assert_eq!(after(&mut throttle, &mut at, 9, |_| calm), Verdict::Stay);
        assert_eq!(after(&mut throttle, &mut at, 1, |_| BUSY), Verdict::Stay, "a pause");
        assert_eq!(after(&mut throttle, &mut at, 9, |_| calm), Verdict::Stay);
        assert_eq!(after(&mut throttle, &mut at, 2, |_| calm), Verdict::Lift);
    }

    #[test]
    fn one_that_only_waits_goes_up_the_ladder() {
        let (mut throttle, mut at) = (Throttle::new(Metric::Memory, Way::Memory, 1e6, 7), Instant::now());
        // The kernel counts once in two seconds; in between nothing happens at all.
        let waiting = |tick: u32| Shown { slowed: 7 + u64::from(tick / 20 + 1), cpu_cores: 0.0, ..BUSY };
        assert_eq!(after(&mut throttle, &mut at, 9, waiting), Verdict::Stay);
        let works = |tick: u32| Shown { cpu_cores: 0.3, ..waiting(tick + 90) };
        assert_eq!(after(&mut throttle, &mut at, 30, works), Verdict::Stay, "slow, but it gets on");
        assert_eq!(after(&mut throttle, &mut at, 12, |tick| waiting(tick + 400)), Verdict::Stalled);
    }

    #[test]
    fn one_that_sleeps_is_not_stalled() {
        let (mut throttle, mut at) = (Throttle::new(Metric::Memory, Way::Memory, 1e6, 7), Instant::now());
        let sleeps = |slowed| move |_| Shown { slowed, cpu_cores: 0.0, ..BUSY };
        assert_eq!(after(&mut throttle, &mut at, 60, sleeps(7)), Verdict::Stay);
        assert_eq!(after(&mut throttle, &mut at, 60, sleeps(8)), Verdict::Stay, "it was kept waiting once");
    }

    #[test]
    fn what_it_is_slowed_down_to_is_the_least_of_all_reasons() {
        let mut throttles = Throttles::new();
        throttles.add(Throttle::new(Metric::HostMemory, Way::Memory, 3.0, 0));
        throttles.add(Throttle::new(Metric::Memory, Way::Memory, 2.0, 0));
        assert_eq!((throttles.bound(Way::Memory, None), throttles.bound(Way::Cpu, None)), (Some(2.0), None));
        assert_eq!(throttles.bound(Way::Memory, Some(Metric::Memory)), Some(3.0));
        throttles.remove(Metric::HostMemory);
        assert!(!throttles.has(Metric::HostMemory) && throttles.ways().eq([Way::Memory]));
        assert_eq!(throttles.bound(Way::Memory, Some(Metric::Memory)), None);
    }

    #[test]
    fn the_way_up_is_the_next_rung_that_is_set() {
        let steps = Steps { throttle: Some(10.0.into()), stop: Some(30.0.into()), ..Steps::default() };
        let rung = |memory| {
            next_rung(&Thresholds { memory, ..Thresholds::default() }, Metric::Memory, 12).map(|breach| breach.rung)
        };
        assert_eq!(rung(Steps { freeze: Some(20.0.into()), ..steps }), Some(Rung::Freeze));
        assert_eq!(rung(steps), Some(Rung::Stop));
        assert_eq!(rung(Steps { stop: None, max: Some(40.0.into()), ..steps }), Some(Rung::Stop));
        assert_eq!(rung(Steps { stop: None, ..steps }), None);
    }
}
