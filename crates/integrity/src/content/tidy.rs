//! Freeing the room of content that nothing refers to any more.

use std::collections::{HashMap, HashSet};

use super::format::HEADER_BYTES;
use super::{ContentId, Location, Mark, Packs, Sink as _, pack};
use crate::error::Context as _;
use crate::{Error, Result};

/// A pack is rewritten once less than this share of it (in percent) is still needed.
const WORTH_REWRITING_PERCENT: u64 = 70;

/// What tidying the packs did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tidied {
    /// Packs removed.
    pub(crate) packs: u64,
    /// Contents moved to another pack, because theirs was removed.
    pub(crate) moved: u64,
    /// Bytes freed on the device.
    pub(crate) bytes: u64,
}

/// Packs whose needed contents have been copied elsewhere, so that they can go once the log knows of the copies.
pub(crate) struct Emptied {
    numbers: Vec<u32>,
    moved: u64,
}

impl Packs {
    /// Copies what is in `needed` out of the packs of which little is needed. Nothing is removed yet.
    ///
    /// A pack with a needed content that can't be read is left as it is, for whatever can still be saved from it.
    pub(crate) fn evacuate(&self, needed: &HashSet<ContentId>) -> Result<Emptied> {
        let mut emptied = Emptied { numbers: Vec::new(), moved: 0 };
        let mut kept: HashMap<u32, Vec<(ContentId, Location)>> = HashMap::new();
        for (id, location) in &self.inner().index {
            if needed.contains(id) {
                kept.entry(location.pack).or_default().push((*id, *location));
            }
        }
        let current = self.sync()?.pack;
        // All is decided before anything is copied: a copy makes the pack it goes to longer.
        let mut sparse = Vec::new();
        for number in self.numbers()? {
            let keep = kept.remove(&number).unwrap_or_default();
            let length = self.path(number).metadata().context("look at", &self.path(number))?.len();
            let is_new = number == current && length <= HEADER_BYTES;
            if !is_new && self.is_sparse(&keep, length)? {
                sparse.push((number, keep));
            }
        }
        if sparse.iter().any(|(number, _)| *number == current) {
            self.leave(current)?;
        }
        for (number, keep) in sparse {
            if self.copy_out(&keep)? {
                emptied.moved += keep.len() as u64;
                emptied.numbers.push(number);
            }
        }
        Ok(emptied)
    }

    /// Removes the packs that were evacuated and forgotten.
    pub(crate) fn remove(&self, emptied: &Emptied) -> Result<Tidied> {
        let mut tidied = Tidied { moved: emptied.moved, ..Tidied::default() };
        for number in &emptied.numbers {
            let path = self.path(*number);
            let length = path.metadata().context("look at", &path)?.len();
            std::fs::remove_file(&path).context("remove", &path)?;
            tidied.packs += 1;
            tidied.bytes += length;
        }
        estop_durable::replace::sync_dir(&self.dir)?;
        Ok(tidied)
    }

    /// Forgets what stands in packs that are about to be removed.
    pub(crate) fn forget(&self, emptied: &Emptied) {
        let mut inner = self.inner();
        inner.index.retain(|_, location| !emptied.numbers.contains(&location.pack));
        inner.fresh.retain(|(_, location)| !emptied.numbers.contains(&location.pack));
    }

    /// Where every content stands now.
    pub(crate) fn locations(&self) -> Vec<(ContentId, Location)> {
        self.inner().index.iter().map(|(id, location)| (*id, *location)).collect()
    }

    /// Goes on in a new pack, so that `number` can be removed.
    pub(super) fn leave(&self, number: u32) -> Result<()> {
        let mut inner = self.inner();
        let last = self.last_number()?;
        let next = Mark { pack: last.max(number), length: u64::MAX };
        inner.writer = Some(pack::Writer::resume(&self.dir, next, last)?);
        Ok(())
    }

    fn is_sparse(&self, keep: &[(ContentId, Location)], length: u64) -> Result<bool> {
        let mut needed = 0;
        for (_, location) in keep {
            needed += self.stored_bytes(*location)?;
        }
        Ok(needed.saturating_mul(100)
            < length.saturating_sub(HEADER_BYTES).max(1).saturating_mul(WORTH_REWRITING_PERCENT))
    }

    /// Copies contents to the current pack; `false` if one of them can't be read.
    fn copy_out(&self, keep: &[(ContentId, Location)]) -> Result<bool> {
        for (id, location) in keep {
            match self.copy_content(id, *location) {
                Ok(()) => {}
                Err(Error::ContentMissing { .. } | Error::ContentDamaged { .. } | Error::PackDamaged { .. }) => {
                    self.inner().index.insert(*id, *location);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Writes the content a second time, elsewhere. It goes through a temporary file, since it may be longer than memory.
    fn copy_content(&self, id: &ContentId, location: Location) -> Result<()> {
        let mut file = tempfile::tempfile_in(&self.dir).context("make a temporary file in", &self.dir)?;
        self.read_to(id, &mut file)?;
        std::io::Seek::rewind(&mut file).context("read a temporary file in", &self.dir)?;
        self.inner().index.remove(id);
        let taken = self.take(&mut file, &self.dir);
        if taken.is_err() {
            self.inner().index.insert(*id, location);
        }
        taken.map(drop)
    }
}
