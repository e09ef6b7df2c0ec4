//! Keeping a workload's output from filling the disk: the oldest of it is given back to the filesystem.

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::platform;

/// Where a workload's output goes, which it writes itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// The file.
    pub path: PathBuf,
    /// What it may hold at most, in bytes, but for what is written between two samples.
    pub max_bytes: u64,
}

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    max_bytes: u64,
    /// Up to where it was given back.
    begin: u64,
}

impl Log {
    /// `None` if there is no such file: then there is nothing to bound.
    pub(super) fn open(spec: &LogSpec) -> Option<Self> {
        let file = platform::open_log(&spec.path).ok()?;
        let begin = platform::first_data(&file);
        Some(Self { file, max_bytes: spec.max_bytes, begin })
    }

    /// Gives the older half back if there is too much. What is written meanwhile goes on where it was: the file's length stays,
    /// and its beginning becomes a hole.
    pub(super) fn bound(&mut self) {
        let Ok(length) = self.file.metadata().map(|found| found.len()) else { return };
        // Somebody has cut it.
        self.begin = self.begin.min(length);
        if length - self.begin <= self.max_bytes {
            return;
        }
        let begin = length - self.max_bytes / 2;
        match platform::give_back(&self.file, begin) {
            Ok(()) => self.begin = begin,
            // A filesystem without holes: all of it goes. Whoever appends goes on at the beginning.
            Err(_) => {
                if self.file.set_len(0).is_ok() {
                    self.begin = 0;
                }
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::OpenOptions;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_newest_stays_and_the_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut log = Log::open(&LogSpec { path: path.clone(), max_bytes: 1 << 20 }).unwrap();
        for round in 0..100_u32 {
            writer.write_all(&vec![b'x'; 100_000]).unwrap();
            writeln!(writer, "round {round}").unwrap();
            log.bound();
            let found = std::fs::metadata(&path).unwrap();
            let blocks = std::os::unix::fs::MetadataExt::blocks(&found) * 512;
            assert!(blocks <= (1 << 20) + 200_000, "{blocks} bytes in round {round}");
        }
        let text = std::fs::read(&path).unwrap();
        assert!(text.ends_with(b"round 99\n"));
        assert!(text.len() as u64 - log.begin >= 1 << 19, "more was given back than had to be");
    }
}
