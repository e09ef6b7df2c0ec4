//! Which processes hold files of a store open for writing: a file that can't be opened so that nobody else may write is one, and the
//! Restart Manager tells whose. A file that is written through memory alone, its handle closed, is not seen.

use std::collections::BTreeMap;
use std::io;

use estop_durable::holders::{Holder, holders};
use windows_sys::Win32::Foundation::ERROR_SHARING_VIOLATION;
use windows_sys::Win32::Storage::FileSystem::{FILE_READ_DATA, FILE_SHARE_DELETE, FILE_SHARE_READ};

use super::native::{Wanted, open_shared};
use super::tree::Tree;
use crate::path::StorePath;
use crate::platform::{NodeKind, OpenBy};

/// So many of the files that are open are asked about.
const ASKED: usize = 100;

/// Lists processes, other than this one, with a file of `tree` open for writing.
pub(crate) fn open_for_writing(tree: &Tree) -> Vec<OpenBy> {
    let mut found: BTreeMap<u32, OpenBy> = BTreeMap::new();
    for path in held(tree) {
        let place = tree.path().join(super::names::to_path(path.as_bytes()));
        let mut by = holders(&place);
        by.retain(|holder| holder.pid != std::process::id());
        if by.is_empty() {
            by.push(Holder { pid: 0, start_time: 0, name: "a program that the system does not name".to_owned() });
        }
        for Holder { pid, start_time, name } in by {
            let path = path.to_string();
            found.entry(pid).or_insert(OpenBy { pid, start_time, command: name, path });
        }
    }
    found.into_values().collect()
}

/// The first files that somebody could write to. What can't be looked at is left out.
fn held(tree: &Tree) -> Vec<StorePath> {
    let mut held = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(directory) = waiting.pop() {
        let Ok(dir) = tree.open_dir(&directory) else { continue };
        for listed in tree.list(&directory).unwrap_or_default() {
            let path = StorePath::child(&directory, &listed.name);
            match listed.stat.kind {
                NodeKind::Directory => waiting.push(path.as_bytes().to_vec()),
                NodeKind::File if is_held(&dir, &listed.name) => held.push(path),
                _ => {}
            }
            if held.len() == ASKED {
                return held;
            }
        }
    }
    held
}

fn is_held(dir: &impl std::os::windows::io::AsHandle, name: &[u8]) -> bool {
    let share = FILE_SHARE_READ | FILE_SHARE_DELETE;
    let name = super::names::to_units(name);
    let opened: io::Result<_> = open_shared(dir.as_handle(), &name, FILE_READ_DATA, Wanted::Any, share);
    opened.is_err_and(|error| error.raw_os_error() == Some(ERROR_SHARING_VIOLATION.cast_signed()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    #[test]
    fn finds_a_file_that_is_written_and_none_that_is_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/read"), "x").unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let reader = fs::File::open(dir.path().join("d/read")).unwrap();
        assert_eq!(held(&tree), []);
        let writer = fs::File::create(dir.path().join("d/written")).unwrap();
        let found: Vec<_> = held(&tree).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["d/written"]);
        drop((reader, writer));
        assert_eq!(held(&tree), []);
    }
}
