//! What differs between operating systems: walking and changing a tree by handle, metadata, owners, who has files open. One folder
//! for each, with the same names in both.

#[cfg(target_os = "linux")]
mod linux;
mod node;
mod open_by;
#[cfg(windows)]
#[allow(
    unsafe_code,
    reason = "the standard library opens nothing relative to an open directory, and knows no access rules"
)]
mod windows;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

pub(crate) use node::{Listed, NodeKind, Refusal, Stat};
pub use open_by::OpenBy;
pub(crate) use system::meta::{Privileges, fresh, meta_detail, read_attributes, same_meta, set_mode, write_meta};
pub use system::names::quoted;
pub(crate) use system::names::{from_path, given, same_name, to_path};
pub(crate) use system::owner::{Ownership, exposure, let_owner_in};
pub(crate) use system::processes::open_for_writing;
pub(crate) use system::streams;
pub(crate) use system::tree::{AsNative, CLOCK_STEP_NANOSECONDS, Tree, clock, device_of, refusal};
