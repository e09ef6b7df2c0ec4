#![doc = include_str!("../README.md")]
#![cfg_attr(unix, forbid(unsafe_code))]
#![cfg_attr(windows, deny(unsafe_code))]

mod catalogue;
mod content;
mod error;
pub mod log;
mod observe;
pub mod operations;
mod path;
mod place;
mod platform;
pub mod progress;
pub mod rollback;
pub mod root;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod transaction;
pub mod verify;
pub mod writers;

pub use content::{ContentId, Mark};
pub use error::{Error, Result};
pub use log::TransactionLog;
pub use observe::{Coverage, Skip, SkipReason, Skipped, Unstable};
pub use path::StorePath;
pub use platform::{OpenBy, quoted};
pub use rollback::{RecoveryPoint, RollbackReport, RollbackRequest};
pub use snapshot::{KBSnapshot, NewSnapshot, Origin, SnapshotManager};
pub use store::{Store, StoreConfig};
pub use transaction::{CommitReport, Transaction, TransactionId};
pub use writers::{NoWriters, Writers};
