//! The Windows Event Log: a source in the log "Application". See "Event Logging" in the Windows documentation.

use std::io;

use windows_registry::LOCAL_MACHINE;

/// Where the sources of the log "Application" are registered.
const SOURCES: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application";
/// A program of every Windows whose messages 1 to 1000 are "%1": the text that is reported. So no message resource is built.
const MESSAGES: &str = r"%SystemRoot%\System32\EventCreate.exe";
/// The longest text of an event, in UTF-16 units; the limit is 31,839.
const TEXT_MAX: usize = 31_000;

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// To be known.
    Information,
    /// To be looked at.
    Warning,
    /// To be mended.
    Error,
}

/// Makes the viewer show the texts of `source` as they are. Needs an administrator.
///
/// # Errors
/// The system's answer.
pub(crate) fn register(source: &str) -> io::Result<()> {
    let write = || -> windows_registry::Result<()> {
        let key = LOCAL_MACHINE.create(format!(r"{SOURCES}\{source}"))?;
        key.set_expand_string("EventMessageFile", MESSAGES)?;
        key.set_u32("TypesSupported", 7)?;
        key.set_u32("CustomSource", 1)
    };
    write().map_err(as_io)
}

/// Takes the registration of `source` away; that there is none is no error.
///
/// # Errors
/// The system's answer; or the name is none, of which all sources would go.
pub(crate) fn unregister(source: &str) -> io::Result<()> {
    if source.is_empty() || source.contains('\\') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{source:?} is no name of a source")));
    }
    match LOCAL_MACHINE.remove_tree(format!(r"{SOURCES}\{source}")).map_err(as_io) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// windows-registry's own conversion keeps the HRESULT (0x8007xxxx) as the code, of which the standard library makes no kind.
fn as_io(error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    match error.raw_os_error().map(i32::cast_unsigned) {
        Some(code) if code >> 16 == 0x8007 => io::Error::from_raw_os_error((code & 0xffff).cast_signed()),
        _ => error,
    }
}

/// An open source. Works for one that is not registered too: the viewer then shows the text under an explanation.
#[derive(Debug)]
pub(crate) struct Source(sys::Handle);

impl Source {
    /// Opens the source called `name`.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) fn open(name: &str) -> io::Result<Self> {
        sys::open(&wide(name, usize::MAX)).map(Self)
    }

    /// Reports one event.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) fn report(&self, severity: Severity, text: &str) -> io::Result<()> {
        sys::report(&self.0, severity, &wide(&shown(text), TEXT_MAX))
    }
}

/// `text` as the viewer is to show it: it would put something else for `%1` and `%%1`.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut after_percent = false;
    for character in text.chars() {
        if after_percent && (character.is_ascii_digit() || character == '%') {
            shown.push(' ');
        }
        shown.push(if character == '\0' { '\u{fffd}' } else { character });
        after_percent = character == '%';
    }
    shown
}

/// `text` in UTF-16, at most `max` units of it, with the zero at its end.
fn wide(text: &str, max: usize) -> Vec<u16> {
    let mut units = Vec::with_capacity(text.len() + 1);
    let mut pair = [0; 2];
    for character in text.chars() {
        let encoded = character.encode_utf16(&mut pair);
        if units.len() + encoded.len() > max {
            break;
        }
        units.extend_from_slice(encoded);
    }
    units.push(0);
    units
}

mod sys {
    use std::{io, ptr};

    use windows_sys::Win32::Foundation::HANDLE;
    use windows_sys::Win32::System::EventLog::{
        DeregisterEventSource, EVENTLOG_ERROR_TYPE, EVENTLOG_INFORMATION_TYPE, EVENTLOG_WARNING_TYPE,
        RegisterEventSourceW, ReportEventW,
    };

    use super::Severity;

    #[derive(Debug)]
    pub(super) struct Handle(HANDLE);

    // SAFETY: the handle is one to a connection with the Event Log service, which is told apart by its value alone and may be
    // used by any thread, by several at once too.
    unsafe impl Send for Handle {}
    // SAFETY: as above.
    unsafe impl Sync for Handle {}

    impl Drop for Handle {
        fn drop(&mut self) {
            // SAFETY: the handle is from RegisterEventSourceW, and nobody uses it after this.
            unsafe { DeregisterEventSource(self.0) };
        }
    }

    /// Opens the source `name`, which ends with a zero.
    pub(super) fn open(name: &[u16]) -> io::Result<Handle> {
        debug_assert_eq!(name.last(), Some(&0));
        // SAFETY: the name ends with a zero, and is only read during the call.
        let handle = unsafe { RegisterEventSourceW(ptr::null(), name.as_ptr()) };
        if handle.is_null() { Err(io::Error::last_os_error()) } else { Ok(Handle(handle)) }
    }

    /// Reports `text`, which ends with a zero.
    pub(super) fn report(handle: &Handle, severity: Severity, text: &[u16]) -> io::Result<()> {
        debug_assert_eq!(text.last(), Some(&0));
        let (kind, id) = match severity {
            Severity::Information => (EVENTLOG_INFORMATION_TYPE, 1),
            Severity::Warning => (EVENTLOG_WARNING_TYPE, 2),
            Severity::Error => (EVENTLOG_ERROR_TYPE, 3),
        };
        let texts = [text.as_ptr()];
        // SAFETY: the handle is open; there is one text, which ends with a zero; there is no SID and there are no data. All of
        // it is only read during the call.
        let done = unsafe { ReportEventW(handle.0, kind, 0, id, ptr::null_mut(), 1, 0, texts.as_ptr(), ptr::null()) };
        if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn is_registered(source: &str) -> bool {
        LOCAL_MACHINE.open(format!(r"{SOURCES}\{source}")).is_ok()
    }

    #[test]
    fn text_is_shown_as_it_is() {
        assert_eq!(shown("fe80::1%12 100%, %%5 a\0b"), "fe80::1% 12 100%, % % 5 a\u{fffd}b");
        assert_eq!(wide("aß😀b", 3), [u16::from(b'a'), 0xdf, 0], "no half of a pair");
    }

    #[test]
    fn registration_comes_and_goes() {
        let name = format!("estop-test-{}", std::process::id());
        register(&name).unwrap();
        register(&name).unwrap();
        assert!(is_registered(&name));
        unregister(&name).unwrap();
        unregister(&name).unwrap();
        assert!(!is_registered(&name));
        assert!(unregister("").is_err(), "all of them would be gone");
    }

    #[test]
    fn events_are_taken() {
        let source = Source::open("estop-test").unwrap();
        for severity in [Severity::Information, Severity::Warning, Severity::Error] {
            source.report(severity, "a test of estop, to be ignored").unwrap();
        }
        source.report(Severity::Information, &"x".repeat(100_000)).unwrap();
    }
}
