//! Standard streams, byte for byte.

use std::io::{Read as _, Write as _};
use std::process::Stdio;

use crate::scene::Scene;
#[cfg(unix)]
use crate::scene::until;

/// More than any pipe holds, in bytes.
const MUCH: usize = 1_000_000_000;

#[test]
fn a_gigabyte_goes_through_both_ways_unchanged() {
    let scene = Scene::new();
    let mut command = scene.command(&["run", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let block: Vec<u8> = (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let writer = std::thread::spawn({
        let block = block.clone();
        move || (0..MUCH / block.len()).for_each(|_| input.write_all(&block).unwrap())
    });
    let mut received = vec![0; block.len()];
    for _ in 0..MUCH / block.len() {
        output.read_exact(&mut received).unwrap();
        assert!(received == block, "bytes were changed");
    }
    writer.join().unwrap();
    assert_eq!(output.read(&mut received).unwrap(), 0, "more came out than went in");
    assert!(child.wait().unwrap().success());
    scene.expect_nothing_left();
}

#[test]
fn the_streams_stay_apart() {
    let scene = Scene::new();
    let outcome = scene.house().feed(&["run", "--", "sh", "-c", "cat; echo error >&2; printf end"], "in\0\u{1}put");
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "in\0\u{1}putend", "error\n"));
}

/// Whoever reads from a command sees its streams end when the command closes them, though it lives on.
#[cfg(unix)]
#[test]
fn closing_a_stream_early_shows_at_the_other_end() {
    let scene = Scene::new();
    let sign = scene.path().join("read-to-the-end");
    let body = format!("exec >&- 2>&-; while [ ! -e {} ]; do sleep 0.02; done", sign.display());
    for options in [&[][..], &["--no-cgroup"], &["--no-cgroup", "--no-pid-namespace"]] {
        let _ = std::fs::remove_file(&sign);
        let arguments = [&["run"], options, &["--", "sh", "-c", &body]].concat();
        let mut child = scene.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        // Comes back only if nobody else holds the pipe: the command waits for the sign.
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        std::fs::write(&sign, "").unwrap();
        assert!(child.wait().unwrap().success());
    }
    scene.expect_nothing_left();
}

/// The command's input ends when its writer closes it, and a writer without a reader is told so.
#[cfg(unix)]
#[test]
fn nobody_holds_the_other_ends_of_the_pipes() {
    let scene = Scene::new();
    let mut child = scene
        .command(&["run", "--", "sh", "-c", "exec <&-; echo closed; sleep 1000"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    until("writing to a command that closed its input fails", || input.write_all(b"x").is_err());
    crate::scene::signal(child.id(), rustix::process::Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // `yes | head -1` ends, by the signal that it would end by without estop.
    let program = crate::house::ESTOP;
    let script = format!("{program} run -- yes | head -1; echo ${{PIPESTATUS[0]}}");
    let mut command = scene.command(&[]);
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", &script]);
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            bash.env(name, value);
        }
    }
    let _ = command.stdin(Stdio::null());
    assert_eq!(String::from_utf8_lossy(&bash.output().unwrap().stdout), "y\n141\n");
    scene.expect_nothing_left();
}
