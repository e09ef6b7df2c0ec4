//! Finding what stands in the packs, without an index.

use std::collections::HashMap;
use std::io;

use super::format::{ENTRY_BYTES, Entry, HEADER_BYTES, Kind};
use super::group::Group;
use super::map::Body;
use super::pack::Pack;
use super::read::{Copying, copy_entry, payload};
use super::{ContentId, Location, Mark, Packs};
use crate::error::Context as _;
use crate::{Error, Result};

/// What was found behind a mark.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Whole and matching contents, and pieces of such; of two with one name, the one that was written later.
    pub(crate) contents: HashMap<ContentId, Location>,
    /// What could not be used, with the pack concerned.
    pub(crate) faults: Vec<String>,
}

impl Packs {
    /// Reads what stands in the packs behind `from`, up to `until` if given, checking each entry against its name.
    pub(crate) fn scan(&self, from: Mark, until: Option<Mark>) -> Result<Found> {
        let mut found = Found::default();
        for number in self.numbers()? {
            if number < from.pack || until.is_some_and(|until| number > until.pack) {
                continue;
            }
            let start = if number == from.pack { from.length } else { HEADER_BYTES };
            let end = until.filter(|until| until.pack == number).map(|until| until.length);
            self.scan_pack(number, start, end, &mut found)?;
        }
        Ok(found)
    }

    fn scan_pack(&self, number: u32, start: u64, end: Option<u64>, found: &mut Found) -> Result<()> {
        let pack = match Pack::open(&self.dir, number) {
            Ok(opened) => opened,
            Err(error @ Error::PackDamaged { .. }) => {
                found.faults.push(error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let path = &pack.path;
        let length = pack.file.metadata().context("look at", path)?.len();
        let end = end.unwrap_or(length);
        let mut offset = start.max(HEADER_BYTES);
        while offset < end {
            let Some(entry) = pack.entry(offset)? else {
                found.faults.push(format!("{}: nothing readable from byte {offset} on", path.display()));
                break;
            };
            match check(&pack, offset, &entry) {
                Ok(()) => {
                    found.contents.insert(entry.id, Location { pack: number, offset });
                }
                Err(Copying::Damaged(detail)) => {
                    found.faults.push(format!("{}: content {} at byte {offset}: {detail}", path.display(), entry.id));
                }
                Err(Copying::Writing(error)) => return Err(error).context("read", path),
            }
            offset = offset.saturating_add(ENTRY_BYTES).saturating_add(entry.stored);
        }
        Ok(())
    }
}

/// Whether the entry at `offset` holds what its name says.
fn check(pack: &Pack, offset: u64, entry: &Entry) -> std::result::Result<(), Copying> {
    let matches = match entry.kind {
        Kind::Plain => return copy_entry(&pack.file, offset, entry, &mut io::sink()),
        Kind::Group => Group::decode(&entry.id, payload(&pack.file, offset, entry)?).is_some(),
        Kind::Map => Body::decode(&entry.id, &payload(&pack.file, offset, entry)?).is_some(),
    };
    if matches { Ok(()) } else { Err(Copying::Damaged("its bytes do not match its name".to_owned())) }
}
