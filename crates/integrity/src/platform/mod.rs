//! What differs between operating systems: walking and changing a tree by descriptor, metadata, who has files open.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::meta::{Privileges, read_attributes, write_meta, write_symlink_meta};
#[cfg(target_os = "linux")]
pub use linux::processes::OpenBy;
#[cfg(target_os = "linux")]
pub(crate) use linux::processes::open_for_writing;
#[cfg(target_os = "linux")]
pub(crate) use linux::tree::{NodeKind, Stat, Tree, clock, device_of, owner_and_mode, user};
