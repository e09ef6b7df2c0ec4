//! What a command inherits: arguments, variables, descriptors, mask, directory, user.

use std::ffi::OsString;
use std::process::Stdio;

use crate::scene::Scene;
#[cfg(unix)]
use crate::scene::is_root;

#[test]
fn arguments_and_variables_need_not_be_text() {
    let scene = Scene::new();
    #[cfg(unix)]
    let (strange, shown) =
        (std::os::unix::ffi::OsStringExt::from_vec(vec![b'a', 0xff, 0xfe, b'\n', b'z']), b"a\xff\xfe\nz");
    // Half a character of UTF-16.
    #[cfg(windows)]
    let (strange, shown) = (std::os::windows::ffi::OsStringExt::from_wide(&[0x61, 0xd800, 0x7a]), b"a\xed\xa0\x80z");
    let strange: OsString = strange;
    #[cfg(unix)]
    let show = ["run", "--", "sh", "-c", "printf '%s|%s|%s' \"$1\" \"$2\" \"$STRANGE\"", "sh"];
    #[cfg(windows)]
    let show = ["run", "--", "show", "STRANGE"];
    let output =
        scene.command(&show).arg(&strange).arg("").env("STRANGE", &strange).stdin(Stdio::null()).output().unwrap();
    let wanted = [shown.as_slice(), b"||", shown].concat();
    assert_eq!(output.stdout, wanted, "{output:?}");
}

#[test]
fn variables_are_the_callers_and_none_of_estops_keys() {
    let scene = Scene::new();
    let mut command = scene.command(&["run", "--", "env", "-0"]);
    command.env("ESTOP_SECRETS_KEY", "the-key").env("VAULT_TOKEN", "the-token").env("EMPTY", "").env("OTHER", "a=b\nc");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let variables: Vec<&str> = text.split('\0').collect();
    assert!(variables.contains(&"EMPTY=") && variables.contains(&"OTHER=a=b\nc"), "{text}");
    assert!(!text.contains("the-key") && !text.contains("the-token"), "{text}");
}

#[cfg(unix)]
#[test]
fn descriptors_mask_and_directory_are_the_callers() {
    let scene = Scene::new();
    let given = scene.house().file("given", "through descriptor 3");
    let directory = scene.path().join("a place");
    std::fs::create_dir(&directory).unwrap();
    for options in ["", "--no-cgroup", "--no-cgroup --no-pid-namespace"] {
        let script = format!(
            "umask 037; cd '{}'; exec {} run {options} -- sh -c 'cat <&3; echo; umask; pwd -P' 3<'{}'",
            directory.display(),
            crate::house::ESTOP,
            given.display()
        );
        let mut shell = std::process::Command::new("sh");
        for (name, value) in scene.command(&[]).get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        let output = shell.args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, format!("through descriptor 3\n0037\n{}\n", directory.display()), "{options}: {output:?}");
    }
}

#[cfg(unix)]
#[test]
fn another_user_is_become_wholly() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.open_to_others();
    let outcome =
        scene.run(&["run", "--user", "nobody", "--", "sh", "-c", "id -u; id -g; echo $USER; cat /proc/self/status"]);
    let text = outcome.expect(0).stdout;
    assert!(text.starts_with("65534\n65534\nnobody\n"), "{text}");
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
    assert_eq!(field("Groups:").trim(), "65534");
    assert_eq!(u64::from_str_radix(&field("CapEff:"), 16).unwrap(), 0);
    assert_eq!(field("NoNewPrivs:"), "1");
    scene.run(&["run", "--user", "no-such-user", "--", "true"]).expect(2);
}

/// A command that is started by `nohup` ignores SIGHUP; one that is not, does not; and none inherits what estop ignores
/// for itself.
#[cfg(unix)]
#[test]
fn ignored_signals_are_those_of_the_caller() {
    let scene = Scene::new();
    let ignored = |shell: &str| {
        let mut command = std::process::Command::new("sh");
        for (name, value) in scene.command(&[]).get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let script = format!("{shell} grep -E 'Sig(Ign|Blk):' /proc/self/status");
        let output = command.args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let masks = text.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap());
        // 32 and 33 belong to the C library, and no program can set them by its calls.
        masks.map(|mask| mask & 0x7fff_ffff).collect::<Vec<_>>()
    };
    let run = format!("exec {} run --", crate::house::ESTOP);
    for trap in ["", "trap '' HUP USR1;", "trap '' INT QUIT TSTP;"] {
        assert_eq!(ignored(&format!("{trap} {run}")), ignored(&format!("{trap} exec")), "{trap}");
    }
}

/// As in some containers: the process group lies outside of the PID namespace, where it has no number.
#[cfg(unix)]
#[test]
fn a_process_group_that_cannot_be_seen_keeps_nothing_from_running() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let plain = scene.command(&["run", "--no-pid-namespace", "--", "sh", "-c", "exit 7"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(plain.get_program()).args(plain.get_args());
    command.current_dir(scene.path());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    scene.start(&mut command).wait().expect(7);
    scene.expect_nothing_left();
}
