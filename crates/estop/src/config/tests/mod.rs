//! What is read, and how it is meant.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod published;
mod random;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// A folder with a store `kb`, and a configuration in it.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("kb/inner")).unwrap();
        fs::create_dir(dir.path().join("mail")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        Config::parse(&here(text), &self.path("estop.toml"))
    }

    fn surroundings(&self) -> Surroundings<'static> {
        Surroundings { state_dir: self.path("state"), run_dir: self.path("run"), known_secrets: None }
    }

    fn check(&self, text: &str) -> Result<Config, ConfigError> {
        let config = self.parse(text)?;
        config.check(&self.surroundings())?;
        Ok(config)
    }

    /// The problems as (message, hint, the rest of the line from where the message points).
    fn problems(&self, text: &str) -> Vec<(String, String, String)> {
        let error = self.check(text).expect_err(text);
        found(&error, &here(text))
    }

    /// The only problem there is.
    fn problem(&self, text: &str) -> (String, String, String) {
        let mut problems = self.problems(text);
        assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
        problems.remove(0)
    }
}

fn found(error: &ConfigError, text: &str) -> Vec<(String, String, String)> {
    let json = error.to_json();
    let lines: Vec<&str> = text.split('\n').collect();
    let problems = json["error"]["problems"].as_array().unwrap();
    problems
        .iter()
        .map(|problem| {
            let place = problem["line"].as_u64().zip(problem["column"].as_u64());
            let rest = place.map_or(String::new(), |(line, column)| {
                let line = lines[usize::try_from(line).unwrap() - 1];
                line.chars().skip(usize::try_from(column).unwrap() - 1).collect()
            });
            (text_of(&problem["message"]), text_of(&problem["hint"]), rest)
        })
        .collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// `text` with a program that every host of this kind has.
fn here(text: &str) -> String {
    if cfg!(windows) { text.replace("\"sh\"", "\"cmd\"") } else { text.to_owned() }
}

const GOOD: &str = "[workload.agent]\ncommand = [\"sh\"]\n[store.kb]\npath = \"kb\"\n";

#[test]
fn what_is_not_written_has_its_default() {
    let desk = Desk::new();
    let config = desk.check(GOOD).unwrap();
    let agent = &config.workloads["agent"];
    let expected = Workload {
        directory: Some(desk.dir.path().to_owned()),
        ..Workload::new(Command::from(vec![if cfg!(windows) { "cmd" } else { "sh" }.to_owned()]))
    };
    assert_eq!(*agent, expected);
    assert_eq!(agent.grace.duration().as_secs(), 10);
    assert_eq!(agent.on_breach, OnBreach::CriticalStop);
    assert_eq!(config.stores["kb"].path, desk.path("kb"));
    assert!(config.stores["kb"].keep.is_everything());
    assert_eq!(config.recovery.on_critical_stop, [Repair::Rollback, Repair::Rotate]);
    assert_eq!(desk.check("").unwrap().workloads.len(), 0);
}

#[test]
fn paths_are_relative_to_the_file() {
    let desk = Desk::new();
    let elsewhere = desk.path("/v");
    let text = "[estop]\nstate_dir = \"s\"\n[workload.a]\ncommand = [\"sh\"]\ndirectory = \"kb\"\n[store.kb]\npath = \"./kb\"\nvault = \"/v\"\n\
                [vault]\naddress = \"https://v\"\nauth = { token_file = \"token\" }\nca_file = \"ca.pem\"\n";
    let config = desk.parse(text).unwrap();
    assert_eq!(config.estop.state_dir, Some(desk.path("s")));
    assert_eq!(config.workloads["a"].directory, Some(desk.path("kb")));
    assert_eq!(config.stores["kb"].vault.as_deref(), Some(elsewhere.as_path()));
    let vault = config.vault.unwrap();
    assert_eq!(vault.auth, Auth::Token { token_file: desk.path("token") });
    assert_eq!(vault.ca_file, Some(desk.path("ca.pem")));
    assert_eq!((vault.mount.as_str(), vault.prefix.as_str()), ("secret", "estop"));
}

#[test]
fn limits_are_written_freely() {
    let desk = Desk::new();
    let text = "[workload.a]\ncommand = [\"sh\"]\ncpu_max = 150\nprocess_memory_max = \"1GiB\"\ncpu_weight = 20\ncpu_time_max = \"10m\"\n\
        io_max = \"50MiB\"\nlimits.memory.stop = \"2GiB\"\nlimits.io.warn = \"5MiB\"\n[workload.a.limits.time]\nwarn = \"1h\"\n";
    let agent = desk.check(text).unwrap().workloads.remove("a").unwrap();
    let given = crate::engine::launch::limits(&agent);
    assert_eq!((given.process_memory_max, given.cpu_weight, given.io_max), (Some(1 << 30), Some(20), Some(50 << 20)));
    assert_eq!(given.cpu_time_max, Some(std::time::Duration::from_mins(10)));
    assert_eq!(agent.limits.thresholds().io.warn, Some(f64::from(5 << 20).into()));
    assert_eq!(agent.limits.memory.stop, Some(Size::from_bytes(2 << 30).into()));
    assert_eq!(agent.limits.time.warn, Some(Period::from_secs(3600).into()));
    assert!((agent.cpu_max.unwrap().cores() - 1.5).abs() < f64::EPSILON);
}

#[test]
fn a_program_is_found_as_the_workload_would_find_it() {
    let desk = Desk::new();
    fs::create_dir(desk.path("bin")).unwrap();
    let text = format!("[workload.a]\ncommand = [\"agent\"]\nenvironment = {{ PATH = {:?} }}\n", desk.path("bin"));
    #[cfg(unix)]
    {
        fs::write(desk.path("bin/agent"), "#!/bin/sh\n").unwrap();
        assert!(desk.problem(&text).0.contains("not executable"));
        fs::set_permissions(desk.path("bin/agent"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    #[cfg(windows)]
    {
        fs::write(desk.path("bin/batch.cmd"), "").unwrap();
        assert!(desk.problem(&text.replace("agent", "batch.cmd")).1.contains("cmd"));
        fs::write(desk.path("bin/agent.exe"), "").unwrap();
    }
    assert!(desk.check(&text).is_ok());
    assert!(desk.check("[workload.a]\ncommand = [\"./agent\"]\ndirectory = \"bin\"\n").is_ok());
}

#[test]
fn a_secret_may_be_defined_in_the_file_or_known_to_the_store() {
    struct Store;
    impl KnownSecrets for Store {
        fn is_known(&self, name: &str) -> bool {
            name == "db/password"
        }
    }
    let desk = Desk::new();
    let text = "[workload.a]\ncommand = [\"sh\"]\nsecrets = { A = \"db/password\" }\nsecret_files = { b = \"api/key\" }\n[secret.\"api/key\"]\n";
    assert!(desk.problem(text).0.contains("db/password"));
    let config = desk.parse(text).unwrap();
    let surroundings = Surroundings { known_secrets: Some(&Store), ..desk.surroundings() };
    assert!(config.check(&surroundings).is_ok());
    assert_eq!(config.workloads["a"].secret_names().collect::<Vec<_>>(), ["db/password", "api/key"]);
}

#[test]
fn a_file_that_is_not_there_or_no_text() {
    let desk = Desk::new();
    let absent = Config::load(&desk.path("absent.toml")).unwrap_err();
    assert!(matches!(absent, ConfigError::Unreadable { .. }));
    assert!(absent.render(false).contains("absent.toml") && absent.hint().contains("--config"));
    assert_eq!(absent.to_json()["error"]["kind"], "config");
    fs::write(desk.path("binary.toml"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(Config::load(&desk.path("binary.toml")).is_err());
    assert!(Config::load(&desk.path("kb")).is_err(), "a directory");
    fs::write(desk.path("good.toml"), GOOD).unwrap();
    assert!(Config::load(&desk.path("good.toml")).is_ok());
}

#[test]
fn a_person_sees_the_line_and_a_caret() {
    let desk = Desk::new();
    let error = Config::parse("[workload.agent]\nmemmory_max = \"2GiB\"\n", Path::new("estop.toml")).unwrap_err();
    let expected = "\
error: unknown key `memmory_max`
 --> estop.toml:2:1
  |
2 | memmory_max = \"2GiB\"
  | ^^^^^^^^^^^
  |
  = help: did you mean `memory_max`?

the configuration estop.toml is not valid: unknown key `memmory_max`";
    assert_eq!(error.render(false), expected);
    assert!(error.render(true).contains('\u{1b}'));
    let json = error.to_json();
    assert_eq!(json["error"]["hint"], "did you mean `memory_max`?");
    assert_eq!(json["error"]["problems"][0]["key"], "workload.agent");
    drop(desk);
}

#[test]
fn a_plan_follows_the_settings() {
    let desk = Desk::new();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let config = desk
        .parse("[recovery]\non_critical_stop = [\"rotate\"]\napproval = [\"rotate\"]\ncapture_max = \"5s\"\n")
        .unwrap();
    let settings = config.recovery.settings(names(&["kb"]), names(&["a", "b"]));
    assert!(settings.rollback.is_empty() && !settings.restart);
    assert_eq!(settings.rotate, ["a", "b"]);
    assert_eq!(settings.capture_limit.as_secs(), 5);
    let plan = estop_recovery::Plan::build(&settings).unwrap();
    assert!(plan.steps().iter().any(|step| step.step == estop_recovery::StepKind::Rotate && step.needs_approval));
    assert!(estop_recovery::Plan::build(&Recovery::default().settings(names(&["kb"]), names(&[]))).is_ok());
}
