//! What the platforms do differently with files: positions, who may read them, directories, renames, locks.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use crate::platform;

/// Reading and writing at an offset, whatever the file's own position is. Threads may do so at the same time.
pub trait At {
    /// Reads at most `buffer` full from `offset` on. Returns how much; 0 at the end.
    ///
    /// # Errors
    /// The operating system's answer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of `bytes` from `offset` on. Returns how much.
    ///
    /// # Errors
    /// The operating system's answer.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there is less; else the operating system's answer.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    buffer = &mut buffer[length..];
                    offset += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` from `offset` on.
    ///
    /// # Errors
    /// The operating system's answer.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    bytes = &bytes[length..];
                    offset += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl At for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        platform::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        platform::write_at(self, bytes, offset)
    }
}

/// A file that is created gets `mode`. On Windows it inherits its directory's access rules instead.
pub fn created_with(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    platform::created_with(options, mode)
}

/// Renames a file, over another that is there. On Windows, where nobody may have that open, it is tried for two seconds.
///
/// # Errors
/// The operating system's answer; on Windows with who holds the file, where that can be told.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    platform::rename(from, to)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_are_read_and_written_where_they_are_meant_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(b"world", 6).unwrap();
        file.write_all_at(b"hello ", 0).unwrap();
        let mut part = [0; 5];
        file.read_exact_at(&mut part, 3).unwrap();
        assert_eq!(&part, b"lo wo");
        assert_eq!(file.read_exact_at(&mut part, 8).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(file.read_at(&mut part, 11).unwrap(), 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
    }

    #[test]
    fn a_file_is_renamed_over_another_also_while_a_reader_has_that_open() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "old").unwrap();
        std::fs::write(&new, "new").unwrap();
        let reader = File::open(&old).unwrap();
        // Where the system refuses while it is open, the rename waits for a reader that is quick.
        let closing = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(reader);
        });
        rename(&new, &old).unwrap();
        closing.join().unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "new");
        assert!(!new.exists());
    }
}
