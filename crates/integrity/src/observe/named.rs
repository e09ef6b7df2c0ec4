//! Looking at single names, where it is known which ones matter.

use super::capture::{Captured, ToRead, capture};
use super::scan::{Differing, looks_different, version_of};
use super::walk::Walked;
use crate::Result;
use crate::content::Sink;
use crate::error::Context as _;
use crate::path::StorePath;
use crate::platform::{NodeKind, Stat, Tree};
use crate::state::Version;

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Nothing.
    Nothing,
    /// A file, directory or symbolic link that can be part of a state.
    Known(Box<Version>),
    /// Something that can't be: in words, behind "it is".
    Other(&'static str),
}

impl Named {
    /// What a state holds of it.
    pub(crate) fn version(self) -> Option<Version> {
        match self {
            Self::Known(version) => Some(*version),
            Self::Nothing | Self::Other(_) => None,
        }
    }
}

/// Looks at `path`, giving its content to `sink` if it looks different from what is `known`.
pub(crate) fn look_at(tree: &Tree, known: Option<&Version>, sink: &dyn Sink, path: &StorePath) -> Result<Named> {
    let Some(walked) = walked(tree, path)? else { return Ok(Named::Nothing) };
    if walked.stat.kind == NodeKind::Special {
        return Ok(Named::Other("a FIFO, socket or device"));
    }
    if walked.stat.kind == NodeKind::Directory && tree.is_elsewhere(&walked.stat) {
        return Ok(Named::Other("another filesystem"));
    }
    // Only a look at all names tells which ones are one file.
    let link = known.filter(|version| version.seen.inode == walked.stat.inode).and_then(Version::link);
    if let Some(version) = known.filter(|version| !looks_different(version, &walked, link)) {
        return Ok(Named::Known(Box::new(version.clone())));
    }
    let to_read = ToRead { walked: &walked, before: known.and_then(Version::content) };
    let captured = capture(tree, to_read, sink)?;
    match captured {
        Captured::Unreadable(_) => return Ok(Named::Other("not readable")),
        Captured::Mount => return Ok(Named::Other("another filesystem")),
        Captured::Read { .. } | Captured::Gone => {}
    }
    let differing = Differing { walked: &walked, link, before: known };
    Ok(version_of(&differing, captured).map_or(Named::Nothing, |version| Named::Known(Box::new(version))))
}

fn walked(tree: &Tree, path: &StorePath) -> Result<Option<Walked>> {
    let place = crate::place::full(tree, path);
    let stat = if path.is_root() {
        Some(tree.open_dir(&[]).and_then(|root| Stat::of(&root)).context("look at", &place)?)
    } else {
        tree.stat(path).context("look at", &place)?
    };
    let Some(stat) = stat else { return Ok(None) };
    let mut target = Vec::new();
    if stat.kind == NodeKind::Symlink {
        let (directory, name) = path.split();
        let listed = tree.list(directory).context("list", &place)?;
        let Some(link) = listed.into_iter().find(|listed| listed.name == name) else { return Ok(None) };
        target = link.target;
    }
    Ok(Some(Walked { path: path.clone(), stat, target }))
}
