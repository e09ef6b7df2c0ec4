//! The guardian: the small process that holds one job and is the workload's parent.
//!
//! It is the same executable as the program that starts it, entered by [`enter`] before anything else runs, and it has
//! one thread. It samples its job, applies the limit ladder by itself, and answers on a datagram socket, or on Windows a named
//! pipe. When it dies, its job dies with it where the kernel offers that.

mod client;
mod evidence;
mod health;
pub mod http;
#[cfg(target_os = "linux")]
mod linux;
mod log;
mod outcome;
mod server;
mod spec;
mod start;
pub mod table;
#[cfg(windows)]
mod windows;
pub mod wire;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(windows)]
use windows as platform;

pub use client::{Answer, Client};
pub use evidence::{Evidence, KernelLines, LastOutput, Looked, MemoryMap, Recorder, Socket};
pub use health::NotifySpec;
pub use log::LogSpec;
pub use platform::{Watched, Writing, order};
pub use spec::{Ask, GuardianSpec, OnBrainLoss, OnBreach, StopStep, ThawRule};
pub use start::{ARGUMENT, Guardian, OWN_VARIABLES, Streams, enter, start, start_placed};

/// What wakes a guardian up.
struct Sources<'a> {
    listener: &'a platform::Listener,
    now_file: &'a platform::NowFile,
    signals: &'a platform::Signals,
    notify: Option<&'a platform::Notify>,
    brain: Option<&'a platform::Watched>,
    job: &'a dyn crate::job::Job,
    /// Whether the kernel is heard that tells of limits.
    limits: bool,
}

/// Where what is left of a log begins, behind the hole that a guardian has made of its oldest part: in bytes from its beginning.
pub fn first_data(log: &std::fs::File) -> u64 {
    platform::first_data(log)
}

/// The process `pid`, as records and [`GuardianSpec::brain`] name it. `None` if there is none.
pub fn process_id(pid: u32) -> Option<crate::job::ProcessId> {
    platform::identity(pid)
}
