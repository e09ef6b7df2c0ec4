//! The guardian: the small process that holds one job and is the workload's parent.
//!
//! It is the same executable as the program that starts it, entered by [`enter`] before anything else runs, and it has
//! one thread. It samples its job, applies the limit ladder by itself, and answers on a datagram socket. When it dies, its
//! job dies with it where the kernel offers that.

mod client;
mod evidence;
mod log;
mod outcome;
mod server;
mod sockets;
mod spec;
mod start;
mod surroundings;
pub mod table;
pub mod wire;

pub use client::{Answer, Client};
pub use evidence::{Evidence, Recorder};
pub use log::LogSpec;
pub use spec::{GuardianSpec, OnBrainLoss, OnBreach};
pub use start::{ARGUMENT, Guardian, OWN_VARIABLES, Streams, enter, start};
