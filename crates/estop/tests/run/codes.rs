//! Exit codes, and the summary.

use crate::scene::{Scene, TIERS};

#[test]
fn the_commands_own_end_is_passed_on() {
    let scene = Scene::new();
    for code in [0, 1, 2, 3, 7, 124, 125, 255] {
        scene.run(&["run", "--", "sh", "-c", &format!("exit {code}")]).expect(code);
    }
    // They have 32 bits on Windows, and none of them is lost.
    #[cfg(windows)]
    for code in [256, 259, 300, -1, 0xC000_0005_u32.cast_signed()] {
        scene.run(&["run", "--", "cmd", "/c", &format!("exit {code}")]).expect(code);
    }
    #[cfg(unix)]
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("SEGV", 139)] {
        scene.run(&["run", "--", "sh", "-c", &format!("kill -{signal} $$")]).expect(code);
    }
    scene.expect_nothing_left();
}

#[test]
fn what_cannot_be_run_has_the_shells_codes() {
    let scene = Scene::new();
    let plain = scene.house().file("plain", "no program").display().to_string();
    #[cfg(unix)]
    {
        let broken = scene.house().script("broken", "").display().to_string();
        std::fs::write(&broken, "#!/no/such/interpreter\n").unwrap();
        scene.run(&["run", "--", &broken]).expect(127);
    }
    assert!(scene.run(&["run", "--", "/no/such/command"]).expect(127).stderr.contains("/no/such/command"));
    scene.run(&["run", "--", "no-such-command-in-path"]).expect(127);
    scene.run(&["run", "--", &plain]).expect(126);
    scene.run(&["run", "--", "/"]).expect(126);
    for options in TIERS.iter().copied().chain([&["--no-pid-namespace"][..]]) {
        let mut arguments = vec!["run"];
        arguments.extend(options);
        scene.run(&[&arguments[..], &["--", "/no/such/command"]].concat()).expect(127);
        scene.run(&[&arguments[..], &["--", &plain]].concat()).expect(126);
    }
    scene.expect_nothing_left();
}

#[test]
fn estops_own_failures_are_told_from_the_commands() {
    let scene = Scene::new();
    let sign = scene.path().join("sign").display().to_string();
    scene.run(&["run", "--memory-max", "much", "--", "touch", &sign]).expect(2);
    scene.run(&["run", "--name", "Not A Name", "--", "touch", &sign]).expect(2);
    scene.run(&["run", "--no-such-option", "--", "touch", &sign]).expect(2);
    scene.run(&["run"]).expect(2);
    scene.run(&["run", "--secret", "KEY=no/such", "--", "touch", &sign]).expect(125);
    for option in ["--secret", "--secret-file"] {
        let twice = scene.run(&["run", option, "KEY=one", option, "KEY=other", "--", "touch", &sign]).expect(2);
        assert!(twice.stderr.contains(&format!("{option} KEY is given twice")), "{}", twice.stderr);
    }
    // A state directory that cannot be one.
    let file = scene.house().file("file", "").join("below").display().to_string();
    scene.run(&["run", "--state-dir", &file, "--", "touch", &sign]).expect(125);
    let failure = scene.run(&["--json", "run", "--name", "A B", "--", "touch", &sign]).expect(2);
    assert_eq!(failure.stdout, "", "standard output is the command's");
    assert!(failure.stderr.contains("\"error\""), "{failure:?}");
    assert!(!std::path::Path::new(&sign).exists());
    scene.expect_nothing_left();
}

#[test]
fn a_latched_name_and_a_name_in_use_are_refused() {
    let scene = Scene::new();
    scene.json(3, &["now", "w"]);
    let outcome = scene.run(&["run", "--name", "w", "--", "true"]).expect(4);
    assert!(outcome.stderr.contains("reset"), "{outcome:?}");
    scene.json(0, &["reset", "w"]);
    let sign = scene.path().join("sign").display().to_string();
    let running = scene.guard("w", &[], &["sh", "-c", &format!("touch {sign}; exec sleep 1000")], "sign");
    scene.run(&["run", "--name", "w", "--", "true"]).expect(4);
    scene.json(0, &["now"]);
    running.wait().expect(124);
    scene.expect_nothing_left();
}

#[test]
fn the_summary_says_how_it_went_and_standard_output_stays_empty() {
    let scene = Scene::new();
    let summary = scene.path().join("summary.json").display().to_string();
    let read = || -> serde_json::Value { serde_json::from_slice(&std::fs::read(&summary).unwrap()).unwrap() };
    let outcome = scene.run(&["run", "--name", "w", "--summary", &summary, "--", "sh", "-c", "exit 5"]).expect(5);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""), "nothing to say, nothing said");
    let told = read();
    assert_eq!((&told["schema_version"], &told["name"]), (&1.into(), &"w".into()));
    assert_eq!((&told["exit"]["code"], &told["exit"]["signal"]), (&5.into(), &serde_json::Value::Null));
    assert!(told["stopped_by"].is_null() && told["incident"].is_null() && told["seconds"].is_f64(), "{told:#}");
    for field in ["tier", "isolation"] {
        assert!(told[field].is_string(), "{told:#}");
    }
    for field in ["memory_bytes", "cpu_cores", "processes"] {
        assert!(told["peak"][field].is_number(), "{told:#}");
    }
    #[cfg(unix)]
    {
        scene.run(&["run", "--summary", &summary, "--", "sh", "-c", "kill -9 $$"]).expect(137);
        assert_eq!((&read()["exit"]["code"], &read()["exit"]["signal"]), (&serde_json::Value::Null, &9.into()));
    }
    let outcome = scene.run(&["run", "--time-max", "300ms", "--summary", &summary, "--", "sleep", "1000"]).expect(124);
    assert_eq!((outcome.stdout.as_str(), &read()["stopped_by"]), ("", &"critical-stop".into()));
    let incident = read()["incident"].as_str().unwrap().to_owned();
    assert_eq!(scene.json(0, &["incident", "show", &incident])["outcome"], "stopped");
    scene.expect_nothing_left();
}

#[test]
fn the_summary_is_written_whatever_the_code() {
    let scene = Scene::new();
    let summary = scene.path().join("summary.json");
    let path = summary.display().to_string();
    for (options, code) in [(&["--", "no-such-command"][..], 127), (&["--pids-max", "0", "--", "true"], 2)] {
        scene.run(&[&["run", "--name", "w", "--summary", &path], options].concat()).expect(code);
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&summary).unwrap()).unwrap();
        assert_eq!((&written["name"], &written["stopped_by"]), (&"w".into(), &serde_json::Value::Null));
        assert!(written["error"]["message"].is_string() && written["peak"].is_object(), "{written:#}");
        std::fs::remove_file(&summary).unwrap();
    }
    scene.expect_nothing_left();
}
