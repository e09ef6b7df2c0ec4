//! What the kernel counts in files, read from open ones without allocating.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// The number that a file consists of.
pub(super) fn number(file: &File) -> Option<u64> {
    let mut buffer = [0; 32];
    let length = file.read_at(&mut buffer, 0).ok()?;
    digits(&buffer[..length])
}

/// How many processes a file of one process ID on each line names. Those that are exiting it names 0.
pub(super) fn members(file: &File) -> u64 {
    let mut buffer = [0; 4096];
    let (mut offset, mut count, mut pid) = (0, 0, 0_u64);
    while let Ok(length @ 1..) = file.read_at(&mut buffer, offset) {
        offset += length as u64;
        for &byte in &buffer[..length] {
            if byte == b'\n' {
                count += u64::from(pid > 1);
                pid = 0;
            } else {
                pid = pid.saturating_mul(10).saturating_add(u64::from(byte.wrapping_sub(b'0')));
            }
        }
    }
    count
}

/// What stood in a file of `KEY NUMBER` lines when it was read.
pub(super) struct Lines {
    buffer: [u8; 4096],
    length: usize,
}

impl Lines {
    /// Reads `file`. One that cannot be read has no lines.
    pub(super) fn of(file: &File) -> Self {
        let mut buffer = [0; 4096];
        let length = file.read_at(&mut buffer, 0).unwrap_or(0);
        Self { buffer, length }
    }

    /// The number after `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<u64> {
        let mut lines = self.buffer[..self.length].split(|&byte| byte == b'\n');
        lines.find_map(|line| digits(line.strip_prefix(key)?.strip_prefix(b" ")?))
    }
}

/// How long some tasks have waited, as a file of "Pressure Stall Information" counts it.
pub(super) fn stalled(file: &File) -> Option<Duration> {
    let mut buffer = [0; 256];
    let length = file.read_at(&mut buffer, 0).ok()?;
    let some = buffer[..length].split(|&byte| byte == b'\n').find(|line| line.starts_with(b"some "))?;
    let total = some.split(|&byte| byte == b' ').find_map(|word| digits(word.strip_prefix(b"total=")?))?;
    Some(Duration::from_micros(total))
}

/// What `io.stat` has counted as read and written on all devices. One that stands on others is counted with them.
pub(super) fn io_bytes(file: &File) -> Option<u64> {
    // Some hundred devices.
    let mut buffer = [0; 16 << 10];
    let length = file.read_at(&mut buffer, 0).ok()?;
    Some(sum_io(&buffer[..length]))
}

fn sum_io(stat: &[u8]) -> u64 {
    let words = stat.split(u8::is_ascii_whitespace);
    let counted = words.filter_map(|word| word.strip_prefix(b"rbytes=").or_else(|| word.strip_prefix(b"wbytes=")));
    counted.filter_map(digits).fold(0, u64::saturating_add)
}

fn digits(bytes: &[u8]) -> Option<u64> {
    let bytes = bytes.trim_ascii();
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0_u64, |value, byte| {
        byte.is_ascii_digit().then(|| value.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn processes_are_counted_over_any_number_of_reads() {
        use std::io::Write as _;
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(members(&file), 0);
        file.write_all(b"0\n1\n").unwrap();
        for pid in 2..5000 {
            writeln!(file, "{pid}").unwrap();
        }
        assert_eq!(members(&file), 4998);
    }

    #[test]
    fn what_is_read_and_written_is_summed_over_devices() {
        let stat =
            b"8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=7 dios=1\n8:0 rbytes=90 wbytes=1\n7:0\n";
        assert_eq!(sum_io(stat), 1_459_200 + 314_773_504 + 91);
        assert_eq!(sum_io(b""), 0);
    }
}
