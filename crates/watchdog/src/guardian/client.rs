//! Speaking to a guardian.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::platform::{self, Connection};
use super::wire::{DATAGRAM_LIMIT, Listing, Order, Reply, ReplyKind, Status, UNHEALTHY, Verb};
use crate::job::{Exit, Limits};
use crate::ladder::Thresholds;
use crate::registry::JobDir;
use crate::stop::{Category, StopReport};
use crate::{Error, Result};

/// How long an order that is answered at once may take.
const PROMPT: Duration = Duration::from_secs(3);

/// A connection to one guardian.
#[derive(Debug)]
pub struct Client {
    name: String,
    connection: Connection,
    request: u64,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub enum Answer {
    /// Nothing yet.
    Nothing,
    /// The order was accepted.
    Accepted,
    /// The answer, JSON.
    Done(Vec<u8>),
    /// It was refused.
    Refused(String),
}

impl Client {
    /// Prepares to speak to the guardian of the job in `dir`. Does not wait for it.
    ///
    /// # Errors
    /// If the directory is gone or no socket can be had.
    pub fn new(dir: &JobDir) -> Result<Self> {
        Ok(Self {
            name: dir.name().to_owned(),
            connection: Connection::to(dir)?,
            request: u64::from(std::process::id()) << 32,
            buffer: vec![0; DATAGRAM_LIMIT],
        })
    }

    /// Sends an order without waiting for an answer. Its `request` is chosen here.
    ///
    /// # Errors
    /// If the guardian's socket is gone or full.
    pub fn send(&mut self, order: Order<'_>) -> Result<()> {
        // What came before the order cannot answer it. The kernel lets in nothing but the guardian's since the connection;
        // this is for the moment before.
        while self.connection.receive(&mut self.buffer).is_some() {}
        self.request += 1;
        let bytes = Order { request: self.request, ..order }.encode();
        self.connection.send(&bytes).map_err(|source| Error::System { action: "reach the guardian", source })
    }

    /// Waits for the next answer to the last order, at most `wait`.
    pub fn receive(&mut self, wait: Duration) -> Answer {
        let deadline = Instant::now() + wait;
        loop {
            while let Some(length) = self.connection.receive(&mut self.buffer) {
                let reply = Reply::decode(&self.buffer[..length]);
                if let Some(reply) = reply.filter(|reply| reply.request == self.request) {
                    return match reply.kind {
                        ReplyKind::Accepted => Answer::Accepted,
                        ReplyKind::Done => Answer::Done(reply.body.to_vec()),
                        ReplyKind::Refused => Answer::Refused(serde_json::from_slice(reply.body).unwrap_or_default()),
                    };
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Answer::Nothing;
            }
            self.connection.wait(left);
        }
    }

    /// Sends an order and waits for its answer, at most `wait`.
    ///
    /// # Errors
    /// [`Error::NoAnswer`], [`Error::Refused`], or that the guardian cannot be reached.
    pub fn ask<T: DeserializeOwned>(&mut self, order: Order<'_>, wait: Duration) -> Result<T> {
        let started = Instant::now();
        self.send(order)?;
        loop {
            match self.receive(wait.saturating_sub(started.elapsed())) {
                Answer::Accepted => {}
                Answer::Nothing => {
                    return Err(Error::NoAnswer { name: self.name.clone(), seconds: started.elapsed().as_secs_f64() });
                }
                Answer::Refused(reason) => return Err(Error::Refused { name: self.name.clone(), reason }),
                Answer::Done(body) => {
                    return serde_json::from_slice(&body).map_err(|error| Error::Refused {
                        name: self.name.clone(),
                        reason: format!("its answer is not understood: {error}"),
                    });
                }
            }
        }
    }

    /// How the job is.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn status(&mut self) -> Result<Status> {
        self.ask(Order::new(Verb::Status, 0), PROMPT)
    }

    /// The job's processes, without their arguments.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn listing(&mut self) -> Result<Listing> {
        self.ask(Order::new(Verb::Inspect, 0), PROMPT)
    }

    /// The job's processes.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn inspect(&mut self) -> Result<Listing> {
        let mut listing = self.listing()?;
        for process in &mut listing.processes {
            process.arguments = platform::arguments(process.id);
        }
        Ok(listing)
    }

    /// Stops the job; waits at most `wait` for the proof, beyond the time that the workload is given to end by itself.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn stop(&mut self, category: Category, reason: &str, wait: Duration) -> Result<StopReport> {
        self.order_stop(Order { category, reason, ..Order::new(Verb::Stop, 0) }, wait)
    }

    /// Stops the job, which does not do its work any more, as [`Client::stop`] does.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn stop_unhealthy(&mut self, reason: &str, wait: Duration) -> Result<StopReport> {
        self.order_stop(Order { number: UNHEALTHY, reason, ..Order::new(Verb::Stop, 0) }, wait)
    }

    fn order_stop(&mut self, order: Order<'_>, wait: Duration) -> Result<StopReport> {
        let asks = order.category == Category::Ask;
        let given = if asks { self.status().map_or(0.0, |status| status.stop_seconds) } else { 0.0 };
        self.ask(order, wait + Duration::from_secs_f64(given))
    }

    /// Runs the further command `command` inside the job; waits at most `wait` for its end.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn run(&mut self, command: usize, wait: Duration) -> Result<Exit> {
        let number = i64::try_from(command).unwrap_or(i64::MAX);
        self.ask(Order { number, ..Order::new(Verb::Run, 0) }, wait)
    }

    /// Freezes the job; with a `lease`, for at most that long.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn freeze(&mut self, lease: Option<Duration>) -> Result<Status> {
        let number = lease.map_or(0, |lease| i64::try_from(lease.as_millis()).unwrap_or(i64::MAX).max(1));
        self.ask(Order { number, ..Order::new(Verb::Freeze, 0) }, PROMPT)
    }

    /// Thaws the job.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn thaw(&mut self) -> Result<Status> {
        self.ask(Order::new(Verb::Thaw, 0), PROMPT)
    }

    /// Ends a lease: the job runs on, unless somebody else holds it.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn end_lease(&mut self) -> Result<Status> {
        self.ask(Order { number: 1, ..Order::new(Verb::Thaw, 0) }, PROMPT)
    }

    /// Sends a signal to the main process.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn signal(&mut self, signal: i32) -> Result<Status> {
        self.ask(Order { number: signal.into(), ..Order::new(Verb::Signal, 0) }, PROMPT)
    }

    /// Changes limits and thresholds.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn set_limits(&mut self, limits: &Limits, thresholds: &Thresholds) -> Result<Status> {
        let body = serde_json::to_vec(&(limits, thresholds)).unwrap_or_default();
        self.ask(Order { body: &body, ..Order::new(Verb::SetLimits, 0) }, PROMPT)
    }

    /// Makes this process the guardian's brain.
    ///
    /// # Errors
    /// As for [`Client::ask`].
    pub fn adopt(&mut self) -> Result<Status> {
        self.ask(Order::new(Verb::Adopt, 0), PROMPT)
    }
}
