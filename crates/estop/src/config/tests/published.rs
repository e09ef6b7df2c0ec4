//! What is published beside the program agrees with it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::*;

fn published(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// It is of a host with Python and a Unix shell.
#[cfg(unix)]
#[test]
fn the_published_example_is_valid() {
    let config =
        Config::load(&published("examples/estop.toml")).unwrap_or_else(|error| panic!("{}", error.render(false)));
    let surroundings = Surroundings {
        state_dir: "/nonexistent/state".into(),
        run_dir: "/nonexistent/run".into(),
        known_secrets: None,
    };
    config.check(&surroundings).unwrap_or_else(|error| panic!("{}", error.render(false)));
}

#[test]
fn the_published_schema_is_up_to_date() {
    let path = published("estop.schema.json");
    let current = format!("{}\n", serde_json::to_string_pretty(&schema::schema()).unwrap());
    if std::env::var_os("ESTOP_BLESS").is_some_and(|bless| bless == "1") {
        fs::write(&path, &current).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(published, current, "run the test with ESTOP_BLESS=1 to write it anew");
}

#[test]
fn every_key_is_in_the_reference() {
    let reference = fs::read_to_string(published("configuration.md")).unwrap();
    let schema = schema::schema();
    let mut tables = vec![&schema];
    tables.extend(schema["$defs"].as_object().unwrap().values());
    let keys = tables.into_iter().filter_map(|table| table["properties"].as_object()).flat_map(serde_json::Map::keys);
    let told = |key: &str| reference.contains(&format!("`{key}`")) || reference.contains(&format!("## `[{key}"));
    let missing: Vec<&String> = keys.filter(|key| !told(key)).collect();
    assert!(missing.is_empty(), "docs/configuration.md does not tell of {missing:?}");
}
