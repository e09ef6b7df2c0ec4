//! The console of the person who types.

use std::os::windows::io::AsRawHandle as _;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Console::{
    ENABLE_ECHO_INPUT, ENABLE_LINE_INPUT, ENABLE_PROCESSED_INPUT, ENABLE_VIRTUAL_TERMINAL_PROCESSING, GetConsoleMode,
    SetConsoleMode,
};

/// Whether standard error takes colours, if it is a console: since Windows 10, after it was told to.
pub(crate) fn takes_colours() -> bool {
    let output = std::io::stderr().as_raw_handle();
    mode_of(output).is_some_and(|mode| {
        // SAFETY: takes a handle of this process's own and a number.
        unsafe { SetConsoleMode(output, mode | ENABLE_VIRTUAL_TERMINAL_PROCESSING) != 0 }
    })
}

/// The mode of a console; `None` if it is none.
fn mode_of(console: HANDLE) -> Option<u32> {
    let mut mode = 0;
    // SAFETY: takes a handle of this process's own, and the place lives until the call returns.
    (unsafe { GetConsoleMode(console, &raw mut mode) } != 0).then_some(mode)
}

/// A console that shows nothing of what is typed, until this is dropped. Ctrl-C comes as a byte meanwhile: it would end the process
/// and leave the console so.
pub(crate) struct Unseen {
    before: Option<u32>,
}

impl Unseen {
    pub(crate) fn begin() -> Self {
        let input = std::io::stdin().as_raw_handle();
        let before = mode_of(input);
        if let Some(before) = before {
            let unseen = before & !(ENABLE_ECHO_INPUT | ENABLE_LINE_INPUT | ENABLE_PROCESSED_INPUT);
            // SAFETY: takes a handle of this process's own and a number.
            unsafe { SetConsoleMode(input, unseen) };
        }
        Self { before }
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // SAFETY: takes a handle of this process's own and a number.
            unsafe { SetConsoleMode(std::io::stdin().as_raw_handle(), before) };
        }
    }
}
