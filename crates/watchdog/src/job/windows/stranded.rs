//! Ending a job whose guardian does not. The job is the guardian's alone, and ends with it: so either the guardian is there, and
//! its job can be taken from it, or both have gone.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::WindowsJob;
use super::object::JobObject;
use super::processes::Held;
use crate::job::{Job as _, Proof};
use crate::registry::{Entry, Owner};

/// How long one round of the kill is waited for before the next.
const ROUND: Duration = Duration::from_millis(10);
/// How long a guardian is waited for that was ended in place of its job.
const GUARDIAN_LIMIT: Duration = Duration::from_secs(5);

/// A job that is ended from outside.
#[derive(Debug)]
pub struct Stranded {
    guardian: Option<Held>,
    job: Option<RefCell<WindowsJob>>,
    /// What could not be opened.
    doubt: Option<String>,
}

/// How ending a job went.
#[derive(Debug)]
pub struct Ending {
    /// What proves it, or what is left.
    pub proof: Proof,
    /// Why it is not proven though nothing was found.
    pub doubt: Option<String>,
}

impl Stranded {
    /// Takes the job that `entry` names from its guardian, as far as that is still the process of the record.
    pub fn open(entry: &Entry, _alive: bool, _owner: Owner) -> Self {
        let (guardian, mut doubt) = match Held::open_guardian(entry.guardian) {
            Ok(guardian) => (guardian, None),
            Err(error) => (None, Some(format!("cannot reach the guardian, process {}: {error}", entry.guardian.pid))),
        };
        let object =
            guardian.as_ref().zip(entry.handle.object).map(|(held, number)| JobObject::of_guardian(held, number));
        let job = match object {
            Some(Ok(object)) => Some(RefCell::new(WindowsJob::of(object))),
            // It may have ended in this moment.
            Some(Err(_)) if guardian.as_ref().is_some_and(Held::has_ended) => None,
            Some(Err(error)) => {
                doubt = Some(format!("cannot take the job from its guardian: {error}"));
                None
            }
            None => None,
        };
        Self { guardian: guardian.filter(|guardian| !guardian.has_ended()), job, doubt }
    }

    /// How many processes it has.
    pub fn count(&self) -> u64 {
        self.job.as_ref().map_or(0, |job| job.borrow_mut().count())
    }

    /// Whether it is certain that nothing is left.
    pub fn is_over(&self) -> bool {
        match &self.job {
            Some(job) => job.borrow_mut().is_empty(),
            None => self.guardian.is_none() && self.doubt.is_none(),
        }
    }

    /// Whether the process `pid` is in it.
    pub fn holds(&self, pid: u32) -> bool {
        self.job.as_ref().is_some_and(|job| job.borrow().holds(pid))
    }

    /// Kills until it is empty or `limit` is over, and proves it.
    pub fn end(&self, limit: Duration) -> Ending {
        let Some(job) = &self.job else { return self.end_guardian(limit) };
        let mut job = job.borrow_mut();
        let started = Instant::now();
        loop {
            job.kill();
            if job.wait_empty(ROUND) || started.elapsed() >= limit {
                return Ending { proof: job.prove(), doubt: None };
            }
        }
    }

    /// Where the job cannot be taken from it, the guardian itself is ended: the job ends with it.
    fn end_guardian(&self, limit: Duration) -> Ending {
        let Some(guardian) = &self.guardian else {
            let empty = self.doubt.is_none();
            let by = if empty { vec!["its guardian has gone, and with it the job".to_owned()] } else { Vec::new() };
            return Ending { proof: Proof { empty, by, survivors: Vec::new() }, doubt: self.doubt.clone() };
        };
        guardian.terminate();
        let ended = guardian.wait(limit.min(GUARDIAN_LIMIT));
        let doubt = if ended { self.doubt.clone() } else { Some("its guardian does not end".to_owned()) };
        Ending { proof: Proof { empty: false, by: Vec::new(), survivors: Vec::new() }, doubt }
    }

    /// Lets the guardian run again if it is suspended: there is nothing left for it to guard, and somebody waits for its end.
    pub fn wake_guardian(&self) {
        if let Some(guardian) = &self.guardian {
            guardian.resume();
        }
    }

    /// There is nothing to remove.
    pub fn release(&self, _entry: Option<&Entry>) {}
}

/// The jobs that no record leads to.
#[derive(Debug, Default)]
pub struct Unrecorded {
    /// Where they were looked for.
    pub searched: Vec<String>,
    /// What was found, with the names of the jobs.
    pub found: Vec<(String, Stranded)>,
    /// Why that may not be all.
    pub doubts: Vec<String>,
}

/// Job objects have no names here by which they could be found: nobody is to open one who has no right to.
pub fn unrecorded(_instance: Option<&str>, _wanted: &dyn Fn(&str) -> bool, _settled: &[PathBuf]) -> Unrecorded {
    Unrecorded::default()
}

/// Whether a record is this user's: no other is read.
pub fn is_own((): Owner) -> bool {
    true
}
