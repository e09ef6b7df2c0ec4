//! What following processes has from Windows: looks at what a job's guardian lists. Nobody tells of processes: the job object
//! tells only its guardian, which has other things to do.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::lineage::{Event, Seen, Taken, Used};
use super::words::Raw;
use crate::guardian::Client;
use crate::job::ProcessId;
use crate::job::windows::{processes, usage};
use crate::registry::{Entry, JobDir};

/// Between 1601, from which start times are counted in 100 ns, and 1970.
const EPOCHS: i64 = 11_644_473_600;

/// Wakes the tracker up.
#[derive(Clone, Debug)]
pub(super) struct Waker(Arc<(Mutex<bool>, Condvar)>);

impl Waker {
    pub(super) fn new() -> crate::Result<Self> {
        Ok(Self(Arc::default()))
    }

    pub(super) fn wake(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_one();
    }
}

/// Where the word of processes would come from.
#[derive(Debug)]
pub(super) struct Stream;

impl Stream {
    pub(super) fn open() -> Self {
        Self
    }

    #[expect(clippy::unused_self, reason = "elsewhere it depends")]
    pub(super) fn is_told(&self) -> bool {
        false
    }

    pub(super) fn close(&mut self) {}

    /// Waits at most `limit` to be woken up.
    #[expect(clippy::unused_self, reason = "elsewhere there is more to wait for")]
    pub(super) fn wait(&self, waker: &Waker, limit: Duration) {
        let (woken, changed) = &*waker.0;
        let guard = woken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, limit, |woken| !*woken);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    /// Rests between looks: these are far enough apart.
    pub(super) fn rest(_waker: &Waker, _limit: Duration) {}

    #[expect(clippy::unused_self, reason = "elsewhere there is something to take")]
    pub(super) fn take(&mut self, _each: impl FnMut(Event)) -> Taken {
        Taken::default()
    }

    #[expect(clippy::unused_self, reason = "elsewhere there is something to take")]
    pub(super) fn take_used(&mut self, _each: impl FnMut(u32, Used)) {}
}

/// Looks cost what their share of the time allows: nothing else is done here.
pub(super) fn own_cpu() -> Duration {
    Duration::ZERO
}

/// The processes of the job. `None` if its guardian does not answer.
pub(super) fn look(dir: &JobDir, _entry: &Entry) -> Option<Vec<Seen>> {
    let processes = Client::new(dir).ok()?.listing().ok()?.processes;
    Some(
        processes
            .into_iter()
            .map(|process| {
                let used = usage(process.id.pid);
                let since_1601 = i64::try_from(process.id.start_time / 10).unwrap_or(i64::MAX);
                let started = Timestamp::from_microsecond(since_1601.saturating_sub(EPOCHS * 1_000_000));
                Seen {
                    id: process.id,
                    parent: process.parent,
                    command: process.command,
                    state: process.state,
                    user: None,
                    started: started.unwrap_or(Timestamp::UNIX_EPOCH),
                    cpu: used.map(|used| used.cpu),
                    memory: process.memory_bytes,
                    memory_peak: Some(process.memory_bytes),
                    dead: false,
                    exit: None,
                }
            })
            .collect(),
    )
}

/// What the process `id` is called with.
pub(super) fn words(id: ProcessId) -> Option<Raw> {
    let arguments = processes::command_line(id).into_bytes();
    // Its name is known from the list.
    (!arguments.is_empty()).then_some(Raw { command: String::new(), arguments, cut: false })
}

/// Users have no numbers here.
pub fn owner_of(_number: u32) -> Option<String> {
    None
}
