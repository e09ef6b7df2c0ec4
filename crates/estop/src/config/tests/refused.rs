//! What is refused, with the words and the place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use super::{Desk, GOOD, found, here};
use crate::config::*;

#[test]
fn what_is_not_well_formed_is_refused_at_its_place() {
    let desk = Desk::new();
    let workload = |line: &str| format!("[workload.a]\ncommand = [\"sh\"]\n{line}\n");
    let secret = |line: &str| format!("[secret.s]\n{line}\n");
    let cases: &[(String, &str, &str, &str)] = &[
        (workload("memmory_max = 1"), "unknown key `memmory_max`", "did you mean `memory_max`?", "memmory_max"),
        (workload("on-breach = \"stop\""), "unknown key `on-breach`", "did you mean `on_breach`?", "on-breach"),
        (workload("zzz = 1"), "unknown key `zzz`", "the keys here are command, ", "zzz"),
        (
            workload("limits.memory.halt = 1"),
            "unknown key `halt`",
            "the keys here are warn, throttle, freeze, stop",
            "halt",
        ),
        (
            workload("on_breach = \"critical_stop\""),
            "`critical_stop` is not one of the choices",
            "`critical-stop`?",
            "\"critical_stop\"",
        ),
        (workload("require_tier = \"vm\""), "`vm` is not one", "the choices are tracked, namespace, kernel", "\"vm\""),
        (workload("memory_max = true"), "wrong type: boolean `true`", "this has to be a size", "true"),
        (workload("memory_max = -5"), "a size can't be negative", "write a number with a unit", "-5"),
        (workload("memory_max = \"-5GiB\""), "a size can't be negative", "write", "\"-5GiB\""),
        (workload("memory_max = 1.5"), "not a whole number of bytes", "", "1.5"),
        (workload("memory_max = \"lots\""), "\"lots\" is not a size", "", "\"lots\""),
        (workload("cpu_max = \"-5%\""), "can't be negative", "100 is one core", "\"-5%\""),
        (workload("pids_max = -1"), "wrong value: integer `-1`", "a whole number that is not negative", "-1"),
        (
            "[secret.x]\ngenerate = { length = 99999999999 }\n".into(),
            "wrong value: integer `99999999999`",
            "from 0 to 4294967295",
            "99999999999",
        ),
        (workload("pids_max = \"many\""), "wrong type: string \"many\"", "", "\"many\""),
        (workload("time_max = 600"), "the length of time 600 has no unit", "\"10s\"", "600"),
        (workload("time_max = \"-1s\""), "is negative", "", "\"-1s\""),
        (workload("time_max = \"1 month\""), "months and years differ", "", "\"1 month\""),
        (workload("stores = \"kb\""), "wrong type: string \"kb\"", "this has to be an array", "\"kb\""),
        (
            "[workload.a]\ncommand = \"python3 agent.py\"\n".into(),
            "a command is an array",
            "[\"python3\", \"agent.py\"]",
            "\"python3 agent.py\"",
        ),
        ("[workload.a]\npids_max = 5\n".into(), "the key `command` is missing", "", "a]"),
        (
            "[workload]\ncommand = [\"sh\"]\n".into(),
            "`workload.command` is not a section",
            "[workload.NAME]",
            "command",
        ),
        ("workload = 5\n".into(), "`workload` is not one value", "[workload.NAME]", "5"),
        ("[stores.kb]\npath = \"kb\"\n".into(), "unknown section `stores`", "did you mean `store`?", "stores.kb"),
        ("[workload.a\n".into(), "", "", ""),
        ("[store.kb]\npath = 'kb'\npath = 'kb'\n".into(), "duplicate key", "", "path"),
        (
            "[vault]\naddress = 'https://v'\nauth = {token_file='t'}\n[vault]\naddress = 'https://w'\n".into(),
            "duplicate key",
            "",
            "vault]",
        ),
        (
            "[vault]\naddress = 'https://v'\nauth = {token_file='t', role_id='r'}\n".into(),
            "not one way to log in",
            "token_file",
            "{token_file",
        ),
        (secret("generate = { bytes = 32, length = 4 }"), "half a text and half a key", "either", "{ bytes"),
        (secret("generate = { length = 40, encoding = \"hex\" }"), "half a text and half a key", "either", "{ length"),
        (secret("generate = { bytes = 40, encoding = \"hexx\" }"), "`hexx` is not one", "`hex`?", "\"hexx\""),
        (
            secret("generate = { alphabet = \"alfanumeric\" }"),
            "\"alfanumeric\" is no alphabet",
            "url-safe",
            "{ alphabet",
        ),
        (secret("generate = { alphabet = \"ab\" }"), "\"ab\" is no alphabet", "", "{ alphabet"),
        (secret("generate = { lenght = 40 }"), "unknown key `lenght`", "did you mean `length`?", "lenght"),
        (secret("notify = [{ signal = \"KILL\", workload = \"a\" }]"), "`KILL` is no signal", "HUP", "[{ signal"),
        (secret("notify = [{ signal = \"HUP\" }]"), "not one subscriber", "write", "[{ signal"),
        (secret("notify = [{ exec = [\"true\"], webhook = \"https://x\" }]"), "not one subscriber", "", "[{ exec"),
        (secret("notify = [{ webhook = \"http://hooks.example.com/\" }]"), "in the clear", "https://", "[{ webhook"),
        (secret("notify = [{ webhook = \"ftp://x\" }]"), "no web address", "", "[{ webhook"),
        (secret("notify = [{ webhook = \"https://user:pw@x/\" }]"), "may not hold a password", "", "[{ webhook"),
    ];
    for (text, message, hint, place) in cases {
        let problems = desk.problems(text);
        let (found_message, found_hint, found_place) = &problems[0];
        assert!(found_message.contains(message), "{text}\n{problems:#?}");
        assert!(found_hint.contains(hint), "{text}\n{problems:#?}");
        assert!(found_place.starts_with(place), "{text}\n{problems:#?}");
    }
}

#[test]
fn one_wrong_section_does_not_hide_another() {
    let desk = Desk::new();
    let problems = desk
        .problems("[workload.a]\ncommnd = 1\n[workload.b]\npids_max = 'x'\n[store.s]\n[estop]\nlog_level = 'loud'\n");
    let places: Vec<&str> = problems.iter().map(|(_, _, place)| place.as_str()).collect();
    assert_eq!(places, ["commnd = 1", "'x'", "s]", "'loud'"], "{problems:#?}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one line a case")]
fn what_makes_no_sense_here_is_refused_at_its_place() {
    let desk = Desk::new();
    fs::write(desk.path("plain"), "").unwrap();
    fs::write(desk.path("token"), "").unwrap();
    let workload = |line: &str| format!("{GOOD}[workload.a]\ncommand = [\"sh\"]\n{line}\n");
    let command = |argv: &str| format!("[workload.a]\ncommand = {argv}\n");
    let store = |line: &str| format!("[store.x]\npath = \"kb\"\n{line}\n");
    let secret = |line: &str| format!("{GOOD}[secret.s]\n{line}\n");
    let vault = |line: &str| format!("[vault]\nauth = {{ token_file = \"token\" }}\n{line}\n");
    let cases: &[(String, &str, &str, &str)] = &[
        (command("[]"), "the command is empty", "write", "[]"),
        (command("[\"\"]"), "the command is empty", "", "[\"\"]"),
        (
            command("[\"no-such-program-here\"]"),
            "no program \"no-such-program-here\" in PATH",
            "install it",
            "\"no-such",
        ),
        (command("[\"./absent\"]"), "no program \"./absent\"", "relative to `directory`", "\"./absent"),
        #[cfg(unix)]
        (command("[\"./plain\"]"), "is not executable", "chmod +x", "\"./plain"),
        (command("[\"./kb\"]"), "a directory or a device", "", "\"./kb"),
        (workload("directory = \"absent\""), "does not exist", "", "\"absent\""),
        (
            workload("user = \"no-such-user-here\""),
            if cfg!(unix) { "no user" } else { "another user" },
            "",
            "\"no-such-user-here\"",
        ),
        (workload("stores = [\"kb\", \"kbb\"]"), "there is no store \"kbb\"", "did you mean `kb`?", "\"kbb\""),
        (workload("protect = [\"kb\", \"kb\"]"), "named twice", "", "\"kb\"]"),
        (workload("secrets = { A = \"absent\" }"), "no secret \"absent\"", "estop secret put absent", "\"absent\""),
        (workload("secrets = { A = \"../x\" }"), "no name for a secret", "", "\"../x\""),
        (workload("secrets = { \"A=B\" = \"x\" }\n[secret.x]"), "can't be set in an environment", "", "\"x\""),
        (workload("secret_files = { \"../f\" = \"x\" }\n[secret.x]"), "no name for a file", "", "\"x\""),
        (workload("environment = { A = \"1\" }\nsecrets = { A = \"x\" }\n[secret.x]"), "as well", "", "\"x\""),
        (workload("needs = [\"b\"]"), "no workload \"b\"", "", "\"b\""),
        (workload("needs = [\"a\"]"), "a needs a in turn", "take one", "\"a\""),
        (
            workload("needs = [\"b\"]\n[workload.b]\ncommand = [\"sh\"]\nneeds = [\"agent\", \"a\"]"),
            "b needs a in turn",
            "",
            "\"b\"",
        ),
        (workload("ready = { tcp = \"db:5432\" }"), "no port of this host", "127.0.0.1", "{ tcp"),
        (workload("ready = { http = \"https://x/\" }"), "no address of this host", "", "{ http"),
        (workload("alive = { every = \"1s\" }"), "not one check", "", "{ every"),
        (workload("alive = { tcp = \"127.0.0.1:1\", every = \"0s\" }"), "`every` is no time", "", "{ tcp"),
        (workload("alive = { tcp = \"127.0.0.1:1\", failures = 0 }"), "not even the first", "", "{ tcp"),
        (workload("alive = { exec = [\"absent-x\"] }"), "no program \"absent-x\"", "", "\"absent-x"),
        (workload("restart_window = \"0s\""), "no time at all", "", "\"0s\""),
        (workload("stop = [{ signal = \"KILL\" }]"), "`KILL` is no signal", "TERM, INT", "[{ signal"),
        (workload("stop = [{ signal = \"INT\", exec = [\"sh\"] }]"), "not one step", "", "[{ signal"),
        (workload("stop = [{ http = \"http://example.com/\" }]"), "no address of this host", "127.0.0.1", "[{ http"),
        (
            workload("stop = [{ exec = [\"no-such-program\"] }]"),
            "no program \"no-such-program\"",
            "",
            "\"no-such-program\"",
        ),
        (workload("memory_max = 0"), "memory_max is 0B", "above zero", "0"),
        (workload("pids_max = 0"), "pids_max is 0", "", "0"),
        (workload("time_max = \"0s\""), "time_max is 0s", "", "\"0s\""),
        (workload("process_memory_max = 0"), "process_memory_max is 0B", "above zero", "0"),
        (workload("cpu_weight = 0"), "cpu_weight is 0", "1 to 10000", "0"),
        (workload("cpu_weight = 10001"), "cpu_weight is 10001", "1 to 10000", "10001"),
        (workload("cpu_time_max = \"0s\""), "cpu_time_max is 0s", "", "\"0s\""),
        (workload("io_max = 0"), "io_max is 0B", "", "0"),
        (workload("io_max = 5\nlimits.io.warn = 6"), "above io_max (5B)", "raise io_max", "6"),
        (workload("freezable = false\nlimits.cpu_time.freeze = \"5s\""), "cpu_time.freeze freezes", "", "\"5s\""),
        (workload("limits.process_memory.stop = 0"), "process_memory.stop is 0B", "", "0"),
        (workload("limits.cpu.stop = 0"), "cpu.stop is 0%", "", "0"),
        (
            workload("limits.memory = { warn = \"2GiB\", stop = \"1GiB\" }"),
            "memory.stop (1GiB) is below memory.warn (2GiB)",
            "go up",
            "\"1GiB\"",
        ),
        (workload("limits.memory.warn = \"80% of max\""), "a limit that there is not", "memory_max", "\"80%"),
        (workload("memory_max = 9\nlimits.memory.warn = \"180% of max\""), "is no share", "", "\"180%"),
        (workload("memory_max = 9\nlimits.memory.warn = \"0% of max\""), "reached at once", "", "\"0%"),
        (workload("limits.cpu.stop = \"90% for 0s\""), "lasts for no time", "", "\"90%"),
        (workload("limits.cpu_pressure.stop = \"190%\""), "is no share", "", "\"190%"),
        (workload("pids_max = 5\nlimits.pids.stop = 6"), "above pids_max (5)", "raise pids_max", "6"),
        (workload("freezable = false\non_breach = \"freeze\""), "on_breach freezes", "", "\"freeze\""),
        (workload("freezable = false\nlimits.pids.freeze = 5"), "pids.freeze freezes", "", "5"),
        (workload("freeze_max = \"0s\""), "freeze_max is 0", "", "\"0s\""),
        (workload("log_age_max = \"0s\""), "log_age_max is 0", "", "\"0s\""),
        ("[workload.Agent]\ncommand = [\"sh\"]\n".into(), "no name for a workload", "a-z, 0-9", "Agent]"),
        ("[store.\"a b\"]\npath = \"kb\"\n".into(), "no name for a store", "", "\"a b\"]"),
        ("[secret.\"a//b\"]\n".into(), "no name for a secret", "", "\"a//b\"]"),
        (store("keep = { last = 0, daily = 7 }"), "keep.last is 0: it would keep nothing", "above zero", "0"),
        (store("snapshot_every = \"1ms\""), "snapshot_every is 1ms", "a second or more", "\"1ms\""),
        ("[store.x]\npath = \"absent\"\n".into(), "does not exist", "mkdir -p", "\"absent\""),
        ("[store.x]\npath = \"plain\"\n".into(), "is no directory", "", "\"plain\""),
        ("[store.x]\npath = \"/\"\n".into(), "all of the filesystem", "", "\"/\""),
        (
            format!("{GOOD}[store.x]\npath = \"kb\"\n"),
            "the store x is the same directory as the store kb",
            "",
            "\"kb\"",
        ),
        (format!("{GOOD}[store.x]\npath = \"kb/inner\"\n"), "the store x lies in the store kb", "", "\"kb/inner\""),
        (format!("{GOOD}[store.x]\npath = \".\"\n[estop]\n"), "contains", "", "\".\""),
        (
            format!("{GOOD}vault = \"kb/vault\"\n"),
            "the vault of the store kb lies in the store kb",
            "outside",
            "\"kb/vault\"",
        ),
        #[cfg(unix)]
        (format!("{GOOD}vault = \"/proc/x\"\n"), "not on the same filesystem", "", "\"/proc/x\""),
        (
            format!("{GOOD}vault = \"v\"\n[store.mail]\npath = \"mail\"\nvault = \"./v\"\n"),
            "the vault of the store mail is the same directory as the vault of the store kb",
            "",
            "\"./v\"",
        ),
        (secret("generate = { length = 4 }"), "bits of randomness", "length = 32", "generate"),
        (secret("generate = { bytes = 4 }"), "bits of randomness", "", "generate"),
        (secret("generate = { length = 12, alphabet = \"digits\" }"), "bits of randomness", "", "generate"),
        (secret("test = [\"no-such-program-here\"]"), "no program", "", "\"no-such"),
        (secret("rotate_every = \"0s\""), "rotate_every is 0s", "a second or more", "\"0s\""),
        (
            secret("notify = [{ signal = \"HUP\", workload = \"agnt\" }]"),
            "no workload \"agnt\"",
            "`agent`?",
            "\"agnt\"",
        ),
        (secret("notify = [{ exec = [\"./absent\"] }]"), "no program", "", "\"./absent"),
        (secret("notify = [{ webhook = \"https://x\", key = \"k\" }]"), "no secret \"k\"", "", "\"k\""),
        (vault("address = \"vault:8200\""), "no scheme", "https://", "\"vault:8200\""),
        (vault("address = \"http://vault:8200\""), "in the clear", "", "\"http://vault:8200\""),
        (vault("address = \"http://127.0.0.1:8200\""), "in the clear", "allow_http_loopback", "\"http://127"),
        (vault("address = \"https://v/a?b\""), "not just a host", "", "\"https://v"),
        (vault("address = \"https://v\"\nmount = \"a/../b\""), "no path in a Vault", "", "\"a/../b\""),
        (vault("address = \"https://v\"\nca_file = \"ca\""), "there is no file", "", "\"ca\""),
        (
            "[recovery]\non_critical_stop = []\napproval = [\"rotate\"]\n".into(),
            "it is not done at all",
            "",
            "\"rotate\"",
        ),
    ];
    for (text, message, hint, place) in cases {
        let problems = desk.problems(text);
        let fits = |problem: &(String, String, String)| {
            problem.0.contains(message) && problem.1.contains(hint) && problem.2.starts_with(place)
        };
        assert!(problems.iter().any(fits), "{message} | {hint} | {place}\n{text}\n{problems:#?}");
    }
    assert!(desk.check(&vault("address = \"http://[::1]:8200\"\nallow_http_loopback = true")).is_ok());
    for fine in ["hex", "digits", "symbols", "url-safe", "alphanumeric", "abcdefghijkl"] {
        assert!(desk.check(&secret(&format!("generate = {{ length = 64, alphabet = \"{fine}\" }}"))).is_ok(), "{fine}");
    }
    assert!(desk.check(&secret("notify = [{ webhook = \"http://127.0.0.1:9/x\" }]")).is_ok());
    assert!(desk.check(&workload("freezable = false")).is_ok());
    // A number is a user whether it has a name or not.
    assert_eq!(desk.check(&workload("user = \"0\"")).is_ok(), cfg!(unix));
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_the_text() {
    let desk = Desk::new();
    let text = "[store.x]\npath = \"absent\"\n[workload.a]\ncommand = [\"absent-program\"]\nmemory_max = 0\nstores = [\"y\"]\n";
    let places: Vec<String> = desk.problems(text).into_iter().map(|(_, _, place)| place).collect();
    assert_eq!(places, ["\"absent\"", "\"absent-program\"]", "0", "\"y\"]"]);
}

#[test]
fn stores_and_estops_own_directories_lie_apart_either_way_round_and_through_links() {
    let desk = Desk::new();
    let config = desk.parse(GOOD).unwrap();
    let refused = |state_dir: PathBuf| {
        let surroundings = Surroundings { state_dir, ..desk.surroundings() };
        let error = config.check(&surroundings).unwrap_err();
        found(&error, &here(GOOD)).remove(0).0
    };
    assert!(refused(desk.path("kb/state")).contains("contains the state directory"));
    assert!(refused(desk.path("kb/new/deep/../state")).contains("contains the state directory"));
    assert!(refused(desk.path("kb")).contains("is the same directory as"));
    assert!(refused(desk.dir.path().to_owned()).contains("lies in the state directory"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(desk.path("kb"), desk.path("link")).unwrap();
        assert!(refused(desk.path("link/state")).contains("contains the state directory"));
        let problem = desk.problem(&format!("{GOOD}[store.linked]\npath = \"link\"\n"));
        assert!(problem.0.contains("the same directory"), "{problem:?}");
    }
    // Names that begin alike are not in each other.
    fs::create_dir(desk.path("kb2")).unwrap();
    assert!(desk.check(&format!("{GOOD}[store.other]\npath = \"kb2\"\n")).is_ok());
}
