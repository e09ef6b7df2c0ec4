//! Streams beside a file's (or directory's) own content, as NTFS has them: kept like contents, and put back.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;

use windows_sys::Wdk::Storage::FileSystem::{
    FILE_STREAM_INFORMATION, FileDispositionInformation, FileStreamInformation, NtQueryInformationFile,
};
use windows_sys::Win32::Foundation::{ERROR_ACCESS_DENIED, STATUS_BUFFER_OVERFLOW};
use windows_sys::Win32::Storage::FileSystem::{DELETE, FILE_GENERIC_READ, FILE_GENERIC_WRITE};

use super::names::{from_units, to_units};
use super::native::{Failed, Wanted, bytes_of, check, nothing, number, open_at, place, tell, units};
use super::tree::AsNative;
use crate::Result;
use crate::content::{Packs, Sink};
use crate::error::Context as _;
use crate::state::{Attribute, Meta};

/// The room for the names of the streams at first, and at most.
const ROOM: usize = 4 * 1024;
const MOST_ROOM: usize = 1024 * 1024;
/// What the name of a stream of data ends with.
const DATA: &str = ":$DATA";

/// One stream beside the content.
struct Stream {
    /// Its name, with the colon before it and what kind it is: `:x:$DATA`.
    whole: Vec<u16>,
    /// The name alone, in bytes.
    name: Vec<u8>,
    size: u64,
}

/// Stores what the streams of an open file or directory hold; gives what stands for each, in order of their names.
pub(crate) fn take(file: &impl AsNative, sink: &dyn Sink, place: &Path) -> Result<Vec<Attribute>> {
    let mut taken = Vec::new();
    for stream in list(file).context("read", place)? {
        let opened = open_at(file.as_handle(), &stream.whole, FILE_GENERIC_READ, Wanted::Any).context("read", place)?;
        let (content, _) = sink.take(&mut File::from(opened).take(stream.size), place, None)?;
        taken.push(Attribute::stream(&stream.name, content));
    }
    taken.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(taken)
}

/// Gives an open file or directory the streams of `meta`, and takes away the others.
pub(crate) fn put(file: &impl AsNative, meta: &Meta, packs: &Packs, place: &Path) -> Result<()> {
    for stream in list(file).context("list the streams of", place)? {
        if meta.streams().all(|(name, _)| name != stream.name) {
            remove(file, &stream).context("remove a stream of", place)?;
        }
    }
    for (name, content) in meta.streams() {
        let whole = [to_units(b":"), to_units(name), to_units(DATA.as_bytes())].concat();
        let opened = open_at(file.as_handle(), &whole, FILE_GENERIC_WRITE, Wanted::Stream);
        let mut stream = File::from(opened.context("write a stream of", place)?);
        packs.read_to(&content, &mut stream)?;
        stream.sync_all().context("synchronise a stream of", place)?;
    }
    Ok(())
}

/// Makes what was written to an open file durable. What was opened for its metadata alone is made so with its directory.
pub(crate) fn settle(file: &impl AsNative) -> io::Result<()> {
    let flushed = File::from(file.as_handle().try_clone_to_owned()?).sync_all();
    match flushed {
        Err(error) if error.raw_os_error() == Some(ERROR_ACCESS_DENIED.cast_signed()) => Ok(()),
        other => other,
    }
}

fn remove(file: &impl AsNative, stream: &Stream) -> io::Result<()> {
    let opened = open_at(file.as_handle(), &stream.whole, DELETE, Wanted::Any)?;
    Ok(tell(&opened, FileDispositionInformation, &[1])?)
}

/// The streams beside the content. None where the filesystem has none.
fn list(file: &impl AsNative) -> io::Result<Vec<Stream>> {
    let mut room = ROOM;
    loop {
        let mut buffer = place(room);
        match fill(file, &mut buffer) {
            Ok(length) => return Ok(parse(&bytes_of(&buffer)[..length.min(room)])),
            Err(Failed(STATUS_BUFFER_OVERFLOW)) if room < MOST_ROOM => room *= 4,
            Err(failed) if failed.is_unsupported() => return Ok(Vec::new()),
            Err(failed) => return Err(failed.into()),
        }
    }
}

fn fill(file: &impl AsNative, buffer: &mut [u64]) -> std::result::Result<usize, Failed> {
    let mut answer = nothing();
    let room = u32::try_from(size_of_val(buffer)).unwrap_or(0);
    let handle = file.as_handle().as_raw_handle();
    // SAFETY: the place has that length, and both live until the call returns.
    let status = unsafe {
        NtQueryInformationFile(handle, &raw mut answer, buffer.as_mut_ptr().cast(), room, FileStreamInformation)
    };
    check(status).map(|()| answer.Information)
}

/// The streams in the system's answer; the file's own content is the one without a name.
fn parse(bytes: &[u8]) -> Vec<Stream> {
    let mut streams = Vec::new();
    let mut at = 0;
    while let Some(entry) = bytes.get(at..).filter(|entry| !entry.is_empty()) {
        let Some((stream, next)) = parse_one(entry) else { break };
        streams.extend(stream);
        if next == 0 {
            break;
        }
        at += next;
    }
    streams
}

/// The entry at the beginning, if it is a stream beside the content, and where the next one begins.
fn parse_one(entry: &[u8]) -> Option<(Option<Stream>, usize)> {
    use std::mem::offset_of;
    let next = u32::from_le_bytes(number(entry, offset_of!(FILE_STREAM_INFORMATION, NextEntryOffset))?);
    let length = u32::from_le_bytes(number(entry, offset_of!(FILE_STREAM_INFORMATION, StreamNameLength))?);
    let size = i64::from_le_bytes(number(entry, offset_of!(FILE_STREAM_INFORMATION, StreamSize))?);
    let whole = units(entry, offset_of!(FILE_STREAM_INFORMATION, StreamName), length as usize)?;
    let text = from_units(&whole);
    let name = text.strip_prefix(b":").and_then(|rest| rest.strip_suffix(DATA.as_bytes()));
    let stream = name.filter(|name| !name.is_empty()).map(<[u8]>::to_vec);
    let stream = stream.map(|name| Stream { whole, name, size: u64::try_from(size).unwrap_or(0) });
    Some((stream, next as usize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(name: &str, size: i64, last: bool) -> Vec<u8> {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let length = (24 + units.len()).next_multiple_of(8);
        let next = if last { 0 } else { u32::try_from(length).unwrap() };
        let mut bytes = next.to_le_bytes().to_vec();
        bytes.extend(u32::try_from(units.len()).unwrap().to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes.extend(units);
        bytes.resize(length, 0);
        bytes
    }

    #[test]
    fn the_streams_beside_the_content_are_told_from_it() {
        let answer =
            [entry("::$DATA", 7, false), entry(":Zone.Identifier:$DATA", 26, false), entry(":x:$OTHER", 1, true)];
        let found = parse(&answer.concat());
        let found: Vec<_> = found.iter().map(|stream| (stream.name.as_slice(), stream.size)).collect();
        assert_eq!(found, [(&b"Zone.Identifier"[..], 26)]);
        assert!(parse(&answer.concat()[..10]).is_empty(), "an answer cut short");
    }
}
