//! What a transaction is made of: put, delete, rename. Nothing in the store changes by it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use jiff::Timestamp;

use super::{Draft, MOST_PATHS, Touched, Transaction, TransactionId};
use crate::content::{HashOnly, Sink};
use crate::error::Context as _;
use crate::observe::{Named, look_at};
use crate::path::StorePath;
use crate::place::full;
use crate::platform::{Privileges, clock, fresh, set_mode};
use crate::snapshot::{Inner, SnapshotManager};
use crate::state::{Meta, Node, Seen, Version};
use crate::{Error, Result};

impl SnapshotManager {
    /// Begins a transaction. What it reads is remembered; nothing is locked.
    pub fn begin(&self) -> Transaction<'_> {
        let (lsn, begun) = (self.lsn(), Timestamp::now());
        let id = TransactionId::derive(&self.store.identity(), lsn, begun);
        let draft = Draft { id, begun, lsn, touched: BTreeMap::new(), directories: BTreeSet::new() };
        Transaction { manager: self, draft }
    }
}

impl Transaction<'_> {
    /// Puts `content` at `path`, with the permission bits `mode` (on Windows, none); without, those of the file that is there, or what
    /// fits the directory. Missing directories are made. Set-uid and set-gid bits are not kept.
    ///
    /// # Errors
    /// [`Error::Unfit`] if a directory or something special is there, or something else than a directory above;
    /// [`Error::TransactionTooLarge`]; [`Error::Io`] if `content` can't be read or stored.
    pub fn put(&mut self, path: &StorePath, content: &mut dyn Read, mode: Option<u32>) -> Result<()> {
        let path = &self.spelled(path)?;
        let before = self.manager.inner().state.0.get(path).and_then(Version::content);
        let (content, size) = self.manager.packs.take(content, &full(self.manager.store.tree(), path), before)?;
        let inner = self.manager.inner();
        let there = self.view(&inner, path, "put", false)?;
        if there.as_ref().is_some_and(|it| it.node == Node::Directory) {
            return Err(unfit("put", path, "there is a directory: delete it first"));
        }
        let above = self.make_way(&inner, path, "put")?;
        let file = there.filter(|it| matches!(it.node, Node::File { .. }));
        let mut meta = file.map_or_else(|| fresh(&above, false, clock()), |it| it.meta);
        meta.mtime = clock();
        if let Some(mode) = mode {
            set_mode(&mut meta, mode);
        }
        let node = Node::File { content: Some(content), size, link: None };
        self.touch(&inner, path, Some(planned(node, &meta)), "put")
    }

    /// Deletes what is at `path`, a directory with all that is in it.
    ///
    /// # Errors
    /// [`Error::NoSuchPath`]; [`Error::Unfit`] if something special is there or below; [`Error::TransactionTooLarge`].
    pub fn delete(&mut self, path: &StorePath) -> Result<()> {
        let path = &self.spelled(path)?;
        let inner = self.manager.inner();
        // What is in a directory first: of what is in one that goes, nothing more is looked at.
        for (gone, _) in self.below(&inner, path, "delete", false)?.into_iter().rev() {
            self.touch(&inner, &gone, None, "delete")?;
        }
        Ok(())
    }

    /// Gives what is at `from`, a directory with all that is in it, the name `to`. A file that is at `to` is replaced by a file.
    ///
    /// # Errors
    /// [`Error::NoSuchPath`]; [`Error::Unfit`] if there is a directory at `to`, or it lies in `from`; else as [`Transaction::put`].
    pub fn rename(&mut self, from: &StorePath, to: &StorePath) -> Result<()> {
        let from = &self.spelled(from)?;
        let inner = self.manager.inner();
        if to.is_within(from) {
            return Err(unfit("rename", from, &format!("{to} is the same, or lies in it")));
        }
        let moved = self.below(&inner, from, "rename", true)?;
        let there = self.view(&inner, to, "rename", false)?;
        let onto = |it: &Version| it.node == Node::Directory || moved[0].1.node == Node::Directory;
        if there.as_ref().is_some_and(onto) {
            return Err(unfit("rename", from, &format!("there is something at {to}: delete it first")));
        }
        self.make_way(&inner, to, "rename")?;
        for (path, version) in moved.into_iter().rev() {
            let rest = &path.as_bytes()[from.as_bytes().len()..];
            let target = StorePath::new(&[to.as_bytes(), rest].concat())?;
            let mut node = version.node;
            if let Node::File { link, .. } = &mut node {
                *link = None;
            }
            self.touch(&inner, &target, Some(planned(node, &version.meta)), "rename")?;
            self.touch(&inner, &path, None, "rename")?;
        }
        Ok(())
    }

    fn spelled(&self, path: &StorePath) -> Result<StorePath> {
        let tree = self.manager.store.tree();
        Ok(tree.spelling(path).context("look at", &full(tree, path))?.unwrap_or_else(|| path.clone()))
    }

    /// What is at `path`, as this transaction sees it; its content is stored where `store` says so.
    fn view(&self, inner: &Inner, path: &StorePath, action: &'static str, store: bool) -> Result<Option<Version>> {
        if let Some(touched) = self.draft.touched.get(path) {
            return Ok(touched.after.clone());
        }
        let mut above = path.parent();
        while let Some(parent) = above {
            // A directory that it deletes or makes holds nothing but what it puts there.
            if self.draft.touched.contains_key(&parent) {
                return Ok(None);
            }
            above = parent.parent();
        }
        let sink: &dyn Sink = if store { &self.manager.packs } else { &HashOnly };
        match look_at(self.manager.store.tree(), inner.state.0.get(path), sink, path)? {
            Named::Other(what) => Err(unfit(action, path, &format!("it is {what}"))),
            found => Ok(found.version()),
        }
    }

    /// Everything at and below `path`, as this transaction sees it, directories before what is in them. Contents are stored where
    /// `store` says so.
    fn below(
        &self,
        inner: &Inner,
        path: &StorePath,
        action: &'static str,
        store: bool,
    ) -> Result<Vec<(StorePath, Version)>> {
        let absent = || Error::NoSuchPath { store: self.manager.store.name().to_owned(), path: path.to_string() };
        let version = self.view(inner, path, action, store)?.ok_or_else(absent)?;
        let tree = self.manager.store.tree();
        let mut found = Vec::new();
        let mut waiting = vec![(path.clone(), version)];
        while let Some((path, mut version)) = waiting.pop() {
            if version.node == Node::Directory {
                for name in self.names_in(&path)? {
                    let child = self.view(inner, &name, action, store)?;
                    waiting.extend(child.map(|child| (name, child)));
                }
            }
            if store && version.content().is_some_and(|id| !self.manager.packs.contains(&id)) {
                // It was only compared when this transaction first looked.
                let read = look_at(tree, None, &self.manager.packs, &path)?.version();
                version = read.ok_or_else(|| unfit(action, &path, "it vanished meanwhile"))?;
            }
            found.push((path, version));
            if found.len() > MOST_PATHS {
                return Err(Error::TransactionTooLarge { limit: MOST_PATHS });
            }
        }
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// The names in a directory: those in the store, and those that this transaction puts there.
    fn names_in(&self, directory: &StorePath) -> Result<Vec<StorePath>> {
        let tree = self.manager.store.tree();
        let own = self.draft.touched.keys().filter(|path| path.parent().as_ref() == Some(directory));
        let mut names: Vec<_> = own.cloned().collect();
        if self.draft.touched.contains_key(directory) {
            return Ok(names);
        }
        for listed in tree.list(directory.as_bytes()).context("list", &full(tree, directory))? {
            names.push(StorePath::child(directory.as_bytes(), &listed.name));
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Makes the directories above `path` that are missing; gives the metadata of the nearest one.
    fn make_way(&mut self, inner: &Inner, path: &StorePath, action: &'static str) -> Result<Meta> {
        let root =
            look_at(self.manager.store.tree(), inner.state.0.get(&StorePath::root()), &HashOnly, &StorePath::root())?;
        let root = root.version().ok_or_else(|| Error::StoreMissing { path: self.manager.store.path().to_owned() })?;
        let mut meta = root.meta;
        let mut above = Vec::new();
        let mut next = path.parent();
        while let Some(parent) = next {
            next = parent.parent();
            above.push(parent);
        }
        for parent in above.into_iter().rev() {
            match self.view(inner, &parent, action, false)? {
                None => {
                    meta = fresh(&meta, true, clock());
                    self.touch(inner, &parent, Some(planned(Node::Directory, &meta)), action)?;
                }
                Some(Version { node: Node::Directory, meta: found, .. }) => {
                    meta = found;
                    if !self.draft.touched.contains_key(&parent) {
                        self.draft.directories.insert(parent);
                    }
                }
                Some(_) => return Err(unfit(action, path, &format!("{parent} is no directory"))),
            }
        }
        Ok(meta)
    }

    /// Notes what is to be at `path`, and what was there when it was first asked for.
    fn touch(&mut self, inner: &Inner, path: &StorePath, after: Option<Version>, action: &'static str) -> Result<()> {
        if let Some(touched) = self.draft.touched.get_mut(path) {
            touched.after = after;
            return Ok(());
        }
        if self.draft.touched.len() >= MOST_PATHS {
            return Err(Error::TransactionTooLarge { limit: MOST_PATHS });
        }
        // Below what this transaction has deleted or made, nothing else was.
        let base = self.view(inner, path, action, false)?;
        self.draft.directories.remove(path);
        self.draft.touched.insert(path.clone(), Touched { base, after });
        Ok(())
    }
}

/// A version that nobody has seen yet.
fn planned(node: Node, meta: &Meta) -> Version {
    let meta = Privileges::Withhold.allowed(meta, node == Node::Directory);
    let seen = Seen { inode: 0, ctime: meta.mtime, unsure: true };
    Version { node, meta, seen }
}

fn unfit(action: &'static str, path: &StorePath, detail: &str) -> Error {
    Error::Unfit { action, path: path.to_string(), detail: detail.to_owned() }
}
