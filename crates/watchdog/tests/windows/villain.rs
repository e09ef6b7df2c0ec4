//! Programs of bad habits. Each is this test program again, under a name by which all of a test's are found.

use std::io::Write as _;
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;

use super::scene::{CANARY, HABIT};

const CREATE_SUSPENDED: u32 = 0x4;
const DETACHED_PROCESS: u32 = 0x8;
const CREATE_NEW_CONSOLE: u32 = 0x10;
const CREATE_BREAKAWAY_FROM_JOB: u32 = 0x0100_0000;
/// How long one that nobody ends lives.
const LIFE: Duration = Duration::from_secs(120);

/// Another one with `habit`.
fn another(habit: &str, flags: u32) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "windows::villain::villain", "--nocapture"]).env(HABIT, habit);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.creation_flags(flags).spawn()
}

/// Says something to the test: the file appears whole.
fn tell(name: &str, text: &str) {
    let canary = std::path::PathBuf::from(std::env::var_os(CANARY).unwrap());
    std::fs::write(canary.join(format!("{name}.part")), text).unwrap();
    std::fs::rename(canary.join(format!("{name}.part")), canary.join(name)).unwrap();
}

/// Not a test: what a villain does. Without a habit there is nothing to do.
#[test]
fn villain() {
    let Ok(habit) = std::env::var(HABIT) else { return };
    match habit.as_str() {
        "exit" => std::process::exit(7),
        "sleep" => {}
        "tree" => {
            // One generation more, whose parent goes at once; then those that try to be nobody's.
            another("orphan", 0).unwrap();
            another("sleep", DETACHED_PROCESS).unwrap();
            another("sleep", CREATE_NEW_CONSOLE).unwrap();
            another("sleep", CREATE_SUSPENDED).unwrap();
            let broken = another("sleep", CREATE_BREAKAWAY_FROM_JOB).map_err(|error| error.raw_os_error());
            tell("breakaway", &format!("{:?}", broken.map(|child| child.id())));
            tell("ready", "");
        }
        "orphan" => {
            another("sleep", 0).unwrap();
            std::process::exit(0);
        }
        "chains" => {
            for _ in 0..4 {
                another("link", 0).unwrap();
            }
            tell("ready", "");
        }
        "link" => {
            // Ends as soon as the next one is there.
            let _ = another("link", 0);
            std::process::exit(0);
        }
        "busy" => {
            tell("ready", "");
            let begun = std::time::Instant::now();
            while begun.elapsed() < LIFE {
                std::hint::black_box(begun);
            }
        }
        "hog" => {
            let hog = vec![1_u8; 64 << 20];
            tell("ready", "");
            std::thread::sleep(LIFE);
            std::hint::black_box(&hog);
        }
        "beat" => {
            let canary = std::path::PathBuf::from(std::env::var_os(CANARY).unwrap());
            let mut file = std::fs::File::create(canary.join("beat")).unwrap();
            let begun = std::time::Instant::now();
            while begun.elapsed() < LIFE {
                file.write_all(b".").unwrap();
            }
        }
        "deaf" => {
            // SAFETY: the handler is a function of the kind that is asked for, and stays.
            let taken = unsafe { SetConsoleCtrlHandler(Some(heed_nothing), 1) };
            // Ctrl-C may be ignored from the start, as it is for whoever begins a process group.
            // SAFETY: no handler is given: it is heard again.
            unsafe { SetConsoleCtrlHandler(None, 0) };
            assert!(taken != 0);
            tell("ready", "");
        }
        many => {
            for _ in 0..many.parse::<u32>().unwrap() {
                another("sleep", 0).unwrap();
            }
            tell("ready", "");
        }
    }
    std::thread::sleep(LIFE);
}

unsafe extern "system" fn heed_nothing(_event: u32) -> i32 {
    tell("heard", "");
    1
}
