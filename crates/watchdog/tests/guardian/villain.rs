//! Programs of bad habits. Each is this test program again, under a name by which all of a test's are found.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use estop_watchdog::guardian::Client;
use estop_watchdog::registry::RunDir;

use crate::scene::{CANARY, HABIT};

/// How long one that nobody ends lives.
const LIFE: Duration = Duration::from_mins(2);

fn canary() -> PathBuf {
    PathBuf::from(std::env::var_os(CANARY).unwrap())
}

/// Says something to the test: the file appears whole.
fn tell(name: &str, text: &str) {
    let part = canary().join(format!("{name}.part"));
    std::fs::write(&part, text).unwrap();
    std::fs::rename(part, canary().join(name)).unwrap();
}

/// Another one with `habit`.
fn another(habit: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(HABIT, habit).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Nobody's child in the end: that is what a guardian is for.
    std::mem::forget(command.spawn().unwrap());
}

/// What a villain does; it does not come back.
pub(crate) fn live() -> ! {
    match std::env::var(HABIT).unwrap().as_str() {
        "exit" => std::process::exit(7),
        "say" => {
            println!("said");
            eprintln!("complained");
            std::process::exit(0);
        }
        "tree" => {
            another("orphan");
            another("sleep");
            tell("ready", "");
        }
        "orphan" => {
            another("sleep");
            std::process::exit(0);
        }
        "beat" => beat(),
        "talk" => {
            let mut file = std::fs::OpenOptions::new().append(true).open(canary().join("log")).unwrap();
            for round in 0..60 {
                file.write_all(&vec![b'x'; 50_000]).unwrap();
                writeln!(file, "round {round}").unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
            tell("ready", "");
        }
        "secret" => {
            let dir = PathBuf::from(std::env::var_os("SECRETS").unwrap());
            tell("secret", &std::fs::read_to_string(dir.join("key")).unwrap());
            tell("ready", "");
        }
        "multiply" => multiply(),
        "order" => order(),
        "starter" => start(),
        _ => tell("ready", ""),
    }
    std::thread::sleep(LIFE);
    std::process::exit(1);
}

/// Shows that it runs.
fn beat() {
    let mut file = std::fs::File::create(canary().join("beat")).unwrap();
    let begun = Instant::now();
    tell("ready", "");
    while begun.elapsed() < LIFE {
        file.write_all(b".").unwrap();
        file.flush().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Becomes more, when it is told to, until one is refused.
fn multiply() {
    tell("ready", "");
    while !canary().join("go").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    // More than its limit, which holds or fails the test.
    for _ in 0..20 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(HABIT, "sleep").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => std::mem::forget(child),
            Err(_) => return tell("refused", ""),
        }
    }
}

/// Tries to give its own guardian, and another one, orders.
fn order() {
    let run_dir = RunDir::at(&canary().join("run"));
    let mut answers = Vec::new();
    for name in ["other", "w"] {
        let answer = Client::new(&run_dir.job(name)).and_then(|mut client| client.thaw());
        answers.push(answer.map_or_else(|error| error.to_string(), |_| "obeyed".to_owned()));
    }
    tell("ready", &answers.join("\n"));
}

/// Starts a guardian, and is to be killed.
fn start() {
    let spec = std::fs::read(canary().join("spec")).unwrap();
    let mut spec: estop_watchdog::guardian::GuardianSpec = serde_json::from_slice(&spec).unwrap();
    spec.brain = crate::life::own();
    let guardian = estop_watchdog::guardian::start(&spec, crate::scene::quiet()).unwrap();
    tell("started", &guardian.process.id().to_string());
    std::thread::sleep(LIFE);
}
