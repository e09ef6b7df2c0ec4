//! A command line from its arguments, so that the program finds them again: Windows passes one string, which each program
//! takes apart for itself.
//!
//! The rules are those of the Microsoft C runtime ("Parsing C++ command-line arguments"), which `CommandLineToArgvW` shares.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

const QUOTE: u16 = b'"' as u16;
const BACKSLASH: u16 = b'\\' as u16;

/// The program's file and its command line, both ending with a zero.
#[derive(Debug)]
pub(super) struct CommandLine {
    pub(super) file: Vec<u16>,
    pub(super) line: Vec<u16>,
}

impl CommandLine {
    /// For `argv`, whose program is looked for as [`find_program`] does.
    ///
    /// # Errors
    /// If there is no such program, it is a batch file, or an argument holds a zero.
    pub(super) fn new(argv: &[OsString], directory: Option<&Path>, path: Option<&OsStr>) -> io::Result<Self> {
        let program = argv.first().ok_or_else(|| invalid("there is no command"))?;
        let file = find_program(program, directory, path)?;
        if is_batch_file(&file) {
            return Err(invalid("it is a batch file: run it by `cmd /c`, with arguments that are safe there"));
        }
        let mut line = Vec::new();
        // The first is not taken apart by the rules of the others: quotes cannot be in a file's name.
        line.push(QUOTE);
        line.extend(program.encode_wide());
        line.push(QUOTE);
        for argument in &argv[1..] {
            line.push(u16::from(b' '));
            quote(&mut line, argument);
        }
        let mut file: Vec<u16> = file.as_os_str().encode_wide().collect();
        if line.contains(&0) || file.contains(&0) {
            return Err(invalid("an argument holds a zero"));
        }
        line.push(0);
        file.push(0);
        Ok(Self { file, line })
    }
}

/// Whether `file` is a batch file, which no job is made of: `cmd` takes its arguments apart by rules of its own, by which quoted ones
/// become commands (CVE-2024-24576).
pub fn is_batch_file(file: &Path) -> bool {
    // The system leaves dots and blanks at the end of a name out (CVE-2024-43402).
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let extension =
        Path::new(name.trim_end_matches(['.', ' '])).extension().and_then(OsStr::to_str).unwrap_or_default();
    ["bat", "cmd"].iter().any(|batch| extension.eq_ignore_ascii_case(batch))
}

/// Appends one argument, in quotes where it needs them. Backslashes stand for themselves, but in front of a quote.
fn quote(line: &mut Vec<u16>, argument: &OsStr) {
    let needed =
        argument.is_empty() || argument.encode_wide().any(|unit| [b' ', b'\t', b'"'].map(u16::from).contains(&unit));
    if needed {
        line.push(QUOTE);
    }
    let mut backslashes = 0;
    for unit in argument.encode_wide() {
        if unit == QUOTE {
            line.extend(std::iter::repeat_n(BACKSLASH, backslashes + 1));
        }
        backslashes = if unit == BACKSLASH { backslashes + 1 } else { 0 };
        line.push(unit);
    }
    if needed {
        line.extend(std::iter::repeat_n(BACKSLASH, backslashes));
        line.push(QUOTE);
    }
}

/// The file of `program`: seen from `directory` if it names a folder, otherwise the first in the folders of `path`. Never one in the
/// current folder, which whoever can write there would choose. `.exe` may be left out.
///
/// # Errors
/// If there is none.
pub fn find_program(program: &OsStr, directory: Option<&Path>, path: Option<&OsStr>) -> io::Result<PathBuf> {
    let named = Path::new(program);
    let candidates = |file: PathBuf| {
        let mut with_extension = file.clone().into_os_string();
        with_extension.push(".exe");
        [file, with_extension.into()]
    };
    let there = |file: &PathBuf| file.is_file();
    if named.components().count() > 1 || named.has_root() {
        let file = directory.map_or_else(|| named.to_owned(), |directory| directory.join(named));
        let missing = if file.is_dir() { io::ErrorKind::PermissionDenied } else { io::ErrorKind::NotFound };
        return candidates(file).into_iter().find(there).ok_or_else(|| missing.into());
    }
    let folders = path.map(std::env::split_paths).into_iter().flatten().filter(|folder| folder.is_absolute());
    let found = folders.flat_map(|folder| candidates(folder.join(named))).find(there);
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Variables as one block: sorted without regard to case, each ending with a zero, and one more at the end.
///
/// # Errors
/// If a name or value holds a zero, or a name an equals sign behind its beginning.
pub(super) fn environment(variables: &[(OsString, OsString)]) -> io::Result<Vec<u16>> {
    let mut sorted: Vec<(Vec<u16>, &OsString, &OsString)> = variables
        .iter()
        .map(|(name, value)| (OsString::from(name.to_ascii_uppercase()).encode_wide().collect(), name, value))
        .collect();
    sorted.sort();
    let mut block = Vec::new();
    for (_, name, value) in sorted {
        let units: Vec<u16> = name.encode_wide().collect();
        if units.is_empty() || units[1..].contains(&u16::from(b'=')) {
            return Err(invalid(format!("{} is no name of a variable", name.display())));
        }
        let begin = block.len();
        block.extend(units);
        block.push(u16::from(b'='));
        block.extend(value.encode_wide());
        if block[begin..].contains(&0) {
            return Err(invalid(format!("the variable {} holds a zero", name.display())));
        }
        block.push(0);
    }
    if block.is_empty() {
        block.push(0);
    }
    block.push(0);
    Ok(block)
}

/// A string of the system's that ends with a zero, or fills its place.
pub(super) fn text(units: &[u16]) -> String {
    let end = units.iter().position(|&unit| unit == 0).unwrap_or(units.len());
    OsString::from_wide(&units[..end]).to_string_lossy().into_owned()
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason.into())
}
