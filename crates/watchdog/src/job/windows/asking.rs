//! Asking a program to end: what a person at its console or its window would do.

use std::collections::HashSet;
use std::io;

use windows_sys::Win32::Foundation::{HWND, LPARAM};
use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_BREAK_EVENT, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, SetConsoleCtrlHandler,
};
use windows_sys::Win32::UI::WindowsAndMessaging::{EnumWindows, GetWindowThreadProcessId, PostMessageW, WM_CLOSE};

use super::object::check;

/// What is asked at a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Ctrl-C, which a program may ignore from its start.
    C,
    /// Ctrl-Break, which it cannot.
    Break,
}

/// Presses `key` at the console of `group`, the first process of a process group of its own. This process gives up its own
/// console for that, if it has one: it is for a guardian, which needs none.
///
/// # Errors
/// The system's answer: the process has no console, say.
pub(super) fn press(key: Key, group: u32) -> io::Result<()> {
    // SAFETY: takes nothing. Without a console it fails, which is as well.
    unsafe { FreeConsole() };
    // SAFETY: takes a number.
    check(unsafe { AttachConsole(group) })?;
    // What everybody at that console hears, this process must not end of.
    // SAFETY: no handler is given: Ctrl-C is ignored.
    unsafe { SetConsoleCtrlHandler(None, 1) };
    let (event, to) = match key {
        // Ctrl-C reaches no single group, only all at a console: this one is the program's own.
        Key::C => (CTRL_C_EVENT, 0),
        Key::Break => (CTRL_BREAK_EVENT, group),
    };
    // SAFETY: takes two numbers.
    let pressed = check(unsafe { GenerateConsoleCtrlEvent(event, to) });
    // SAFETY: takes nothing.
    unsafe { FreeConsole() };
    pressed
}

/// Asks every window of `processes` to close. How many there were.
pub(super) fn close_windows(processes: &HashSet<u32>) -> u32 {
    let mut asked = Asked { processes, count: 0 };
    // SAFETY: the function gets the one argument that it takes for what it is, and it lives until the call returns.
    unsafe { EnumWindows(Some(ask_window), (&raw mut asked) as LPARAM) };
    asked.count
}

struct Asked<'a> {
    processes: &'a HashSet<u32>,
    count: u32,
}

unsafe extern "system" fn ask_window(window: HWND, asked: LPARAM) -> i32 {
    // SAFETY: the only caller passes a pointer to it, which nobody else uses meanwhile.
    let asked = unsafe { &mut *(asked as *mut Asked<'_>) };
    let mut owner = 0;
    // SAFETY: the place lives until the call returns.
    unsafe { GetWindowThreadProcessId(window, &raw mut owner) };
    if asked.processes.contains(&owner) {
        // SAFETY: takes a window, which may be gone by now, and three numbers.
        unsafe { PostMessageW(window, WM_CLOSE, 0, 0) };
        asked.count += 1;
    }
    1
}
