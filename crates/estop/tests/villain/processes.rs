//! Other processes: found, started, waited for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};

use crate::shell::Shell;
use crate::streams::{self, Streams};

/// What a command finds itself in.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) streams: Streams,
}

impl Surroundings {
    /// This process's own.
    pub(crate) fn own() -> Self {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            // Windows spells it as it likes.
            let is_path = cfg!(windows) && name.eq_ignore_ascii_case("PATH");
            Some((if is_path { "PATH".to_owned() } else { name }, value.to_string_lossy().into_owned()))
        });
        Self { environment: environment.collect(), streams: Streams::own() }
    }

    /// `program` with `arguments`, not yet started. None if there is no such program.
    pub(crate) fn command(&self, program: &str, arguments: &[String]) -> Option<Command> {
        let mut command = Command::new(self.find(program)?);
        command.args(arguments).env_clear().envs(&self.environment);
        let [input, output, error] = self.streams.stdio();
        command.stdin(input).stdout(output).stderr(error);
        Some(command)
    }

    /// Where `program` is.
    fn find(&self, program: &str) -> Option<PathBuf> {
        let has_directory = program.contains('/') || cfg!(windows) && program.contains('\\');
        let directories = self.environment.get("PATH").filter(|_| !has_directory);
        let directories =
            directories.map_or_else(|| vec![PathBuf::new()], |path| std::env::split_paths(path).collect());
        let candidates = directories.iter().map(|directory| directory.join(streams::path(program)));
        candidates.flat_map(spellings).find(|path| path.is_file())
    }

    /// Lets `program` take the place of this process. Gives the code that it ends with, where it is this very program, which goes
    /// on in this process, or where a process cannot become another, and waits for a child instead.
    pub(crate) fn become_other(&self, program: &str, arguments: &[String]) -> i32 {
        let own = std::env::current_exe().and_then(|own| own.canonicalize()).unwrap();
        let is_own = self.find(program).is_some_and(|path| path.canonicalize().is_ok_and(|path| path == own));
        if is_own || program == "sh" || crate::is_command(program) {
            return crate::called(&crate::stem(program), arguments, self);
        }
        let Some(mut command) = self.command(program, arguments) else { return self.not_found(program) };
        replace(&mut command).unwrap_or_else(|error| {
            self.streams.complain(&format!("{program}: {error}"));
            126
        })
    }

    pub(crate) fn not_found(&self, program: &str) -> i32 {
        self.streams.complain(&format!("{program}: not found"));
        127
    }
}

#[cfg(unix)]
fn replace(command: &mut Command) -> std::io::Result<i32> {
    Err(std::os::unix::process::CommandExt::exec(command))
}

#[cfg(windows)]
fn replace(command: &mut Command) -> std::io::Result<i32> {
    Ok(code(command.status()?))
}

/// What a program at `path` may be called.
fn spellings(path: PathBuf) -> impl Iterator<Item = PathBuf> {
    let mut name = path.clone().into_os_string();
    name.push(".exe");
    let executable = cfg!(windows).then(|| PathBuf::from(name));
    executable.into_iter().chain([path])
}

/// The code that a shell gives an end.
#[cfg(unix)]
pub(crate) fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The code that a shell gives an end.
#[cfg(windows)]
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_default()
}

/// In single quotes.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Shell {
    /// A process that runs `script` with what this shell knows, not yet started.
    pub(crate) fn subshell(&self, script: &str, streams: &Streams) -> Command {
        let known = self.variables.iter().filter(|(_, variable)| !variable.exported);
        let known = known.map(|(name, variable)| format!("{name}={}\n", quote(&variable.value)));
        let text = known.chain([script.to_owned()]).collect::<String>();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--as", "sh", "-c", &text, &self.name]).args(&self.arguments);
        command.env_clear().envs(self.environment());
        let [input, output, error] = streams.stdio();
        command.stdin(input).stdout(output).stderr(error);
        command
    }

    /// Waits for a child in the foreground. What was trapped meanwhile comes after it.
    pub(crate) fn wait_for(&self, child: &mut Child) -> i32 {
        child.wait().map_or_else(
            |error| {
                self.streams.complain(&format!("{}: {error}", self.name));
                127
            },
            code,
        )
    }
}
