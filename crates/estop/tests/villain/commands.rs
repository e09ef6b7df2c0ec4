//! The commands that a shell runs in its own process, and that are programs of their own as well: with what the scripts of the
//! tests use of them.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use crate::streams::{Streams, path, reader, writer};

/// Gives the exit code.
pub(crate) type Command = fn(&[String], &Streams) -> i32;

pub(crate) fn find(name: &str) -> Option<Command> {
    Some(match name {
        ":" | "true" => |_, _| 0,
        "false" => |_, _| 1,
        "[" => |arguments, streams| match arguments.split_last() {
            Some((last, condition)) if last == "]" => test(condition, streams),
            _ => usage("[: no ]", streams),
        },
        "test" => test,
        "echo" => echo,
        "printf" => printf,
        "sleep" => sleep,
        "touch" => touch,
        "cat" => cat,
        "head" => head,
        "tr" => tr,
        "rm" => rm,
        "mkdir" => mkdir,
        "mv" => mv,
        "cp" => cp,
        "ln" => ln,
        "pwd" => |_, streams| {
            said(
                std::env::current_dir().and_then(|dir| streams.write(format!("{}\n", dir.display()).as_bytes())),
                "pwd",
                streams,
            )
        },
        _ => return None,
    })
}

/// The exit code of `result`, and its error told.
fn said(result: io::Result<()>, what: &str, streams: &Streams) -> i32 {
    let Err(error) = result else { return 0 };
    streams.complain(&format!("{what}: {error}"));
    1
}

fn usage(what: &str, streams: &Streams) -> i32 {
    streams.complain(what);
    2
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn test(condition: &[String], streams: &Streams) -> i32 {
    let words: Vec<&str> = condition.iter().map(String::as_str).collect();
    let holds = match words[..] {
        [] => Some(false),
        [word] => Some(!word.is_empty()),
        ["!", ..] => match test(&condition[1..], streams) {
            2 => return 2,
            code => Some(code != 0),
        },
        ["-n", word] => Some(!word.is_empty()),
        ["-z", word] => Some(word.is_empty()),
        ["-e", file] => Some(path(file).exists()),
        ["-f", file] => Some(path(file).is_file()),
        ["-d", file] => Some(path(file).is_dir()),
        ["-s", file] => Some(path(file).metadata().is_ok_and(|metadata| metadata.len() > 0)),
        [left, "=", right] => Some(left == right),
        [left, "!=", right] => Some(left != right),
        [left, comparison, right] => number(left).zip(number(right)).and_then(|(left, right)| match comparison {
            "-eq" => Some(left == right),
            "-ne" => Some(left != right),
            "-lt" => Some(left < right),
            "-le" => Some(left <= right),
            "-gt" => Some(left > right),
            "-ge" => Some(left >= right),
            _ => None,
        }),
        _ => None,
    };
    holds.map_or_else(
        || usage(&format!("test: not understood: {}", words.join(" ")), streams),
        |holds| i32::from(!holds),
    )
}

fn echo(words: &[String], streams: &Streams) -> i32 {
    said(streams.write(format!("{}\n", words.join(" ")).as_bytes()), "echo", streams)
}

/// `text` with what `\n`, `\t`, `\\` and `\0` stand for.
fn unescaped(text: &str) -> String {
    [("\\\\", "\u{1}\u{2}"), ("\\n", "\n"), ("\\t", "\t"), ("\\0", "\0"), ("\u{1}\u{2}", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

/// With `%s`, `%d` and `%%`; once for all words, as often as there are words for it.
fn printf(words: &[String], streams: &Streams) -> i32 {
    let Some((format, words)) = words.split_first() else { return usage("printf: no format", streams) };
    let format = unescaped(format);
    let mut left = words.iter();
    let mut text = String::new();
    loop {
        let before = left.len();
        let mut rest = format.chars();
        while let Some(one) = rest.next() {
            match (one, if one == '%' { rest.next() } else { None }) {
                ('%', Some('%')) => text.push('%'),
                ('%', Some('s' | 'd')) => text.push_str(left.next().map_or("", String::as_str)),
                ('%', other) => return usage(&format!("printf: not understood: %{}", other.unwrap_or(' ')), streams),
                (one, _) => text.push(one),
            }
        }
        if left.len() == 0 || left.len() == before {
            return said(streams.write(text.as_bytes()), "printf", streams);
        }
    }
}

fn sleep(words: &[String], streams: &Streams) -> i32 {
    let seconds = words.first().and_then(|seconds| seconds.parse::<f64>().ok());
    let Some(time) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
        return usage("sleep: no time", streams);
    };
    std::thread::sleep(time);
    0
}

fn touch(files: &[String], streams: &Streams) -> i32 {
    let one = |file: &String| {
        said(writer(file, true).and_then(|file| file.set_modified(std::time::SystemTime::now())), file, streams)
    };
    files.iter().map(one).fold(0, i32::max)
}

/// Copies `input` to the output until one of them ends, at most `length` bytes.
fn copy(input: Box<dyn Read>, length: u64, streams: &Streams) -> io::Result<()> {
    let mut input = input.take(length);
    let mut block = vec![0; 1 << 18];
    loop {
        match input.read(&mut block) {
            Ok(0) => return Ok(()),
            // The other end of a pipe is gone, which Windows tells the reader of.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            read => streams.write(&block[..read?])?,
        }
    }
}

fn cat(files: &[String], streams: &Streams) -> i32 {
    if files.is_empty() {
        return said(copy(streams.input(), u64::MAX, streams), "cat", streams);
    }
    let one = |file: &String| said(reader(file).and_then(|input| copy(input, u64::MAX, streams)), file, streams);
    files.iter().map(one).fold(0, i32::max)
}

/// `-c BYTES`, `-n LINES`, `-LINES`; ten lines without.
fn head(words: &[String], streams: &Streams) -> i32 {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (bytes, count, files) = match words[..] {
        ["-c", count, ref files @ ..] => (true, number(count), files),
        ["-n", count, ref files @ ..] => (false, number(count), files),
        [count, ref files @ ..] if count.starts_with('-') => (false, number(&count[1..]), files),
        ref files => (false, Some(10), files),
    };
    let (Some(count), Ok(input)) = (count, files.first().map_or_else(|| Ok(streams.input()), |file| reader(file)))
    else {
        return usage("head: no such number or file", streams);
    };
    said(if bytes { copy(input, count, streams) } else { lines(input, count, streams) }, "head", streams)
}

fn lines(mut input: Box<dyn Read>, mut count: u64, streams: &Streams) -> io::Result<()> {
    let mut text = Vec::new();
    let mut byte = [0];
    // One byte at a time: what comes after is for the next reader.
    while count > 0 && input.read(&mut byte)? > 0 {
        text.push(byte[0]);
        count -= u64::from(byte[0] == b'\n');
    }
    streams.write(&text)
}

/// One byte for another, as they stand in the two words.
fn tr(words: &[String], streams: &Streams) -> i32 {
    let [from, to] = words else { return usage("tr: two words are needed", streams) };
    let (from, to) = (unescaped(from), unescaped(to));
    let Some(last) = to.bytes().last() else { return usage("tr: nothing to put in its place", streams) };
    let mut bytes = Vec::new();
    let read = streams.input().read_to_end(&mut bytes);
    for byte in &mut bytes {
        if let Some(at) = from.bytes().position(|one| one == *byte) {
            *byte = to.as_bytes().get(at).copied().unwrap_or(last);
        }
    }
    said(read.and_then(|_| streams.write(&bytes)), "tr", streams)
}

/// The paths, and whether the only option is there.
fn option<'a>(words: &'a [String], name: &str) -> (bool, &'a [String]) {
    match words.split_first() {
        Some((first, paths)) if first == name => (true, paths),
        _ => (false, words),
    }
}

fn rm(words: &[String], streams: &Streams) -> i32 {
    let (everything, paths) = option(words, "-rf");
    let (unless_absent, paths) = option(paths, "-f");
    let one = |name: &String| {
        let path = path(name);
        let is_directory = everything && path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let removed = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        let absent = removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        said(if absent && (everything || unless_absent) { Ok(()) } else { removed }, name, streams)
    };
    paths.iter().map(one).fold(0, i32::max)
}

fn mkdir(words: &[String], streams: &Streams) -> i32 {
    let (all, paths) = option(words, "-p");
    let make = |path: &Path| if all { fs::create_dir_all(path) } else { fs::create_dir(path) };
    paths.iter().map(|name| said(make(&path(name)), name, streams)).fold(0, i32::max)
}

/// What `from` is called at the place `to`, which may be a directory.
fn place(from: &Path, to: &Path) -> std::path::PathBuf {
    from.file_name().filter(|_| to.is_dir()).map_or_else(|| to.to_owned(), |name| to.join(name))
}

fn mv(words: &[String], streams: &Streams) -> i32 {
    let [from, to] = words else { return usage("mv: two paths are needed", streams) };
    let (from, to) = (path(from), path(to));
    said(fs::rename(&from, place(&from, &to)), "mv", streams)
}

fn cp(words: &[String], streams: &Streams) -> i32 {
    let [from, to] = words else { return usage("cp: two paths are needed", streams) };
    let (from, to) = (path(from), path(to));
    said(fs::copy(&from, place(&from, &to)).map(drop), "cp", streams)
}

/// `-s TARGET PATH`.
fn ln(words: &[String], streams: &Streams) -> i32 {
    let (true, [target, link]) = option(words, "-s") else { return usage("ln: -s and two paths are needed", streams) };
    let (target, link) = (path(target), path(link));
    #[cfg(unix)]
    let made = std::os::unix::fs::symlink(&target, &link);
    #[cfg(windows)]
    let made = if link.with_file_name(&target).is_dir() {
        std::os::windows::fs::symlink_dir(&target, &link)
    } else {
        std::os::windows::fs::symlink_file(&target, &link)
    };
    // Wine says that it has made one, and has not.
    said(made.and_then(|()| link.symlink_metadata().map(drop)), "ln", streams)
}
