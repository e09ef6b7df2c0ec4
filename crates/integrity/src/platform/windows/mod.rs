//! Windows: names relative to open directories, by the native interface; times, attributes and access rules by handle; streams.

pub(super) mod meta;
pub(super) mod names;
mod native;
pub(super) mod owner;
mod privileges;
pub(super) mod processes;
mod reparse;
mod security;
pub(crate) mod streams;
pub(super) mod tree;
