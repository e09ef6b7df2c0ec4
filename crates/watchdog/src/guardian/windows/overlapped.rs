//! One end of a pipe, read and written without waiting. See "Synchronous and Asynchronous I/O" in the Windows documentation.

use std::io;
use std::os::windows::io::{AsRawHandle as _, OwnedHandle, RawHandle};
use std::ptr::{null, null_mut};
use std::time::Duration;

use windows_sys::Win32::Foundation::{ERROR_IO_INCOMPLETE, ERROR_IO_PENDING, WAIT_OBJECT_0};
use windows_sys::Win32::Storage::FileSystem::{ReadFile, WriteFile};
use windows_sys::Win32::System::IO::{CancelIoEx, GetOverlappedResult, OVERLAPPED};
use windows_sys::Win32::System::Threading::{CreateEventW, WaitForSingleObject};

use crate::job::windows::object::{check, owned};

/// An operation that the system may still be at: where it says how far it is, and the event that it sets in the end.
pub(super) struct Operation {
    event: OwnedHandle,
    /// In a place of its own, which does not move while the system writes to it.
    overlapped: Box<OVERLAPPED>,
    pending: bool,
}

// SAFETY: the place that the pointers in it lead to is its own, the event is the system's and any thread's, and nothing in it is
// shared.
unsafe impl Send for Operation {}

impl std::fmt::Debug for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operation").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl Operation {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: neither attributes nor a name are given.
        let event = owned(unsafe { CreateEventW(null(), 1, 0, null()) })?;
        let overlapped = OVERLAPPED { hEvent: event.as_raw_handle(), ..OVERLAPPED::default() };
        Ok(Self { event, overlapped: Box::new(overlapped), pending: false })
    }

    pub(super) fn event(&self) -> RawHandle {
        self.event.as_raw_handle()
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending
    }

    /// Begins it: `start` is the call, which is to be given the place. Whether it goes on by itself.
    ///
    /// # Errors
    /// The system's answer, if it neither goes on nor is done.
    pub(super) fn begin(&mut self, start: impl FnOnce(*mut OVERLAPPED) -> i32) -> io::Result<bool> {
        match check(start(&raw mut *self.overlapped)) {
            // Done at once; the event is set all the same.
            Ok(()) => self.pending = true,
            Err(error) if error.raw_os_error() == Some(ERROR_IO_PENDING.cast_signed()) => self.pending = true,
            Err(error) => return Err(error),
        }
        Ok(self.pending)
    }

    /// How many bytes it has moved; `None` while it is at it.
    ///
    /// # Errors
    /// How it failed.
    pub(super) fn result(&mut self, handle: RawHandle) -> Option<io::Result<usize>> {
        let mut moved = 0;
        // SAFETY: the handle is open, and the operation was begun with this place.
        match check(unsafe { GetOverlappedResult(handle, &raw const *self.overlapped, &raw mut moved, 0) }) {
            Err(error) if error.raw_os_error() == Some(ERROR_IO_INCOMPLETE.cast_signed()) => None,
            other => {
                self.pending = false;
                Some(other.map(|()| moved as usize))
            }
        }
    }

    /// Waits at most `wait` for its end.
    pub(super) fn wait(&self, wait: Duration) {
        let milliseconds = u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX - 1);
        // SAFETY: the event is open.
        unsafe { WaitForSingleObject(self.event(), milliseconds) };
    }

    /// Calls it off, and waits until the system has let go of its places.
    pub(super) fn cancel(&mut self, handle: RawHandle) {
        if self.pending {
            let mut moved = 0;
            // SAFETY: the handle is open, and the operation was begun with this place.
            unsafe { CancelIoEx(handle, &raw const *self.overlapped) };
            // SAFETY: as above; a call that was called off ends at once.
            unsafe { GetOverlappedResult(handle, &raw const *self.overlapped, &raw mut moved, 1) };
            self.pending = false;
        }
    }
}

/// One end of a pipe.
#[derive(Debug)]
pub(super) struct PipeEnd {
    handle: OwnedHandle,
    reading: Operation,
    writing: Operation,
    /// Where the system puts what is read. Not looked at while it is at that.
    buffer: Vec<u8>,
}

impl PipeEnd {
    /// Takes an end that was opened for overlapped use and gives whole messages, of at most `room` bytes.
    pub(super) fn new(handle: OwnedHandle, room: usize) -> io::Result<Self> {
        Ok(Self { handle, reading: Operation::new()?, writing: Operation::new()?, buffer: vec![0; room] })
    }

    pub(super) fn handle(&self) -> RawHandle {
        self.handle.as_raw_handle()
    }

    /// The operation that waits for what comes.
    pub(super) fn reading(&mut self) -> &mut Operation {
        &mut self.reading
    }

    /// The event that is set when something has come.
    pub(super) fn event(&self) -> RawHandle {
        self.reading.event()
    }

    /// Waits at most `wait` for something to come.
    pub(super) fn wait(&self, wait: Duration) {
        self.reading.wait(wait);
    }

    /// Begins to read the next message.
    ///
    /// # Errors
    /// If the other end has gone.
    pub(super) fn begin_read(&mut self) -> io::Result<()> {
        let handle = self.handle.as_raw_handle();
        let (place, room) = (self.buffer.as_mut_ptr(), u32::try_from(self.buffer.len()).unwrap_or(0));
        // SAFETY: the handle is open; the buffer is as long as is said and stays where it is until the operation has ended,
        // which `drop` waits for.
        self.reading.begin(|overlapped| unsafe { ReadFile(handle, place, room, null_mut(), overlapped) }).map(drop)
    }

    /// The message that has come, in `buffer`: its length. `None` while nothing has.
    ///
    /// # Errors
    /// If the other end has gone, or sends more than a message may have.
    pub(super) fn message(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        let length = match self.reading.result(self.handle.as_raw_handle())? {
            Ok(length) => length.min(buffer.len()),
            Err(error) => return Some(Err(error)),
        };
        buffer[..length].copy_from_slice(&self.buffer[..length]);
        Some(Ok(length))
    }

    /// Writes one message, and waits at most `wait` for the other end to have room for it.
    ///
    /// # Errors
    /// If it has none, or has gone.
    pub(super) fn write(&mut self, bytes: &[u8], wait: Duration) -> io::Result<()> {
        let handle = self.handle.as_raw_handle();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        // SAFETY: the handle is open, and the bytes live until the operation has ended, which is seen to below.
        self.writing
            .begin(|overlapped| unsafe { WriteFile(handle, bytes.as_ptr(), length, null_mut(), overlapped) })?;
        self.writing.wait(wait);
        let written = self.writing.result(handle);
        self.writing.cancel(handle);
        written.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into())).map(drop)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let handle = self.handle.as_raw_handle();
        self.reading.cancel(handle);
        self.writing.cancel(handle);
    }
}

/// Whether an event is set.
pub(super) fn is_set(event: RawHandle) -> bool {
    // SAFETY: whoever asks has it open.
    unsafe { WaitForSingleObject(event, 0) == WAIT_OBJECT_0 }
}
