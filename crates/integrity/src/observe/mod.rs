//! Finding out what changed in a store.
//!
//! The one way there is so far is a full scan. Observers that are told by the kernel (fanotify, inotify) stand behind the same
//! trait: they know what may have changed, and look only there.

mod capture;
mod named;
mod scan;
mod walk;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::content::Sink;
use crate::path::StorePath;
use crate::platform::Tree;
use crate::progress::Progress;
use crate::state::{Change, State};

pub(crate) use named::{Named, look_at};
pub(crate) use scan::Scan;

/// So many of the paths that were left out are named.
const NAMED: usize = 20;

/// How it is known that nothing was missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Coverage {
    /// Every name was looked at.
    FullScan,
}

/// Why a name is no part of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// A FIFO, socket or device.
    Special,
    /// Another filesystem is mounted there.
    Mount,
    /// It can't be read: of a file, only its metadata is known; of a directory, what it held stays as it was known.
    Unreadable,
    /// Its path is longer than the system takes.
    TooLong,
}

/// A name that is no part of the state, or only in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Its path.
    pub path: StorePath,
    /// Why.
    pub reason: SkipReason,
}

/// What a snapshot does not hold, though it is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// FIFOs, sockets and devices.
    pub special: u64,
    /// Mount points.
    pub mounts: u64,
    /// Files and directories that can't be read.
    pub unreadable: u64,
    /// Paths longer than the system takes.
    pub too_long: u64,
    /// The first of them.
    pub first: Vec<Skip>,
}

impl Skipped {
    fn add(&mut self, path: StorePath, reason: SkipReason) {
        *match reason {
            SkipReason::Special => &mut self.special,
            SkipReason::Mount => &mut self.mounts,
            SkipReason::Unreadable => &mut self.unreadable,
            SkipReason::TooLong => &mut self.too_long,
        } += 1;
        if self.first.len() < NAMED {
            self.first.push(Skip { path, reason });
        }
    }
}

/// Files that changed each time they were read, so that what was stored may be a mixture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unstable {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<StorePath>,
}

impl Unstable {
    fn add(&mut self, path: StorePath) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path);
        }
    }
}

/// What an observer found.
#[derive(Debug)]
pub(crate) struct Observation {
    /// Against what was known, in order of the paths; also where only the way to recognise a file changed.
    pub(crate) changes: Vec<Change>,
    pub(crate) skipped: Skipped,
    pub(crate) unstable: Unstable,
    pub(crate) coverage: Coverage,
}

/// Finds out what changed in a tree since `known`, and gives the content of what did to `sink`.
pub(crate) trait Observer: Send {
    fn observe(&mut self, tree: &Tree, known: &State, sink: &dyn Sink, progress: &dyn Progress) -> Result<Observation>;
}
