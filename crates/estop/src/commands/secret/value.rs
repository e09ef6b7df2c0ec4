//! Reading a value from standard input: from a pipe as it is, from a person without showing it.
//!
//! One newline at the end is left out, as `echo` and editors add it; where a value ends with several, all are kept. At a terminal the
//! value is one line.

use std::io::{IsTerminal as _, Read as _, Write as _};

use estop_secrets::document::MAX_VALUE_BYTES;
use estop_secrets::{SecretName, SecretValue};

use crate::failure::{Code, Failure, Result};
use crate::platform::terminal::Unseen;

/// Room for the longest value, a newline, and the byte that tells that there is more. Never grown: growing would leave copies behind.
const ROOM: usize = MAX_VALUE_BYTES + 2;

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const BACKSPACES: [u8; 2] = [8, 127];

/// The value of `name`.
///
/// # Errors
/// If it is empty or too long (2), or the person gave up.
pub(super) fn from_stdin(name: &SecretName) -> Result<SecretValue> {
    let bytes = if std::io::stdin().is_terminal() { from_person(name)? } else { from_pipe()? };
    let length = bytes.len();
    let value = SecretValue::new(bytes);
    if length == 0 {
        return Err(Failure::usage(
            "the value is empty",
            format!("give it on standard input: `… | estop secret put {name}`"),
        ));
    }
    if length > MAX_VALUE_BYTES {
        let message = format!("the value is longer than {MAX_VALUE_BYTES} bytes");
        return Err(Failure::usage(message, "keep large things elsewhere, and the key to them here"));
    }
    Ok(value)
}

fn from_pipe() -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2 * ROOM);
    let read = std::io::stdin().lock().take(ROOM as u64).read_to_end(&mut bytes);
    read.map_err(|error| Failure::failed(format!("cannot read the value from standard input: {error}"), ""))?;
    if bytes.ends_with(b"\n") && !bytes.ends_with(b"\n\n") {
        bytes.pop();
    }
    Ok(bytes)
}

/// One line that the terminal does not show.
fn from_person(name: &SecretName) -> Result<Vec<u8>> {
    // A person without standard error to read from has been told by the manual.
    let _ = write!(std::io::stderr(), "value of {name} (not shown): ");
    let quiet = Unseen::begin();
    let line = read_line();
    drop(quiet);
    let _ = writeln!(std::io::stderr());
    line
}

fn read_line() -> Result<Vec<u8>> {
    let mut line = Vec::with_capacity(2 * ROOM);
    for byte in std::io::stdin().lock().bytes().take(ROOM) {
        match byte.map_err(|error| Failure::failed(format!("cannot read the value: {error}"), ""))? {
            b'\n' | b'\r' | CTRL_D => break,
            CTRL_C => return Err(Failure::new(Code::Failed, "given-up", "nothing was put", "")),
            erase if BACKSPACES.contains(&erase) => drop(line.pop()),
            byte => line.push(byte),
        }
    }
    Ok(line)
}
