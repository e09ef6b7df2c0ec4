//! Signals that are sent to `estop run` reach the command.

use crate::scene::{Scene, Signal, TIERS, until};

#[cfg(unix)]
#[test]
fn signals_reach_the_command() {
    let scene = Scene::new();
    for &options in TIERS {
        let _ = std::fs::remove_file(scene.path().join("sign"));
        let body = "for s in TERM INT USR1 USR2 HUP QUIT; do trap \"echo $s >> got\" $s; done; echo > sign; \
                    while [ ! -e enough ]; do sleep 0.02; done; exit 9";
        let running = scene.guard("w", options, &["sh", "-c", body], "sign");
        for (signal, name) in [
            (Signal::TERM, "TERM"),
            (Signal::INT, "INT"),
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::HUP, "HUP"),
            (Signal::QUIT, "QUIT"),
        ] {
            running.signal(signal);
            let got = || std::fs::read_to_string(scene.path().join("got")).unwrap_or_default();
            until(&format!("{options:?}: {name} arrives"), || got().lines().any(|line| line == name));
            assert_eq!(got().lines().filter(|line| *line == name).count(), 1, "{name} came once");
        }
        std::fs::write(scene.path().join("enough"), "").unwrap();
        // The command decided how to end; a signal to estop is no order to stop.
        running.wait().expect(9);
        std::fs::remove_file(scene.path().join("enough")).unwrap();
        std::fs::remove_file(scene.path().join("got")).unwrap();
    }
    scene.expect_nothing_left();
}

#[cfg(unix)]
#[test]
fn a_command_that_a_signal_ends_takes_its_children_along() {
    for &options in TIERS {
        let scene = Scene::new();
        let villain = scene.villain();
        let running = scene.guard(
            "w",
            options,
            &["sh", "-c", &format!("{villain} session; {villain} daemon; echo > sign; exec sleep 1000")],
            "sign",
        );
        until("they run", || scene.written().len() == 2);
        running.signal(Signal::TERM);
        running.wait().expect(143);
        scene.expect_nothing_left();
    }
}

/// Decided and documented: whoever kills `estop run` ends its job.
#[test]
fn the_job_ends_with_run() {
    for &options in TIERS {
        let scene = Scene::new();
        let running = scene.guard(
            "w",
            &[options, &["--grace", "200ms"]].concat(),
            &[&scene.villain(), "everything"],
            "canary/ready",
        );
        running.signal(Signal::KILL);
        running.wait().expect(137);
        until("its job has ended", || scene.alive().is_empty());
        scene.expect_nothing_left();
    }
}

/// Where the host offers it, the kernel ends the job of a guardian that is killed; elsewhere `run` itself does.
#[test]
fn the_job_ends_with_its_guardian() {
    for &options in TIERS {
        let scene = Scene::new();
        let running = scene.guard("w", options, &[&scene.villain(), "everything"], "canary/ready");
        let guardian = scene.status("w")["guardian"]["pid"].as_u64().unwrap();
        crate::scene::signal(u32::try_from(guardian).unwrap(), Signal::KILL);
        let outcome = running.wait().expect(125);
        assert!(outcome.stderr.contains("guardian died"), "{outcome:?}");
        scene.expect_nothing_left();
    }
}
