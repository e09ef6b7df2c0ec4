//! The knowledge base of a drill: notes, records and a database.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::platform::files;

/// How many notes there are.
const NOTES: u32 = 240;
/// How many records.
const RECORDS: u32 = 80;
/// How many rows the database has.
const ROWS: u32 = 500;
/// The database's name.
pub(super) const DATABASE: &str = "index.sqlite";

/// Makes the knowledge base in `dir`.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn make(dir: &Path) -> Result<()> {
    for folder in ["notes", "records", "inbox"] {
        let path = dir.join(folder);
        fs::create_dir_all(&path).map_err(|error| Failure::io("create", &path, &error))?;
    }
    for number in 0..NOTES {
        let lines: Vec<String> = (0..number % 40 + 5)
            .map(|line| format!("{line}. What was learned on day {}.", number * 7 + line))
            .collect();
        write(&dir.join(format!("notes/note-{number:03}.md")), &format!("# Note {number}\n\n{}\n", lines.join("\n")))?;
    }
    for number in 0..RECORDS {
        let record = serde_json::json!({"id": number, "tags": ["drill", format!("t{}", number % 9)], "score": f64::from(number) / 7.0});
        write(&dir.join(format!("records/{number:03}.json")), &format!("{record:#}\n"))?;
    }
    let link = dir.join("latest.md");
    files::link("notes/note-239.md", &link).map_err(|error| Failure::io("link", &link, &error))?;
    make_database(&dir.join(DATABASE))
        .map_err(|error| Failure::failed(format!("cannot make the database of the drill: {error}"), ""))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Failure::io("write", path, &error))
}

fn make_database(path: &Path) -> rusqlite::Result<()> {
    let mut connection = rusqlite::Connection::open(path)?;
    connection.execute_batch("CREATE TABLE fact (id INTEGER PRIMARY KEY, subject TEXT NOT NULL, text TEXT NOT NULL); CREATE INDEX by_subject ON fact (subject);")?;
    let transaction = connection.transaction()?;
    for row in 0..ROWS {
        transaction.execute(
            "INSERT INTO fact (subject, text) VALUES (?1, ?2)",
            (format!("s{}", row % 50), format!("Fact {row}: {}", "x".repeat(row as usize % 200))),
        )?;
    }
    transaction.commit()
}

/// What stands below `dir`, read independently of every snapshot: each path with its kind and content.
///
/// # Errors
/// If something cannot be read.
pub(super) fn look(dir: &Path) -> std::io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let (mut found, mut waiting) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let kind = kind?;
            let mut content = if kind.is_dir() {
                waiting.push(path.clone());
                b"directory".to_vec()
            } else if kind.is_symlink() {
                [b"link ", fs::read_link(&path)?.as_os_str().as_encoded_bytes()].concat()
            } else {
                fs::read(&path)?
            };
            content.extend_from_slice(files::attributes(&path)?.as_bytes());
            found.insert(path.strip_prefix(dir).unwrap_or(&path).to_owned(), content);
        }
    }
    Ok(found)
}
