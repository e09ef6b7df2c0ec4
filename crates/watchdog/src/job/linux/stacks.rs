//! Where in the kernel a process waits that nothing can end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitIdOptions, pidfd_send_signal};

use super::ready;
use super::spawn::{copy, leave};
use super::wait_for;
use crate::stop::Survivor;

/// Of how many survivors it is told, and how deep.
const TOLD: usize = 16;
const DEEP: usize = 24;
/// How long the kernel has to tell: who asks is kept waiting by one that is just being executed.
const WAIT: Duration = Duration::from_millis(250);
/// The kernel's own limit is a page.
const LONGEST: usize = 4096;

/// The stacks of processes, by their numbers.
type Stacks = Vec<(u32, Vec<String>)>;

/// Adds the stacks of those in uninterruptible sleep, as `ask` has them. Only root is told.
pub(super) fn tell(survivors: &mut [Survivor], ask: fn(Vec<u32>) -> Stacks) {
    let stuck: Vec<u32> =
        survivors.iter().filter(|survivor| survivor.state == "D").take(TOLD).map(|survivor| survivor.pid).collect();
    if stuck.is_empty() || !rustix::process::geteuid().is_root() {
        return;
    }
    for (pid, stack) in ask(stuck) {
        survivors.iter_mut().filter(|survivor| survivor.pid == pid).for_each(|found| found.stack.clone_from(&stack));
    }
}

/// Has a copy of this process, which must have one thread, ask. It is gone on return.
#[expect(clippy::needless_pass_by_value, reason = "as by a thread")]
pub(super) fn by_copy(pids: Vec<u32>) -> Stacks {
    let Ok((told, telling)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else { return Vec::new() };
    match copy() {
        Ok(None) => {
            let mut telling = File::from(telling);
            // What does not fit into the pipe is left out.
            let _ = pids.iter().try_for_each(|pid| telling.write_all(&labelled(*pid)));
            leave(0)
        }
        Ok(Some(child)) => {
            drop(telling);
            let text = read_within(told, WAIT);
            // It waits for nothing that a kill does not interrupt.
            let _ = pidfd_send_signal(&child.fd, Signal::KILL);
            let _ = wait_for(&child.fd, WaitIdOptions::EXITED);
            parse(&text)
        }
        Err(_) => Vec::new(),
    }
}

/// Has a thread ask, which ends with this process if it is kept waiting.
pub(super) fn by_thread(pids: Vec<u32>) -> Stacks {
    let (telling, told) = channel();
    let asking = std::thread::Builder::new().spawn(move || {
        for pid in pids {
            // Whoever waits may have given up.
            let _ = telling.send(labelled(pid));
        }
    });
    let deadline = Instant::now() + WAIT;
    let mut text = Vec::new();
    while asking.is_ok()
        && let Ok(more) = told.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        text.extend(more);
    }
    parse(&text)
}

/// The stack of one process behind a line with its number.
fn labelled(pid: u32) -> Vec<u8> {
    let mut text = format!("{pid}\n").into_bytes();
    if let Ok(file) = File::open(format!("/proc/{pid}/stack")) {
        // One that has ended meanwhile waits no more.
        let _ = file.take(LONGEST as u64).read_to_end(&mut text);
    }
    text
}

/// `[<0>] percpu_rwsem_wait+0x15f/0x1d0`, a line each.
fn parse(text: &[u8]) -> Stacks {
    let mut found = Stacks::new();
    for line in String::from_utf8_lossy(text).lines() {
        if let Ok(pid) = line.parse() {
            found.push((pid, Vec::new()));
        } else if let Some((_, stack)) = found.last_mut().filter(|(_, stack)| stack.len() < DEEP) {
            let frame = line.split_once("] ").map_or(line, |(_, frame)| frame);
            stack.push(frame.chars().take(120).collect());
        }
    }
    found
}

fn read_within(from: OwnedFd, wait: Duration) -> Vec<u8> {
    let deadline = Instant::now() + wait;
    let (mut text, mut file) = (Vec::new(), File::from(from));
    let mut buffer = [0; LONGEST];
    loop {
        match file.read(&mut buffer) {
            Ok(1..) if Instant::now() >= deadline => return text,
            Ok(0) => return text,
            Ok(read) => text.extend_from_slice(&buffer[..read]),
            Err(_) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() || !ready::readable(&file, left) && Instant::now() >= deadline {
                    return text;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_told_apart_by_their_processes() {
        let text = b"7\n[<0>] percpu_rwsem_wait+0x15f/0x1d0\n[<0>] mnt_want_write+0x96/0xc0\n8\n";
        let stack = vec!["percpu_rwsem_wait+0x15f/0x1d0".to_owned(), "mnt_want_write+0x96/0xc0".to_owned()];
        assert_eq!(parse(text), [(7, stack), (8, Vec::new())]);
    }
}
