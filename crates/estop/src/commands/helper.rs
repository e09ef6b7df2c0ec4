//! What the program's own sandboxes run that every host has: this program itself.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::cli::args::HelperCommand;

/// How long a sleeper lives at most, whatever happens.
const LIFE: Duration = Duration::from_mins(10);

/// Does what `command` says.
pub(super) fn main(command: &HelperCommand) -> ExitCode {
    let result = match command {
        HelperCommand::WriteDown { to } => std::fs::File::create(to)
            .and_then(|mut file| std::io::copy(&mut std::io::stdin().lock(), &mut file).map(drop)),
        HelperCommand::Sleepers { count, sign } => sleepers(*count, sign.as_deref()),
    };
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Becomes one process of `count` that sleep.
fn sleepers(count: u64, sign: Option<&std::path::Path>) -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    for _ in 1..count {
        let mut another = Command::new(&program);
        another.args(["__helper", "sleepers", "1"]);
        another.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    }
    if let Some(sign) = sign {
        std::fs::write(sign, "")?;
    }
    std::thread::sleep(LIFE);
    Ok(())
}
