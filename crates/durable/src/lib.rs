//! The ground under estop's pillars: the few durable writes that everything else needs, done right once.
//!
//! * [`chain`]: append-only segments of records, each chained to the one before by its hash.
//! * [`lines`]: the same idea as readable JSON lines.
//! * [`sealed`]: a small file with kind, version and checksum, replaced as a whole.
//! * [`slot`]: a preallocated file that can be rewritten when the disk is full.
//! * [`replace`]: atomic replace and directory synchronisation.
//! * [`mod@file`]: positions, modes and renames, on every platform.
//! * [`lock`]: a lock that the kernel releases when its holder dies.
//!
//! Two rules hold everywhere. A write is acknowledged only after the device was told to keep it; and a
//! failed synchronisation is final: the pages are marked clean by the kernel, so trying again would report
//! a success that never was.
#![deny(unsafe_code)]

pub mod chain;
mod error;
pub mod file;
pub mod lines;
pub mod lock;
mod platform;
pub mod replace;
pub mod sealed;
pub mod slot;

pub use error::{Error, Result};
#[cfg(windows)]
pub use platform::{access, holders, privileges};

/// What a file is. Stands in every file's header, so that one file is never read as another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub [u8; 8]);

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({})", self.0.escape_ascii())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
