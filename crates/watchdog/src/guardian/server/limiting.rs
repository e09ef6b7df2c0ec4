//! What a guardian does about limits: takes samples, warns, slows the job down, lets it run on, freezes and stops it.

use std::time::{Duration, Instant};

use super::{Event, Server, State, Trigger};
use crate::guardian::log::Log;
use crate::guardian::platform;
use crate::guardian::spec::event_of;
use crate::job::{PLACES_OF_LIMITS, Way, Woken};
use crate::ladder::{Breach, Metric, Rung};
use crate::stop::{Category, StoppedBy};
use crate::throttle::{QUARTER, Shown, Throttle, Verdict, next_rung, way_of};

/// The share of one core that sampling may cost. Where a sample is dear, fewer are taken.
const SAMPLING_SHARE: f64 = 0.01;
/// So much more than its share it may cost for a moment: what is usual then never keeps the kernel from being heard, which costs
/// one more wake-up each time.
const AT_ONCE: Duration = Duration::from_millis(1);
/// However dear they are, this is the longest time without a sample on that account.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A time that no timer reaches.
const FAR: Duration = Duration::from_hours(24 * 365 * 100);
/// Out of memory is told before the process is ended that had it: so soon is looked again.
const SOON: Duration = Duration::from_millis(10);
/// What the kernel says of others may come without end: so long it is not heard after that.
const OF_OTHERS: Duration = Duration::from_millis(5);

impl Server {
    /// The kernel tells of a limit: that is looked at now, not at the next turn.
    pub(super) fn hear(&mut self, woken: Woken) {
        if woken == Woken::default() {
            return;
        }
        if self.prepared.job.woken(woken) {
            self.sample_in_turn();
            self.next_sample = self.next_sample.min((Instant::now() + SOON).max(self.affordable));
        } else if PLACES_OF_LIMITS.into_iter().any(|place| woken.has(place)) {
            self.affordable = self.affordable.max(Instant::now() + OF_OTHERS);
        }
    }

    /// Until when the kernel is not heard that tells of limits: the last samples have used up what samples may cost, or it has just
    /// said something of others.
    pub(super) fn deaf_to_limits_until(&self) -> Option<Instant> {
        Some(self.affordable).filter(|at| Instant::now() < *at)
    }

    /// Takes a sample, and says when the next one is due.
    pub(super) fn sample_in_turn(&mut self) {
        let cost = self.sample();
        self.affordable = affordable(self.affordable, Instant::now(), cost);
        self.next_sample = self.due((Instant::now() + self.sample_interval).max(self.affordable));
    }

    /// The next sample is due at `at`, or when the run time or the processor time can be used up before that.
    fn due(&self, at: Instant) -> Instant {
        let monitor = self.prepared.job.monitor();
        let thresholds = monitor.thresholds();
        let reached = monitor.last().map_or(0.0, |sample| sample.at_seconds);
        let in_seconds = |seconds| monitor.started() + Duration::try_from_secs_f64(seconds).unwrap_or(FAR);
        let time = thresholds.time.next_above(reached).map(in_seconds);
        let used = monitor.last_reading().cpu.as_secs_f64();
        let cpu_time = thresholds.cpu_time.next_above(used).map(|seconds| self.earliest(seconds - used));
        // The earliest moment comes again and again, each time a little nearer.
        let cpu_time = cpu_time.map(|earliest| earliest.max(self.affordable));
        [time, cpu_time].into_iter().flatten().fold(at, Instant::min)
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

    /// Takes a sample and acts on what it shows. Returns what it cost, in time of a processor.
    pub(super) fn sample(&mut self) -> Duration {
        if let Some(log) = &mut self.prepared.log {
            log.bound();
        }
        let before = platform::used();
        let written = self.prepared.log.as_ref().and_then(Log::written);
        let breach = self.prepared.job.sample(written);
        let cost = platform::used().saturating_sub(before);
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
                // The kernel may say again and again that it refuses more of the same.
                if self.state == State::Held {
                    return;
                }
                let longest = self.begin_hold();
                self.happen(event, Category::Ask, Some(longest));
                if self.state == State::Held {
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
        if self.throttles.has(breach.metric) {
            return;
        }
        let reading = *self.prepared.job.monitor().last_reading();
        for (way, to) in [way_of(breach, reading.memory_charged_bytes), (Way::Cpu, QUARTER)] {
            let bound = self.throttles.bound(way, None).map_or(to, |bound| bound.min(to));
            if self.prepared.job.slow(way, Some(bound)).is_ok() {
                return self.throttles.add(Throttle::new(breach.metric, way, to, reading.memory_slowed));
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
        let (slowed, memory_bytes) = (monitor.last_reading().memory_slowed, monitor.last_reading().memory_bytes);
        let cpu_cores = monitor.last().map_or(0.0, |sample| sample.cpu_cores);
        let verdict = self.throttles.iter_mut().find_map(|throttle| {
            let shown = Shown { standing: monitor.standing(throttle.metric), slowed, cpu_cores };
            match throttle.observe(now, shown) {
                Verdict::Stay => None,
                verdict => Some((verdict, throttle.metric, throttle.way)),
            }
        });
        // One at a time: what it leads to may end the job. The others are looked at with the next sample.
        let Some((verdict, metric, way)) = verdict else { return };
        self.lift(metric, way);
        if verdict == Verdict::Stalled
            && let Some(breach) = next_rung(self.prepared.job.monitor().thresholds(), metric, memory_bytes)
        {
            self.breached(breach);
        }
    }

    /// Because of `metric` it is slowed down no more. Where the kernel refuses, that is tried again with the next sample.
    fn lift(&mut self, metric: Metric, way: Way) {
        let rest = self.throttles.bound(way, Some(metric));
        if self.prepared.job.slow(way, rest).is_ok() {
            self.throttles.remove(metric);
        }
    }

    /// In which ways the job is slowed down.
    pub(super) fn throttled(&self) -> impl Iterator<Item = Way> {
        self.throttles.ways()
    }

    /// The limits were changed, which lets the job run on as fast as they allow.
    pub(super) fn forget_throttles(&mut self) {
        self.throttles.clear();
    }

    /// The limits were to be changed and are not, which has set those from before again.
    pub(super) fn throttle_again(&mut self) {
        for way in Way::ALL {
            if let Some(bound) = self.throttles.bound(way, None) {
                // As for the first time: where the kernel refuses, the ladder goes on.
                let _ = self.prepared.job.slow(way, Some(bound));
            }
        }
    }

    /// A limit has frozen the job: for how long.
    fn begin_hold(&mut self) -> Duration {
        let spec = &self.prepared.spec;
        self.held_until = Some(Instant::now() + spec.freeze_max);
        let rule = spec.thaw.filter(|_| self.may_be_released());
        rule.map_or(spec.freeze_max, |rule| rule.after.min(spec.freeze_max))
    }

    /// Whether the workload's rule lets it run on after a freeze by a limit: not while somebody else wants it frozen.
    fn may_be_released(&self) -> bool {
        !self.wanted_frozen && self.prepared.spec.thaw.is_some_and(|rule| self.released < rule.most)
    }

    /// The time of a freeze by a limit is over, or that of the rule by which it runs on: what follows, if anything does yet.
    pub(super) fn end_hold(&mut self) -> Option<Event> {
        let longest = self.held_until.filter(|until| Instant::now() < *until);
        if longest.is_some() && !self.may_be_released() {
            // Somebody else wants it frozen.
            self.deadline = longest;
            return None;
        }
        Some(longest.map_or(Event::Deadline, |_| Event::Release))
    }

    /// It was let run on by its rule: what it does from now on is judged afresh.
    pub(super) fn count_release(&mut self) {
        self.released += 1;
        self.record.breach = None;
        self.prepared.job.judge_afresh();
        for way in Way::ALL {
            // Where the kernel refuses, the next change of limits lifts it.
            let _ = self.prepared.job.slow(way, None);
        }
        self.throttles.clear();
    }
}

/// When the next sample may be taken, after one at `now` that has cost so much and before which `since` was that moment (the
/// "Generic Cell Rate Algorithm": ITU-T I.371, A.1).
fn affordable(since: Instant, now: Instant, cost: Duration) -> Instant {
    let ahead = AT_ONCE.div_f64(SAMPLING_SHARE);
    let earned = now.checked_sub(ahead).map_or(since, |at| since.max(at));
    (earned + cost.div_f64(SAMPLING_SHARE)).min(now + LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_never_makes_it_deaf_and_what_is_dear_costs_no_more_than_its_share() {
        let ms = Duration::from_millis;
        let mut now = Instant::now() + ms(10_000);
        let mut may = now;
        for _ in 0..100 {
            may = affordable(may, now, Duration::from_micros(300));
            assert!(may < now + ms(100));
            now += ms(100);
        }
        assert!(may < now);
        // As often as the kernel tells: 100 s at most 1 s of a processor, and the little that is ahead.
        let (begun, mut cost) = (now, Duration::ZERO);
        while now < begun + ms(100_000) {
            if may <= now {
                may = affordable(may, now, ms(3));
                cost += ms(3);
            }
            now += ms(1);
        }
        assert!(cost > ms(900) && cost <= ms(1000) + AT_ONCE + ms(3), "{cost:?}");
        assert!(affordable(may, now, ms(60_000)) <= now + LONGEST_PAUSE);
    }
}
