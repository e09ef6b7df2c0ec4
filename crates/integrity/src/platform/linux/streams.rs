//! A file has one stream of bytes here, so there is nothing to keep or put back beside it.

use std::io;
use std::path::Path;

use super::tree::AsNative;
use crate::Result;
use crate::content::{Packs, Sink};
use crate::state::{Attribute, Meta};

pub(crate) fn take(_file: &impl AsNative, _sink: &dyn Sink, _place: &Path) -> Result<Vec<Attribute>> {
    Ok(Vec::new())
}

pub(crate) fn put(_file: &impl AsNative, _meta: &Meta, _packs: &Packs, _place: &Path) -> Result<()> {
    Ok(())
}

/// Durable by [`Tree::sync`](super::tree::Tree::sync), all together.
pub(crate) fn settle(_file: &impl AsNative) -> io::Result<()> {
    Ok(())
}
