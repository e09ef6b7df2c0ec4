//! What a guardian does about limits: takes samples, warns, slows the job down, lets it run on, freezes and stops it.

use std::time::{Duration, Instant};

use super::{Event, Server, State, Trigger};
use crate::guardian::log::Log;
use crate::guardian::spec::event_of;
use crate::job::{DESCRIPTORS, Way, Woken};
use crate::ladder::{Breach, Metric, Rung};
use crate::monitor::PRESSURES;
use crate::stop::{Category, StoppedBy};
use crate::throttle::{QUARTER, Shown, Throttle, Verdict, next_rung, way_of};

/// The share of one core that sampling may cost. Where a sample is dear, fewer are taken.
const SAMPLING_SHARE: f64 = 0.01;
/// The places of those descriptors of a job by which the kernel tells of limits: of refusals and of pressures.
const OF_LIMITS: std::ops::Range<usize> = DESCRIPTORS - PRESSURES.len() - 2..DESCRIPTORS;
/// Out of memory is told before the process is ended that had it: so soon is looked again.
const SOON: Duration = Duration::from_millis(10);

impl Server {
    /// The kernel tells of a limit: that is looked at now, not at the next turn.
    pub(super) fn hear(&mut self, woken: Woken) {
        if woken == Woken::default() {
            return;
        }
        self.prepared.job.woken(woken);
        if OF_LIMITS.into_iter().any(|place| woken.has(place)) && Instant::now() >= self.affordable {
            self.sample_in_turn();
            self.next_sample = self
                .next_sample
                .min(Instant::now() + SOON.max(self.affordable.saturating_duration_since(Instant::now())));
        }
    }

    /// Takes a sample, and says when the next one is due.
    pub(super) fn sample_in_turn(&mut self) {
        let cost = self.sample();
        self.affordable = Instant::now() + cost.div_f64(SAMPLING_SHARE);
        self.next_sample = self.due((Instant::now() + self.sample_interval).max(self.affordable));
    }

    /// The next sample is due at `at`, or when the run time or the processor time can be used up before that.
    fn due(&self, at: Instant) -> Instant {
        let monitor = self.prepared.job.monitor();
        let thresholds = monitor.thresholds();
        let reached = monitor.last().map_or(0.0, |sample| sample.at_seconds);
        let time =
            thresholds.time.next_above(reached).map(|seconds| monitor.started() + Duration::from_secs_f64(seconds));
        let used = monitor.last_reading().cpu.as_secs_f64();
        let cpu_time = thresholds.cpu_time.next_above(used).map(|seconds| self.earliest(seconds - used));
        [time, cpu_time].into_iter().flatten().fold(at, Instant::min).max(self.affordable.min(at))
    }

    /// The earliest moment at which so many more seconds of processor time can have been used.
    fn earliest(&self, seconds: f64) -> Instant {
        #[expect(clippy::cast_precision_loss, reason = "a number of processors")]
        let processors = std::thread::available_parallelism().map_or(1.0, |number| number.get() as f64);
        let enforced = self.prepared.job.job().enforced().cpu;
        let cores = self.prepared.job.spec().limits.cpu_max.filter(|_| enforced).unwrap_or(processors);
        // Beyond the horizon of a timer, it is the next turn that matters.
        Instant::now() + Duration::try_from_secs_f64(seconds / cores.min(processors)).unwrap_or(Duration::from_secs(1))
    }

    /// Takes a sample and acts on what it shows. Returns what it cost.
    pub(super) fn sample(&mut self) -> Duration {
        let before = Instant::now();
        if let Some(log) = &mut self.prepared.log {
            log.bound();
        }
        let written = self.prepared.log.as_ref().and_then(Log::written);
        let breach = self.prepared.job.sample(written);
        let cost = before.elapsed();
        if let Some(breach) = breach {
            self.breached(breach);
        }
        self.look_at_throttles();
        cost
    }

    fn breached(&mut self, breach: Breach) {
        self.last_breach = Some(breach);
        if breach.rung == Rung::Throttle {
            self.throttle(&breach);
        }
        let Some(event) = event_of(breach.rung, self.prepared.spec.on_breach) else {
            self.warn(breach);
            return;
        };
        self.record.breach = Some(breach);
        let reason = breach.to_string();
        match event {
            Event::BreachCritical => self.emergency(Trigger::Limit, &reason),
            Event::BreachFreeze => {
                let held = self.state == State::Held;
                self.happen(event, Category::Ask, Some(self.freeze_time()));
                // The kernel may say again and again that it refuses more of the same.
                if !held && self.state == State::Held {
                    self.keep_reason(reason);
                }
            }
            _ => {
                self.record.blame(StoppedBy::Limit, &reason);
                self.happen(event, Category::Ask, None);
            }
        }
    }

    /// Slows the job down, in the way of what it has too much of, or else by its share of the processors.
    fn throttle(&mut self, breach: &Breach) {
        let job = &mut self.prepared.job;
        let reading = *job.monitor().last_reading();
        let (way, to) = way_of(breach, reading.memory_bytes);
        for (way, to) in [(way, to), (Way::Cpu, QUARTER)] {
            let held = &mut self.throttles[way as usize];
            if held.is_some() {
                return;
            }
            if job.slow(way, Some(to)).is_ok() {
                *held = Some(Throttle::new(breach.metric, reading.memory_slowed));
                return;
            }
        }
    }

    /// Lets the job run on where it has been calm, and goes up the ladder where it only waits.
    fn look_at_throttles(&mut self) {
        if self.state != State::Running {
            return;
        }
        let now = Instant::now();
        let monitor = self.prepared.job.monitor();
        let (reading, cpu_cores) = (*monitor.last_reading(), monitor.last().map_or(0.0, |sample| sample.cpu_cores));
        for way in Way::ALL {
            let Some(throttle) = &mut self.throttles[way as usize] else { continue };
            let metric = throttle.metric;
            let standing = self.prepared.job.monitor().standing(metric);
            match throttle.observe(now, Shown { standing, slowed: reading.memory_slowed, cpu_cores }) {
                Verdict::Stay => {}
                Verdict::Lift => self.lift(way),
                Verdict::Stalled => {
                    self.lift(way);
                    self.go_up(metric, reading.memory_bytes);
                }
            }
        }
    }

    fn lift(&mut self, way: Way) {
        // Where the kernel refuses, the job stays slow; the next change of its limits lifts that too.
        let _ = self.prepared.job.slow(way, None);
        self.throttles[way as usize] = None;
    }

    /// It was slowed down and did not get on.
    fn go_up(&mut self, metric: Metric, memory_bytes: u64) {
        if let Some(breach) = next_rung(self.prepared.job.monitor().thresholds(), metric, memory_bytes) {
            self.breached(breach);
        }
    }

    /// In which ways the job is slowed down.
    pub(super) fn throttled(&self) -> impl Iterator<Item = Way> {
        Way::ALL.into_iter().zip(&self.throttles).filter(|(_, throttle)| throttle.is_some()).map(|(way, _)| way)
    }

    /// The limits were changed, which lets the job run on as fast as they allow.
    pub(super) fn forget_throttles(&mut self) {
        self.throttles = [None; Way::ALL.len()];
    }

    /// How long a freeze by a limit lasts.
    fn freeze_time(&self) -> Duration {
        let spec = &self.prepared.spec;
        let rule = spec.thaw.filter(|rule| self.released < rule.most);
        rule.map_or(spec.freeze_max, |rule| rule.after.min(spec.freeze_max))
    }

    /// Whether the end of a freeze by a limit lets the job run on.
    pub(super) fn may_be_released(&self) -> bool {
        let spec = &self.prepared.spec;
        spec.thaw.is_some_and(|rule| self.released < rule.most && rule.after < spec.freeze_max)
    }

    /// It was let run on by its rule: what it does from now on is judged afresh.
    pub(super) fn count_release(&mut self) {
        self.released += 1;
        self.prepared.job.judge_afresh();
        self.forget_throttles();
        for way in Way::ALL {
            self.lift(way);
        }
    }
}
