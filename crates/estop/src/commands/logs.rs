//! `estop logs`: a workload's output, without the secrets that it was given.

use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::time::Duration;

use estop_watchdog::guardian::first_data;
use serde_json::json;

use crate::cli::Output;
use crate::engine::launch::check_name;
use crate::engine::masks::Masks;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// How often a growing log file is looked at.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// Shows a workload's output.
///
/// # Errors
/// If there is none.
pub(super) fn logs(site: &Site, name: &str, follow: bool, output: &Output) -> Result<Code> {
    check_name(name)?;
    let path = site.log_file(name);
    let mut file = std::fs::File::open(&path).map_err(|error| Failure::io("open the output of", &path, &error))?;
    skip_hole(&mut file).map_err(|error| Failure::io("read", &path, &error))?;
    let mut masks = Masks::default();
    if let Err(failure) = masks.read(site, name) {
        output.warn(&format!("secrets in this output are not masked: {}", failure.message));
    }
    let mut rest = Vec::new();
    loop {
        let read = file.read_to_end(&mut rest).map_err(|error| Failure::io("read", &path, &error))?;
        // What is shown ends with a line while there may be more: a secret must not be cut in two.
        let end = if follow { memchr::memrchr(b'\n', &rest).map_or(0, |end| end + 1) } else { rest.len() };
        if follow && read > 0 {
            // It may have been given more meanwhile; those that are known stay masked.
            let _ = masks.read(site, name);
        }
        let text = masks.apply(&rest[..end]);
        rest.drain(..end);
        if !follow && output.json {
            let text = String::from_utf8_lossy(&text);
            let answer = json!({"schema_version": 1, "name": name, "lines": text.lines().collect::<Vec<_>>()});
            output.result(&answer, |_| String::new());
            return Ok(Code::Done);
        }
        if show(name, &text, output).is_err() || !follow {
            return Ok(Code::Done);
        }
        std::thread::sleep(FOLLOW_POLL);
        begin_again_if_cut(&mut file);
    }
}

/// A file that was cut short is read from its beginning.
fn begin_again_if_cut(file: &mut std::fs::File) {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if file.stream_position().is_ok_and(|position| position > length) {
        let _ = file.seek(SeekFrom::Start(0));
    }
}

/// The oldest of a long output was given back: what is left begins behind a hole, with the first whole line there.
fn skip_hole(file: &mut std::fs::File) -> std::io::Result<()> {
    // Where the filesystem knows no holes, or the file is empty, it begins at its beginning.
    let begin @ 1.. = first_data(file) else { return Ok(()) };
    file.seek(SeekFrom::Start(begin))?;
    let cut = BufReader::new(&*file).skip_until(b'\n')?;
    file.seek(SeekFrom::Start(begin + cut as u64)).map(drop)
}

/// The output as it is, or a JSON object a line.
fn show(name: &str, text: &[u8], output: &Output) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if !output.json {
        out.write_all(text)?;
        return out.flush();
    }
    for line in String::from_utf8_lossy(text).lines() {
        writeln!(out, "{}", json!({"schema_version": 1, "name": name, "line": line}))?;
    }
    out.flush()
}
