//! One file for each platform, with the same functions in both.

#[cfg(windows)]
#[allow(unsafe_code, reason = "the standard library offers no access rules")]
pub mod access;
#[cfg(windows)]
#[allow(unsafe_code, reason = "the standard library does not say who holds a file")]
pub mod holders;
#[cfg(windows)]
#[allow(unsafe_code, reason = "the standard library knows no privileges")]
pub mod privileges;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
#[allow(unsafe_code, reason = "the standard library makes no directory with access rules")]
mod windows;

#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;
