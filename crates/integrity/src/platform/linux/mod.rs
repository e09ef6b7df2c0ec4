//! Linux: `openat2`, `statx`, extended attributes, `/proc`.

pub(super) mod meta;
pub(super) mod names;
pub(super) mod owner;
pub(super) mod processes;
pub(crate) mod streams;
pub(super) mod tree;
