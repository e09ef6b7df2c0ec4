//! What a guardian does for those who speak to it.

use std::time::{Duration, Instant};

use super::{Holder, Server, Trigger, WAITING_LIMIT};
use crate::guardian::platform::{self, Received, Return, Watched, authorize, own_id};
use crate::guardian::table::{Action, Event, State, action};
use crate::guardian::wire::{DATAGRAM_LIMIT, Listing, Order, Reply, ReplyKind, Status, UNHEALTHY, Verb};
use crate::job::Limits;
use crate::ladder::Thresholds;
use crate::registry::{RunDir, is_below_a_guardian};
use crate::stop::{Category, StoppedBy};

impl Server {
    pub(super) fn read_orders(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(received) = self.prepared.listener.receive(&mut buffer) {
            let (head, _) = buffer.split_at(received.length.min(DATAGRAM_LIMIT));
            self.read_order(&received, head);
        }
        self.buffer = buffer;
    }

    fn read_order(&mut self, received: &Received, bytes: &[u8]) {
        let Some(order) = Order::decode(bytes) else { return };
        let from = received.from.as_ref();
        match authorize(received.peer.as_ref(), self.prepared.job.job(), order.verb == Verb::Now) {
            Err(reason) => self.refuse(from, order.request, reason),
            // Only the emergency weakens no guard, and waits for no look at files.
            Ok(peer) if order.verb != Verb::Now && self.is_from_another_job(peer.pid) => {
                self.refuse(from, order.request, "the caller is inside another job");
            }
            Ok(peer) => self.obey(&order, from, peer.pid),
        }
    }

    fn is_from_another_job(&self, peer: u32) -> bool {
        is_below_a_guardian(&RunDir::at(&self.prepared.spec.run_dir), peer)
    }

    fn obey(&mut self, order: &Order<'_>, from: Option<&Return>, peer: u32) {
        let request = order.request;
        match order.verb {
            Verb::Status => self.answer(from, request, &self.status()),
            Verb::Inspect => {
                let listing = Listing::of(self.prepared.job.processes(usize::MAX));
                self.answer(from, request, &listing);
            }
            Verb::Signal => {
                let result = i32::try_from(order.number).map_err(|_| "there is no such signal".to_owned());
                self.conclude(
                    from,
                    request,
                    result.and_then(|signal| self.prepared.job.signal(signal).map_err(|error| error.to_string())),
                );
            }
            Verb::Run => self.run_command(order, from),
            Verb::SetLimits => {
                let result = self.set_limits(order.body);
                self.conclude(from, request, result);
            }
            Verb::Adopt => {
                self.adopt(peer);
                self.answer(from, request, &self.status());
            }
            Verb::Freeze | Verb::Thaw => self.freeze_or_thaw(order, from),
            Verb::Stop | Verb::Now => self.stop_ordered(order, from),
        }
    }

    fn freeze_or_thaw(&mut self, order: &Order<'_>, from: Option<&Return>) {
        let event = if order.verb == Verb::Freeze { Event::Freeze } else { Event::Thaw };
        if let Action::Refuse(reason) = action(self.state, event) {
            return self.refuse(from, order.request, reason);
        }
        if event == Event::Freeze && !self.prepared.spec.freezable {
            return self.refuse(from, order.request, "this workload is declared `freezable = false`");
        }
        let lease = u64::try_from(order.number).ok().filter(|number| *number > 0).map(Duration::from_millis);
        match event {
            Event::Freeze => self.hold(lease),
            _ if lease.is_some() => self.end_lease(),
            _ => self.happen(Event::Thaw, Category::Ask, None),
        }
        if event == Event::Freeze && !self.confirmed {
            // A snapshot must not be called one moment when it is not. Without a lease the freeze stays asked for.
            if lease.is_some() {
                self.end_lease();
            }
            return self.refuse(
                from,
                order.request,
                "the kernel has not confirmed the freeze; something waits uninterruptibly",
            );
        }
        self.answer(from, order.request, &self.status());
    }

    /// Freezes for an operator, or for as long as a lease. A lease never loosens what an operator, or the loss of the brain,
    /// holds; an operator's freeze outlasts every lease.
    fn hold(&mut self, lease: Option<Duration>) {
        let until = Instant::now() + lease.unwrap_or(self.prepared.spec.freeze_max);
        match (self.state, lease) {
            (State::Running, _) => {
                self.happen(Event::Freeze, Category::Ask, lease);
                self.holder = if lease.is_some() { Holder::Leases(1) } else { Holder::Operator };
            }
            (State::Frozen, Some(_)) => {
                if let Holder::Leases(count) = &mut self.holder {
                    *count += 1;
                    self.deadline = self.deadline.max(Some(until));
                }
            }
            (State::Frozen, None) => {
                self.holder = Holder::Operator;
                self.deadline = Some(until);
            }
            (State::Held, None) => self.wanted_frozen = true,
            _ => {}
        }
    }

    /// One of those who wanted it to stand still has what it wanted.
    fn end_lease(&mut self) {
        match &mut self.holder {
            Holder::Leases(count) if *count > 1 => *count -= 1,
            Holder::Leases(_) => self.happen(Event::LeaseOver, Category::Ask, None),
            Holder::Operator | Holder::BrainLoss => {}
        }
    }

    fn stop_ordered(&mut self, order: &Order<'_>, from: Option<&Return>) {
        self.reply(from, ReplyKind::Accepted, order.request, b"");
        if let Some(from) = from
            && self.waiting.len() < WAITING_LIMIT
        {
            self.waiting.push((from.clone(), order.request));
        }
        if order.verb == Verb::Now {
            let incident = (!order.incident.is_empty()).then_some(order.incident);
            let trigger = Trigger::Operator { category: order.category, latch_all: order.latch_all, incident };
            self.emergency(trigger, order.reason);
        } else {
            if self.state != State::Ended {
                let by = if order.number == UNHEALTHY { StoppedBy::Health } else { StoppedBy::Operator };
                self.record.blame(by, order.reason);
            }
            if order.category == Category::Kill {
                self.perform(Action::Kill, Category::Kill, None);
            } else {
                self.happen(Event::Stop, Category::Ask, None);
            }
        }
        if self.state == State::Survivors {
            self.answer_waiting();
        }
    }

    fn status(&self) -> Status {
        let job = &self.prepared.job;
        let sample = job.last_sample();
        Status {
            name: job.spec().name.clone(),
            id: job.spec().id.clone(),
            state: self.state,
            guardian: own_id(),
            main: job.main(),
            tier: job.job().tier(),
            isolation: job.isolation(),
            reachable: job.job().reachable(),
            enforced: job.job().enforced(),
            limits: self.prepared.spec.job.limits,
            thresholds: self.prepared.spec.thresholds,
            processes: sample.map_or(0, |sample| sample.processes),
            cpu_cores: sample.map_or(0.0, |sample| sample.cpu_cores),
            memory_bytes: sample.map_or(0, |sample| sample.memory_bytes),
            peak: job.monitor().peak(),
            uptime_seconds: job.monitor().started().elapsed().as_secs_f64(),
            stop_seconds: self.prepared.spec.stop.iter().map(|step| step.wait.as_secs_f64()).sum(),
            last_breach: self.last_breach,
            throttled: self.throttled().collect(),
            ready: self.prepared.said.as_ref().map(|said| said.ready),
            said: self.prepared.said.as_ref().map(|said| said.status.clone()).unwrap_or_default(),
            thaws: self.thaws,
        }
    }

    fn set_limits(&mut self, body: &[u8]) -> std::result::Result<(), String> {
        let (limits, thresholds): (Limits, Thresholds) =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        self.prepared.job.set_limits(limits, thresholds).map_err(|error| {
            self.throttle_again();
            error.to_string()
        })?;
        let spec = &mut self.prepared.spec;
        (spec.job.limits, spec.thresholds) = (limits, thresholds);
        self.forget_throttles();
        Ok(())
    }

    fn adopt(&mut self, pid: u32) {
        self.brain = platform::identity(pid).and_then(Watched::open);
        self.brain_lost = None;
        if self.holder == Holder::BrainLoss {
            self.happen(Event::Adopted, Category::Ask, None);
        }
    }

    fn conclude(&self, to: Option<&Return>, request: u64, result: std::result::Result<(), String>) {
        match result {
            Ok(()) => self.answer(to, request, &self.status()),
            Err(reason) => self.refuse(to, request, &reason),
        }
    }

    pub(super) fn answer_waiting(&mut self) {
        for (to, request) in std::mem::take(&mut self.waiting) {
            match &self.record.report {
                Some(report) => self.answer(Some(&to), request, report),
                None => self.refuse(Some(&to), request, "the job had ended by itself"),
            }
        }
    }

    pub(super) fn answer(&self, to: Option<&Return>, request: u64, body: &impl serde::Serialize) {
        self.reply(to, ReplyKind::Done, request, &serde_json::to_vec(body).unwrap_or_default());
    }

    pub(super) fn refuse(&self, to: Option<&Return>, request: u64, reason: &str) {
        self.reply(to, ReplyKind::Refused, request, &serde_json::to_vec(reason).unwrap_or_default());
    }

    fn reply(&self, to: Option<&Return>, kind: ReplyKind, request: u64, body: &[u8]) {
        if let Some(to) = to {
            // A caller that has gone, or does not read, gets no answer; it looks at the job itself then.
            let _ = self.prepared.listener.send(&Reply { kind, request, body }.encode(), to);
        }
    }
}
