//! The villain of the drill: a program that works for a while and then goes wrong. Everything that it does is bounded, in
//! number and in time, and happens in the drill's own directory.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use estop_watchdog::guardian::process_id;

use super::knowledge::DATABASE;
use crate::platform::processes;

/// How long it works before it goes wrong.
const WORK: Duration = Duration::from_millis(400);
/// How long any part of it lives at most, whatever happens.
const LIFE: Duration = Duration::from_mins(1);
/// How many children it spawns when it goes wrong.
const CHILDREN: u32 = 12;
/// How many processes it is at most: itself, a helper, a heart, and those children.
pub(super) const PROCESSES_AT_MOST: u32 = CHILDREN + 3;
/// What it eats at a time, in bytes.
const BITE: usize = 8 << 20;
/// What it eats at most, in bytes.
const STOMACH: usize = 1 << 30;
/// What marks its helpers.
const ROLE: &str = "ESTOP_DRILL_ROLE";

/// Where each process of it says that it is there.
pub(super) const PROCESSES: &str = "processes";

/// Works on `knowledge`, leaves word in `signs`, goes wrong.
pub fn main(knowledge: &Path, signs: &Path) -> ExitCode {
    let own = process_id(std::process::id()).map(|id| format!("{} {}", id.pid, id.start_time));
    if sign_in(&signs.join(PROCESSES), &own.unwrap_or_default()).is_err() {
        return ExitCode::FAILURE;
    }
    let result = match std::env::var(ROLE).as_deref() {
        Ok("heart") => beat(signs),
        Ok("idler") => {
            std::thread::sleep(LIFE);
            Ok(())
        }
        _ => agent(knowledge, signs),
    };
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn agent(knowledge: &Path, signs: &Path) -> std::io::Result<()> {
    helper(knowledge, signs, "idler", false)?;
    helper(knowledge, signs, "heart", true)?;
    let token = std::env::var("API_TOKEN").unwrap_or_default();
    sign(signs, &format!("working, with a token of {} characters", token.len()))?;
    let end = Instant::now() + WORK;
    let mut day = 0;
    while Instant::now() < end {
        day += 1;
        work(knowledge, day)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    sign(signs, "going wrong")?;
    for _ in 0..CHILDREN {
        helper(knowledge, signs, "idler", true)?;
    }
    ruin(knowledge)?;
    sign(signs, "ruined")?;
    eat();
    Ok(())
}

/// Another process of the same tree; `apart` puts it into a session of its own, which a kill by process group misses.
fn helper(knowledge: &Path, signs: &Path, role: &str, apart: bool) -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    let mut command = if apart { processes::apart(&program) } else { Command::new(program) };
    command.arg("__drill-agent").arg(knowledge).arg(signs).env(ROLE, role);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map(drop)
}

/// What a good agent does: a note, and a fact in the database.
fn work(knowledge: &Path, day: u32) -> std::io::Result<()> {
    let mut note = OpenOptions::new().append(true).create(true).open(knowledge.join("inbox/today.md"))?;
    writeln!(note, "- observed on day {day}")?;
    let connection = rusqlite::Connection::open(knowledge.join(DATABASE)).map_err(std::io::Error::other)?;
    connection
        .execute("INSERT INTO fact (subject, text) VALUES ('today', ?1)", [format!("day {day}")])
        .map(drop)
        .map_err(std::io::Error::other)
}

/// Shreds a third of the notes and sets their times back, encrypts and renames another third, deletes the rest; then the database.
fn ruin(knowledge: &Path) -> std::io::Result<()> {
    let mut notes: Vec<PathBuf> = fs::read_dir(knowledge.join("notes"))?.flatten().map(|entry| entry.path()).collect();
    notes.sort_unstable();
    for (index, note) in notes.iter().enumerate() {
        match index % 3 {
            0 => shred(note)?,
            1 => encrypt(note)?,
            _ => fs::remove_file(note)?,
        }
    }
    fs::remove_dir_all(knowledge.join("records"))?;
    fs::write(knowledge.join("READ_ME_TO_PAY.txt"), "All your knowledge are belong to us.\n")?;
    let database = knowledge.join(DATABASE);
    let mut content = fs::read(&database)?;
    let middle = content.len() / 2;
    content[middle..].iter_mut().for_each(|byte| *byte ^= 0xa5);
    fs::write(&database, content)
}

fn shred(path: &Path) -> std::io::Result<()> {
    let before = fs::metadata(path)?.modified()?;
    let length = usize::try_from(fs::metadata(path)?.len()).unwrap_or(0);
    fs::write(path, vec![0xff; length])?;
    OpenOptions::new().write(true).open(path)?.set_modified(before)
}

fn encrypt(path: &Path) -> std::io::Result<()> {
    let content: Vec<u8> = fs::read(path)?
        .iter()
        .enumerate()
        .map(|(index, byte)| byte ^ u8::try_from(index * 31 % 251).unwrap_or(7))
        .collect();
    fs::write(path.with_extension("locked"), content)?;
    fs::remove_file(path)
}

/// Eats memory, and waits to be stopped.
fn eat() {
    let end = Instant::now() + LIFE;
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    while Instant::now() < end {
        if eaten.len() * BITE < STOMACH {
            eaten.push(vec![1; BITE]);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Shows that it lives.
fn beat(signs: &Path) -> std::io::Result<()> {
    let end = Instant::now() + LIFE;
    while Instant::now() < end {
        sign_in(&signs.join("heartbeat"), "beat")?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn sign(signs: &Path, text: &str) -> std::io::Result<()> {
    sign_in(&signs.join("signs"), text)
}

fn sign_in(path: &Path, text: &str) -> std::io::Result<()> {
    writeln!(OpenOptions::new().append(true).create(true).open(path)?, "{text}")
}
