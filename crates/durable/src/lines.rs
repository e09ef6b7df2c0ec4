//! JSON lines, each chained to the one before by hash: readable by people and by `grep`, and no line can be changed,
//! removed or moved unnoticed.
//!
//! Each line is an object that begins with the caller's fields in alphabetical order, together with `previous` (the
//! hash of the line before, 64 hexadecimal digits, zeros for the first) and `sequence` (1 for the first), and ends with
//! `"hash"`, the BLAKE3 of the line without that last field. Beside the file stands `NAME.head`, a
//! [slot](crate::slot) with the last sequence and hash, so that lines missing at the end are noticed too.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::{Context as _, damaged};
use crate::file::created_with;
use crate::lock::Lock;
use crate::slot::Slot;
use crate::{Kind, Result, replace};

const HEAD_KIND: Kind = Kind(*b"LINEHEAD");
const HASH_FIELD: &str = ",\"hash\":\"";
/// Length of `,"hash":"…"}`.
const SUFFIX: usize = HASH_FIELD.len() + 64 + 2;
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A file of chained JSON lines that any process may append to, one at a time.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    head: Slot,
}

/// What [`verify`] found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of lines read.
    pub lines: u64,
    /// Whether no fault was found.
    pub ok: bool,
    /// What was found.
    pub faults: Vec<Fault>,
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line in the file, from 1; one past the last line where lines are missing at the end.
    pub line: u64,
    /// What kind of fault.
    pub kind: FaultKind,
    /// What was expected and found.
    pub detail: String,
}

/// The kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The line is not what was written.
    Changed,
    /// Lines are missing before this one.
    Missing,
    /// The line stands in another place than it was written to.
    Swapped,
    /// Lines are missing at the end.
    Truncated,
}

impl std::fmt::Display for FaultKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Swapped => "swapped",
            Self::Truncated => "truncated",
        })
    }
}

/// Sequence and hash of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    sequence: u64,
    hash: String,
}

impl Position {
    fn start() -> Self {
        Self { sequence: 0, hash: "0".repeat(64) }
    }
}

impl Lines {
    /// Opens the file at `path`, creating it (mode 0600) and the directory above it if they are absent.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if one cannot be opened or created.
    pub fn open(path: &Path) -> Result<Self> {
        replace::create_dir(&replace::parent_of(path), 0o700)?;
        let head = Slot::create_or_open(&beside(path, "head"), HEAD_KIND)?;
        Ok(Self { path: path.to_owned(), head })
    }

    /// Appends one line with the fields of `entry` and returns its sequence. It is durable when this returns.
    ///
    /// The names `sequence`, `previous` and `hash` belong to the chain: such fields of `entry` are replaced.
    ///
    /// # Errors
    /// [`Error::Locked`](crate::Error::Locked) if another process appends for more than five seconds;
    /// [`Error::Damaged`](crate::Error::Damaged) if the file's end is not what was appended last;
    /// [`Error::Io`](crate::Error::Io).
    pub fn append(&self, entry: &Map<String, Value>) -> Result<u64> {
        let _lock = Lock::acquire(&beside(&self.path, "lock"), LOCK_WAIT)?;
        let mut file = created_with(OpenOptions::new().read(true).append(true).create(true), 0o600)
            .open(&self.path)
            .context("open", &self.path)?;
        let last = self.last(&mut file)?;
        let (line, position) = encode(entry, &last);
        file.write_all(line.as_bytes()).context("append to", &self.path)?;
        file.sync_data().context("synchronise", &self.path)?;
        self.head.write(&encode_head(&position))?;
        Ok(position.sequence)
    }

    /// The last line's position, after cutting an unfinished line that was never acknowledged.
    fn last(&self, file: &mut File) -> Result<Position> {
        let head = read_head(&self.head);
        let (tail, start) = read_last_lines(file).context("read", &self.path)?;
        let whole = tail.rfind('\n').map_or(0, |end| end + 1);
        if whole < tail.len() {
            file.set_len(start + whole as u64).context("cut the unfinished line of", &self.path)?;
        }
        let last = tail[..whole].trim_end_matches('\n').rsplit('\n').next().unwrap_or_default();
        let last = if last.is_empty() {
            Position::start()
        } else {
            parse(last)
                .map(|(position, _)| position)
                .map_err(|detail| damaged(&self.path, format!("its last line: {detail}")))?
        };
        match head? {
            Some(head) if head.sequence > last.sequence => Err(damaged(
                &self.path,
                format!("lines {} to {} are missing at its end", last.sequence + 1, head.sequence),
            )),
            _ => Ok(last),
        }
    }
}

/// Checks every line of the file at `path`, without changing anything. An absent file has no lines and no faults,
/// unless its head says that there were some.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if it cannot be read.
pub fn verify(path: &Path) -> Result<Report> {
    let mut check = Check { expected: Position::start(), lines: 0, faults: Vec::new(), anchor: anchor(path) };
    match File::open(path) {
        Ok(file) => {
            for line in BufReader::new(file).split(b'\n') {
                check.line(&line.context("read", path)?);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).context("open", path),
    }
    Ok(check.finish())
}

struct Check {
    expected: Position,
    lines: u64,
    faults: Vec<Fault>,
    anchor: Option<Position>,
}

impl Check {
    fn line(&mut self, bytes: &[u8]) {
        self.lines += 1;
        let parsed = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()).and_then(parse);
        let (position, previous) = match parsed {
            Ok(parsed) => parsed,
            Err(detail) => {
                self.fault(FaultKind::Changed, detail);
                // What follows is judged against the place where this line stood.
                self.expected = Position { sequence: self.expected.sequence + 1, hash: String::new() };
                return;
            }
        };
        let wanted = self.expected.sequence + 1;
        if position.sequence > wanted {
            self.fault(FaultKind::Missing, format!("line {wanted} was expected, here is {}", position.sequence));
        } else if position.sequence < wanted {
            self.fault(FaultKind::Swapped, format!("line {wanted} was expected, here is {}", position.sequence));
        } else if !self.expected.hash.is_empty() && previous != self.expected.hash {
            self.fault(
                FaultKind::Changed,
                format!("it does not follow the line before it, sequence {}", position.sequence),
            );
        }
        if let Some(anchor) = &self.anchor
            && anchor.sequence == position.sequence
            && anchor.hash != position.hash
        {
            self.fault(FaultKind::Changed, "it is not the line that was acknowledged under this sequence".to_owned());
        }
        if position.sequence >= wanted {
            self.expected = position;
        }
    }

    fn fault(&mut self, kind: FaultKind, detail: String) {
        self.faults.push(Fault { line: self.lines, kind, detail });
    }

    fn finish(mut self) -> Report {
        if let Some(anchor) = &self.anchor
            && anchor.sequence > self.expected.sequence
        {
            let detail = format!("lines {} to {} are missing at the end", self.expected.sequence + 1, anchor.sequence);
            self.faults.push(Fault { line: self.lines + 1, kind: FaultKind::Truncated, detail });
        }
        Report { lines: self.lines, ok: self.faults.is_empty(), faults: self.faults }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn anchor(path: &Path) -> Option<Position> {
    read_head(&Slot::open(&beside(path, "head"), HEAD_KIND).ok()?).ok()?
}

fn encode_head(position: &Position) -> Vec<u8> {
    format!("{} {}", position.sequence, position.hash).into_bytes()
}

fn read_head(slot: &Slot) -> Result<Option<Position>> {
    Ok(slot.read()?.and_then(|payload| {
        let text = String::from_utf8(payload).ok()?;
        let (sequence, hash) = text.split_once(' ')?;
        Some(Position { sequence: sequence.parse().ok()?, hash: hash.to_owned() })
    }))
}

fn encode(entry: &Map<String, Value>, last: &Position) -> (String, Position) {
    let mut fields = entry.clone();
    fields.remove("hash");
    fields.insert("sequence".to_owned(), Value::from(last.sequence + 1));
    fields.insert("previous".to_owned(), Value::from(last.hash.clone()));
    let body = Value::Object(fields).to_string();
    let hash = blake3::hash(body.as_bytes()).to_hex().to_string();
    let open = body.strip_suffix('}').unwrap_or(&body);
    (format!("{open}{HASH_FIELD}{hash}\"}}\n"), Position { sequence: last.sequence + 1, hash })
}

/// The position of a line and the hash of the one before it.
fn parse(line: &str) -> std::result::Result<(Position, String), String> {
    let at = line
        .len()
        .checked_sub(SUFFIX)
        .filter(|&at| line.is_char_boundary(at))
        .ok_or("it is too short for a line of ours")?;
    let (open, suffix) = line.split_at(at);
    let hash = suffix
        .strip_prefix(HASH_FIELD)
        .and_then(|rest| rest.strip_suffix("\"}"))
        .ok_or("it does not end with its hash")?;
    let body = format!("{open}}}");
    if blake3::hash(body.as_bytes()).to_hex().as_str() != hash {
        return Err("its hash does not match".to_owned());
    }
    let fields: Map<String, Value> = serde_json::from_str(&body).map_err(|error| format!("it is not JSON: {error}"))?;
    let sequence = fields.get("sequence").and_then(Value::as_u64).ok_or("it has no sequence")?;
    let previous = fields.get("previous").and_then(Value::as_str).ok_or("it has no previous hash")?;
    Ok((Position { sequence, hash: hash.to_owned() }, previous.to_owned()))
}

/// The end of the file from the beginning of its last whole line on, and the offset where that begins.
fn read_last_lines(file: &mut File) -> std::io::Result<(String, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut span = 64 * 1024;
    loop {
        let start = length.saturating_sub(span);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // Two line ends are needed to be sure of one whole line, unless the beginning of the file is in sight.
        let pieces = bytes.split(|&byte| byte == b'\n').count();
        if start == 0 || pieces > 2 {
            let skip = if start == 0 { 0 } else { bytes.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1) };
            return Ok((String::from_utf8_lossy(&bytes[skip..]).into_owned(), start + skip as u64));
        }
        span *= 4;
    }
}
