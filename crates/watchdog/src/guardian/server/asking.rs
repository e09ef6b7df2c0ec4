//! Asking a workload something: to end, step by step; whether it is well; and further commands that others have run.

use std::time::{Duration, Instant};

use super::{Probe, Server};
use crate::guardian::http;
use crate::guardian::platform::Return;
use crate::guardian::spec::Ask;
use crate::guardian::table::{Event, State};
use crate::guardian::wire::Order;
use crate::stop::{Category, StoppedBy};

impl Server {
    /// Takes the next step of the stop. One that cannot be taken is over at once; after the last one comes the kill.
    pub(super) fn take_step(&mut self) {
        let Some(step) = self.asking.and_then(|next| self.prepared.spec.stop.get(next)).cloned() else {
            self.asking = None;
            self.deadline = Some(Instant::now());
            return;
        };
        self.asking = self.asking.map(|next| next + 1);
        let taken = match step.ask {
            // A program that has ended meanwhile is noticed by the next look.
            Ask::Signal(signal) => self.prepared.job.signal(signal).is_ok(),
            Ask::Run(command) => self.prepared.job.run(command).is_ok(),
            Ask::Http(url) => self.helpers.begin(move || http::post(&url, step.wait).is_ok()),
        };
        self.deadline = Some(Instant::now() + if taken { step.wait } else { Duration::ZERO });
    }

    /// Whoever waits for a further command is told how it has ended. A step of the stop that has failed is not waited for.
    pub(super) fn look_at_commands(&mut self) {
        let mut failed = self.helpers.has_failed();
        while let Some((command, exit)) = self.prepared.job.take_result() {
            match self.probes.iter().position(|probe| probe.command == command) {
                Some(index) => {
                    let probe = self.probes.swap_remove(index);
                    self.answer(Some(&probe.to), probe.request, &exit);
                }
                None => failed |= exit.code != Some(0),
            }
        }
        if failed && self.state == State::Stopping && self.asking.is_some() {
            self.deadline = Some(Instant::now());
        }
    }

    /// One that says no more that it is alive, where it is to say so, is stopped; it may be started again.
    pub(super) fn look_at_health(&mut self) {
        let Some(said) = &self.prepared.said else { return };
        if self.state == State::Running
            && let Some(reason) = said.fault()
        {
            self.record.blame(StoppedBy::Health, &reason);
            self.happen(Event::Stop, Category::Ask, None);
        }
    }

    /// Has a further command run; answers when it has ended.
    pub(super) fn run_command(&mut self, order: &Order<'_>, from: Option<&Return>) {
        let Some(to) = from else { return };
        let command = usize::try_from(order.number).unwrap_or(usize::MAX);
        if self.state != State::Running {
            return self.refuse(from, order.request, "the workload does not run");
        }
        if self.probes.iter().any(|probe| probe.command == command) {
            return self.refuse(from, order.request, "the last one of it still runs");
        }
        match self.prepared.job.run(command) {
            Ok(()) => self.probes.push(Probe { command, to: to.clone(), request: order.request }),
            Err(error) => self.refuse(from, order.request, &error.to_string()),
        }
    }
}
