//! The standard streams of a command, and the paths that scripts name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

/// Standard input, output and error. One that is not there was closed.
#[derive(Clone)]
pub(crate) struct Streams(pub(crate) [Option<Arc<File>>; 3]);

#[cfg(unix)]
use std::os::fd::{AsFd as _, OwnedFd as Owned};
#[cfg(windows)]
use std::os::windows::io::{AsHandle as _, OwnedHandle as Owned};

impl Streams {
    /// Copies of this process's own, which thereby stay open to its end, whatever the script closes: safe code cannot close them.
    pub(crate) fn own() -> Self {
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        #[cfg(unix)]
        let all = [input.as_fd(), output.as_fd(), error.as_fd()].map(|stream| stream.try_clone_to_owned());
        #[cfg(windows)]
        let all = [input.as_handle(), output.as_handle(), error.as_handle()].map(|stream| stream.try_clone_to_owned());
        Self(all.map(|stream| stream.ok().map(File::from).map(Arc::new)))
    }

    /// With `file` as stream number `stream`.
    pub(crate) fn with(&self, stream: usize, file: impl Into<Owned>) -> Self {
        let mut changed = self.clone();
        changed.0[stream] = Some(Arc::new(File::from(file.into())));
        changed
    }

    pub(crate) fn input(&self) -> Box<dyn Read> {
        self.0[0]
            .as_ref()
            .and_then(|input| input.try_clone().ok())
            .map_or_else(|| Box::new(io::empty()) as _, |file| Box::new(file) as _)
    }

    /// In one go, so that what several processes append stays apart.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.0[1].as_ref().map_or(Err(io::ErrorKind::BrokenPipe.into()), |output| output.as_ref().write_all(bytes))
    }

    pub(crate) fn complain(&self, message: &str) {
        if let Some(error) = &self.0[2] {
            // Whoever does not want to hear it closed it.
            let _ = error.as_ref().write_all(format!("{message}\n").as_bytes());
        }
    }

    /// For a process to be started.
    pub(crate) fn stdio(&self) -> [Stdio; 3] {
        let copy = |stream: &Option<Arc<File>>| stream.as_ref().and_then(|file| file.try_clone().ok());
        self.0.each_ref().map(|stream| copy(stream).map_or_else(Stdio::null, Stdio::from))
    }
}

/// The path that `text` means here.
pub(crate) fn path(text: &str) -> PathBuf {
    if !cfg!(windows) {
        return text.into();
    }
    if text == "/dev/null" {
        return "NUL".into();
    }
    // A verbatim path knows no slashes, and cannot be the current directory.
    let text = text.replace('/', "\\");
    text.strip_prefix(r"\\?\").filter(|rest| rest.get(1..2) == Some(":")).unwrap_or(&text).into()
}

/// The file `text` to be read; without an end where it is `/dev/zero`.
pub(crate) fn reader(text: &str) -> io::Result<Box<dyn Read>> {
    if text == "/dev/zero" { Ok(Box::new(io::repeat(0))) } else { Ok(Box::new(File::open(path(text))?)) }
}

/// The file `text` to be written, from its end if `append`.
pub(crate) fn writer(text: &str, append: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // What takes everything cannot be made empty on Windows.
    options.create(true).append(append).write(!append).truncate(!append && text != "/dev/null");
    options.open(path(text))
}
