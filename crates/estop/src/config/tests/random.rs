//! Random texts and values.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use proptest::prelude::*;

use crate::config::*;

/// Pieces from which texts are made that are nearly configurations.
fn fragment() -> impl Strategy<Value = String> {
    let pieces = [
        "[workload.a]",
        "[workload]",
        "[[workload]]",
        "[store.kb]",
        "[secret.\"a/b\"]",
        "[vault]",
        "[recovery]",
        "[estop]",
        "command = ",
        "[\"sh\"]",
        "\"sh\"",
        "memory_max = ",
        "cpu_weight = ",
        "limits.cpu.stop = ",
        "limits = ",
        "{ warn = 1 }",
        "notify = ",
        "generate = ",
        "-1",
        "\"2GiB\"",
        "\"10s\"",
        "é = \"ü\"",
        "path = ",
        "= ",
        "{",
        "}",
        "'''",
        "\n",
        "\r\n",
        "\t",
        "\u{0}",
        "#",
    ];
    let piece = prop_oneof![8 => prop::sample::select(pieces.to_vec()).prop_map(str::to_owned), 1 => ".{0,6}", 4 => Just("\n".to_owned())];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in fragment()) {
        let surroundings = Surroundings { state_dir: "/nonexistent".into(), run_dir: "/nonexistent".into(), known_secrets: None };
        let result = Config::parse(&text, Path::new("/nonexistent/estop.toml"));
        if let Err(error) = result.and_then(|config| config.check(&surroundings)) {
            prop_assert!(!error.render(false).is_empty());
            prop_assert!(!error.problems().is_empty());
            error.to_json();
        }
    }

    #[test]
    fn what_is_written_reads_back(memory in 1..u64::MAX / 4, cpu in 0.1..9000.0, seconds in 1..9_000_000_u64, pids in 1..9_000_000_u64) {
        let mut workload = Workload::new(Command::from(vec!["sh".to_owned()]));
        workload.memory_max = Some(Size::from_bytes(memory));
        workload.cpu_max = Some(CpuPercent::from_cores(cpu));
        workload.time_max = Some(Period::from_secs(seconds));
        workload.process_memory_max = Some(Size::from_bytes(memory));
        workload.cpu_weight = Some(1 + u32::try_from(pids % 10_000).unwrap());
        workload.cpu_time_max = Some(Period::from_secs(seconds));
        workload.io_max = Some(Size::from_bytes(memory));
        workload.limits.pids.stop = Some(Count::from(pids).into());
        workload.directory = Some(std::path::absolute("/").unwrap());
        let text = toml::to_string(&std::collections::BTreeMap::from([("workload", std::collections::BTreeMap::from([("a", &workload)]))])).unwrap();
        let config = Config::parse(&text, Path::new("/estop.toml")).map_err(|error| TestCaseError::fail(error.render(false)))?;
        prop_assert_eq!(&config.workloads["a"], &workload);
    }
}
