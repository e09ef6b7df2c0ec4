//! Setting the latch beside the stop: a disk that does not answer must not hold it up.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::{Instance, Request};
use crate::guardian::process_id;
use crate::latch::{Entry, Latch};

/// How long the stop waits for the latch.
const LATCH_WAIT: Duration = Duration::from_millis(150);

/// Whether a latch is set.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Set {
    /// It was read back.
    pub(super) latched: bool,
    /// It is on the device.
    pub(super) durable: bool,
}

/// The latches of all instances whose state directories are known, while they are set.
pub(super) struct Latching {
    receiver: Receiver<Set>,
    known: Option<Set>,
}

impl Latching {
    pub(super) fn begin(instances: &[Instance], request: Request<'_>) -> Self {
        let dirs: Vec<PathBuf> = instances.iter().filter_map(|instance| instance.state_dir.clone()).collect();
        let names = request.names.to_vec();
        let orderer = process_id(std::process::id());
        let entry = Entry { orderer, ..Entry::now("operator", request.reason, request.incident) };
        let (sender, receiver) = channel();
        let work = Arc::new(move || set_all(&dirs, &names, &entry));
        let (apart, answer) = (Arc::clone(&work), sender.clone());
        let thread = std::thread::Builder::new().spawn(move || {
            // Whoever waits may have given up.
            let _ = answer.send(apart());
        });
        if thread.is_err() {
            // Where no thread is to be had, a latch that takes its time is better than none.
            let _ = sender.send(work());
        }
        Self { receiver, known: None }
    }

    /// Waits a moment for it.
    pub(super) fn wait(&mut self) {
        self.known = self.receiver.recv_timeout(LATCH_WAIT).ok();
    }

    /// What has become of it by now.
    pub(super) fn result(self) -> Set {
        self.known.or_else(|| self.receiver.try_recv().ok()).unwrap_or_default()
    }
}

fn set_all(dirs: &[PathBuf], names: &[String], entry: &Entry) -> Set {
    let each = |dir: &PathBuf| {
        let all = names.is_empty().then_some(None);
        names.iter().map(|name| Some(name.as_str())).chain(all).map(|name| set(dir, name, entry)).collect::<Vec<_>>()
    };
    dirs.iter().flat_map(each).fold(Set { latched: true, durable: true }, |one, other| Set {
        latched: one.latched && other.latched,
        durable: one.durable && other.durable,
    })
}

fn set(state_dir: &Path, name: Option<&str>, entry: &Entry) -> Set {
    let Ok(handle) = Latch::open(state_dir).and_then(|latch| latch.handle(name)) else { return Set::default() };
    let durable = handle.set(entry).is_ok();
    // A slot that cannot be read holds.
    Set { latched: !matches!(handle.read(), Ok(None)), durable }
}
