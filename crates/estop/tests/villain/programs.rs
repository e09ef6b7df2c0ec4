//! The commands that are a process of their own also when a shell runs them.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use crate::processes::Surroundings;

/// Gives the exit code.
pub(crate) type Program = fn(&[String], &Surroundings) -> i32;

/// How long one that stays does so, unless it is ended.
const LIFE: Duration = Duration::from_secs(1000);

pub(crate) fn find(name: &str) -> Option<Program> {
    Some(match name {
        "env" => env,
        "hog" => hog,
        #[cfg(windows)]
        "hold" => hold,
        "setsid" => setsid,
        "yes" => yes,
        _ => return None,
    })
}

/// `env [-i] [NAME=VALUE…] COMMAND…`, `env [-0]`.
fn env(words: &[String], around: &Surroundings) -> i32 {
    let mut around = around.clone();
    let mut words = words.iter().peekable();
    let mut end = '\n';
    while let Some(option) = words.next_if(|word| word.starts_with('-')) {
        match &option[..] {
            "-i" => around.environment.clear(),
            "-0" => end = '\0',
            _ => {
                around.streams.complain(&format!("env: not understood: {option}"));
                return 125;
            }
        }
    }
    while let Some((name, value)) = words.peek().and_then(|word| word.split_once('=')) {
        around.environment.insert(name.to_owned(), value.to_owned());
        words.next();
    }
    if let Some(program) = words.next() {
        return around.become_other(program, &words.cloned().collect::<Vec<_>>());
    }
    let shown = around.environment.iter().map(|(name, value)| format!("{name}={value}{end}"));
    i32::from(around.streams.write(shown.collect::<String>().as_bytes()).is_err())
}

/// `setsid COMMAND…`: at no terminal, in a group of its own, and not waited for.
fn setsid(words: &[String], around: &Surroundings) -> i32 {
    let Some((program, arguments)) = words.split_first() else { return 2 };
    let Some(mut command) = around.command(program, arguments) else { return around.not_found(program) };
    let Err(error) = apart(&mut command).spawn() else { return 0 };
    around.streams.complain(&format!("setsid: {program}: {error}"));
    126
}

#[cfg(unix)]
fn apart(command: &mut Command) -> &mut Command {
    std::os::unix::process::CommandExt::process_group(command, 0)
}

#[cfg(windows)]
fn apart(command: &mut Command) -> &mut Command {
    const DETACHED_PROCESS: u32 = 0x8;
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    std::os::windows::process::CommandExt::creation_flags(command, DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP)
}

/// Until nobody reads it any more, with the code that a shell shows for an end by SIGPIPE.
fn yes(_: &[String], around: &Surroundings) -> i32 {
    let much = "y\n".repeat(4096);
    while around.streams.write(much.as_bytes()).is_ok() {}
    141
}

/// `hog MIB [once|slowly]`: takes that much memory, at once or one after another, and stays.
fn hog(words: &[String], around: &Surroundings) -> i32 {
    let (size, slowly) = match words {
        [size] => (size, false),
        [size, how] if how == "once" || how == "slowly" => (size, how == "slowly"),
        _ => return around.not_found("hog: a size in MiB"),
    };
    let Ok(size) = size.parse::<usize>() else { return around.not_found("hog: a size in MiB") };
    let (blocks, each) = if slowly { (size, 1) } else { (1, size) };
    let mut kept = Vec::new();
    for _ in 0..blocks {
        // Written to, or no memory is taken for it. What is refused ends it, as elsewhere the kernel does.
        let mut block = Vec::new();
        if block.try_reserve_exact(each << 20).is_err() {
            around.streams.complain("hog: no more memory");
            return 137;
        }
        block.resize(each << 20, 1_u8);
        kept.push(block);
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(LIFE);
    i32::from(std::hint::black_box(kept).is_empty())
}

/// `hold FILE`: nobody else can open it as long as this lives.
#[cfg(windows)]
fn hold(words: &[String], around: &Surroundings) -> i32 {
    use std::os::windows::fs::OpenOptionsExt as _;
    let Some(file) = words.first() else { return 2 };
    let opened = std::fs::OpenOptions::new().read(true).write(true).share_mode(0).open(crate::streams::path(file));
    match opened {
        Ok(_held) => {
            let _ = around.streams.write(b"held\n");
            std::thread::sleep(LIFE);
            0
        }
        Err(error) => {
            around.streams.complain(&format!("hold: {file}: {error}"));
            1
        }
    }
}

/// `show NAME ARGUMENT…`: each argument and, last, the variable, to the byte as this host encodes them, with `|` between.
pub(crate) fn show(words: &[OsString]) -> i32 {
    let Some((name, arguments)) = words.split_first() else { return 2 };
    let value = std::env::var_os(name).unwrap_or_default();
    let all: Vec<&[u8]> = arguments.iter().chain([&value]).map(|one| one.as_encoded_bytes()).collect();
    i32::from(std::io::stdout().write_all(&all.join(&b'|')).is_err())
}
