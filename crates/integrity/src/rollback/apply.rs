//! Preparing new files in the vault, and moving them into the store.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::plan::{Plan, Put};
use crate::Result;
use crate::error::Context as _;
use crate::log::Lsn;
use crate::path::StorePath;
use crate::place::{Materials, full};
use crate::platform::{NodeKind, Tree};
use crate::progress::{Phase, Progress};
use crate::state::{FileTime, State};
use crate::store::Store;
use crate::verify::Failure;

/// The place in the vault where one rollback prepares its files, and where what it moves aside goes.
pub(crate) struct Workshop<'a> {
    store: &'a Store,
    number: Lsn,
    trashed: u64,
}

impl<'a> Workshop<'a> {
    /// Makes the places for the rollback that began at `begin`; what an interrupted one had prepared is thrown away.
    pub(crate) fn open(store: &'a Store, begin: Lsn) -> Result<Self> {
        clear_staging(store)?;
        let staging = store.vault().join("staging").join(begin.to_string());
        std::fs::create_dir(&staging).context("make the directory", &staging)?;
        let trash = store.vault().join("trash").join(begin.to_string());
        std::fs::create_dir_all(&trash).context("make the directory", &trash)?;
        let trashed = std::fs::read_dir(&trash).context("list", &trash)?.count() as u64;
        Ok(Self { store, number: begin, trashed })
    }

    fn staged(&self, number: usize) -> StorePath {
        StorePath::child(format!("staging/{}", self.number).as_bytes(), number.to_string().as_bytes())
    }

    /// Where what was moved aside lies; `None` if nothing was.
    pub(crate) fn trash(&self) -> Option<PathBuf> {
        (self.trashed > 0).then(|| self.store.vault().join("trash").join(self.number.to_string()))
    }

    /// Prepares every file of the plan, with its metadata, and makes all of it durable. Gives the numbers of those that can't be.
    pub(crate) fn stage(
        &self,
        plan: &Plan,
        materials: &Materials<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<Failure>> {
        let vault = self.store.vault_tree();
        let mut failures: Vec<Failure> = Vec::new();
        for (number, put) in plan.puts.iter().enumerate() {
            let place = self.staged(number);
            let staged = match put.same_as {
                Some(first) => vault.make_link(&self.staged(first), &place).context("link", &full(vault, &place)),
                None => materials.make(vault, &place, &put.version),
            };
            if let Err(error) = staged {
                failures.push((put.path.clone(), error));
            }
            progress.report(Phase::Staging, number as u64 + 1, plan.puts.len() as u64);
        }
        let staged: Vec<_> = (0..plan.puts.len()).map(|number| self.staged(number)).collect();
        let place = format!("staging/{}", self.number);
        let directories = [place.as_bytes(), b"staging", b"trash"];
        let all = staged.iter().map(StorePath::as_bytes).chain(directories).collect();
        vault.sync(&all).context("synchronise", self.store.vault())?;
        Ok(failures)
    }

    /// Carries the plan out in the store. `live` is how the store was last seen. A step that fails is told and left out: the others
    /// are done all the same.
    pub(crate) fn apply(
        &mut self,
        plan: &Plan,
        live: &State,
        materials: &Materials<'_>,
        progress: &dyn Progress,
    ) -> Result<Vec<Failure>> {
        let mut failures = Vec::new();
        let mut note = |path: &StorePath, result: Result<()>| {
            if let Err(error) = result {
                failures.push((path.clone(), error));
            }
        };
        let tree = self.store.tree();
        open_up(tree, plan, live);
        for path in &plan.removals {
            note(path, self.set_aside(path));
        }
        for path in &plan.directories {
            note(path, self.make_directory(path));
        }
        for (number, put) in plan.puts.iter().enumerate() {
            note(&put.path, self.put(number, put, live));
            progress.report(Phase::Applying, number as u64 + 1, plan.puts.len() as u64);
        }
        for (path, meta) in plan.dressings.iter().chain(&plan.directory_metas) {
            note(path, materials.dress(tree, path, meta));
        }
        tree.sync(&touched(plan)).context("synchronise", self.store.path())?;
        let trash = format!("trash/{}", self.number);
        self.store.vault_tree().sync(&BTreeSet::from([trash.as_bytes()])).context("synchronise", self.store.vault())?;
        Ok(failures)
    }

    fn make_directory(&mut self, path: &StorePath) -> Result<()> {
        let tree = self.store.tree();
        match tree.stat(path).context("look at", &full(tree, path))? {
            Some(stat) if stat.kind == NodeKind::Directory => Ok(()),
            Some(_) => self.set_aside(path).and_then(|()| self.make_directory(path)),
            None => tree.make_dir(path).context("make the directory", &full(tree, path)),
        }
    }

    /// Moves a prepared file into place. What stands there is replaced at once if it is what the safety snapshot holds, and moved
    /// aside if it is anything else.
    fn put(&mut self, number: usize, put: &Put, live: &State) -> Result<()> {
        let tree = self.store.tree();
        let place = full(tree, &put.path);
        let there = tree.stat(&put.path).context("look at", &place)?;
        let known: Option<(u64, FileTime)> = live.0.get(&put.path).map(|it| (it.seen.inode, it.seen.ctime));
        if let Some(stat) = there
            && (stat.kind == NodeKind::Directory || known != Some((stat.inode, stat.ctime)))
        {
            self.set_aside(&put.path)?;
        }
        tree.take_from(self.store.vault_tree(), &self.staged(number), &put.path, false).context("put in place", &place)
    }

    /// Moves something, with all below it, to the trash.
    fn set_aside(&mut self, path: &StorePath) -> Result<()> {
        let tree = self.store.tree();
        let place = full(tree, path);
        if tree.stat(path).context("look at", &place)?.is_none() {
            return Ok(());
        }
        let name = (self.trashed + 1).to_string();
        let trash = StorePath::child(format!("trash/{}", self.number).as_bytes(), name.as_bytes());
        self.store.vault_tree().take_from(tree, path, &trash, true).context("move to the trash", &place)?;
        self.trashed += 1;
        Ok(())
    }

    /// Removes what was prepared and not needed, and the trash if it is empty.
    pub(crate) fn close(self) -> Result<()> {
        if self.trashed == 0 {
            let trash = self.store.vault().join("trash").join(self.number.to_string());
            std::fs::remove_dir(&trash).context("remove", &trash)?;
        }
        clear_staging(self.store)
    }
}

/// Every directory in which something is done, and every file that gets other metadata where it is.
fn touched(plan: &Plan) -> BTreeSet<&[u8]> {
    let names = plan.puts.iter().map(|put| &put.path).chain(&plan.directories).chain(&plan.removals);
    let dressed = plan.dressings.iter().chain(&plan.directory_metas).map(|(path, _)| path.as_bytes());
    names.map(|path| path.split().0).chain(dressed).collect()
}

/// Directories whose own mode or access rules forbid changing them are opened to their owner; those are set again at the end.
fn open_up(tree: &Tree, plan: &Plan, live: &State) {
    for (path, _) in plan.directory_metas.iter().rev() {
        if let Some(version) = live.0.get(path) {
            // If this fails, so will what is to be done inside, and that is told.
            let _ = tree.let_in(path, &version.meta);
        }
    }
}

/// Throws away whatever rollbacks have prepared.
pub(crate) fn clear_staging(store: &Store) -> Result<()> {
    let staging = store.vault().join("staging");
    for entry in std::fs::read_dir(&staging).context("list", &staging)? {
        let path = entry.context("list", &staging)?.path();
        std::fs::remove_dir_all(&path).context("remove", &path)?;
    }
    Ok(())
}
