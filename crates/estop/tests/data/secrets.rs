//! Secrets: put, read, compared and set; who received them.

use std::net::TcpListener;

use estop_secrets::exposure::{Channel, Exposure};
use estop_secrets::{ExposureLedger, SecretName, Version};

use crate::house::House;

#[test]
fn a_value_is_put_from_standard_input_and_read_back_to_the_byte() {
    let house = House::new();
    let put = house.feed(&["--json", "secret", "put", "db/password"], "planted-secret\n").expect(0);
    assert_eq!((&put.json()["name"], &put.json()["version"]), (&"db/password".into(), &1.into()));
    assert!(!put.stdout.contains("planted"), "{put:?}");
    assert_eq!(house.run(&["secret", "get", "db/password"]).expect(0).stdout, "planted-secret");
    let got = house.json(0, &["secret", "get", "db/password"]);
    assert_eq!((&got["value"], &got["version"]), (&"planted-secret".into(), &1.into()));

    house.feed(&["secret", "put", "key"], "a\nb\n\n").expect(0);
    assert_eq!(house.run(&["secret", "get", "key"]).stdout, "a\nb\n\n", "of several newlines at the end none is taken");
    house.feed(&["secret", "put", "key"], [0xff, 0xfe]).expect(0);
    let binary = house.json(0, &["secret", "get", "key"]);
    assert_eq!((&binary["value_base64"], binary.get("value")), (&"//4=".into(), None));

    for (input, code) in [("", 2), ("\n", 2)] {
        house.feed(&["secret", "put", "empty"], input).expect(code);
    }
    house.feed(&["secret", "put", "large"], "x".repeat(40_000)).expect(2);
    house.feed(&["secret", "put", "../escape"], "x").expect(2);
    assert_eq!(house.json(0, &["secret", "list"])["secrets"].as_array().unwrap().len(), 2);
}

#[test]
fn a_version_is_put_only_on_top_of_the_one_expected() {
    let house = House::new();
    house.feed(&["secret", "put", "token", "--expect", "0"], "one").expect(0);
    let refused = house.feed(&["secret", "put", "token", "--expect", "0"], "stale").expect(1);
    assert!(refused.stderr.contains("version 1"), "the version found is not named: {refused:?}");
    let refused = house.feed(&["--json", "secret", "put", "token", "--expect", "7"], "stale").expect(1);
    assert_eq!(refused.json()["error"]["kind"], "conflict");
    house.feed(&["secret", "put", "token", "--expect", "1"], "two").expect(0);
    house.feed(&["secret", "put", "token"], "three").expect(0);
    assert_eq!(house.run(&["secret", "get", "token"]).stdout, "three");
    assert_eq!(house.run(&["secret", "get", "token", "--version", "1"]).stdout, "one");
    house.run(&["secret", "get", "token", "--version", "9"]).expect(1);
    assert_eq!(house.json(1, &["secret", "get", "absent"])["error"]["kind"], "no-such-secret");

    let versions = house.json(0, &["secret", "versions", "token"]);
    let states: Vec<_> = versions["versions"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(states, ["previous", "previous", "current"]);
    let listed = house.json(0, &["secret", "list"]);
    assert_eq!((&listed["secrets"][0]["name"], &listed["secrets"][0]["version"]), (&"token".into(), &3.into()));
    for listing in [house.run(&["secret", "list"]), house.run(&["secret", "versions", "token"])] {
        assert!(!["one", "two", "three"].iter().any(|value| listing.stdout.contains(value)), "{listing:?}");
    }
    house.run(&["secret", "versions", "absent"]).expect(1);
}

#[test]
fn who_received_a_secret_is_told_without_its_store() {
    let house = House::new();
    let ledger = ExposureLedger::new(house.state_dir().join("exposure"));
    let name = SecretName::new("db/password").unwrap();
    ledger.record(&[Exposure::now("agent", "run-1", name, Version(3), Channel::File)]).unwrap();
    let given = house.json(0, &["secret", "exposure", "db/password"]);
    let one = &given["exposures"][0];
    assert_eq!([&one["workload"], &one["run_id"], &one["channel"]], ["agent", "run-1", "file"]);
    assert_eq!(one["version"], 3);
    assert!(one["time"].is_string());
    let told = house.run(&["secret", "exposure", "db/password"]).expect(0);
    assert!(told.stdout.contains("agent") && told.stdout.contains("file"), "{told:?}");
    assert_eq!(house.json(0, &["secret", "exposure", "other"])["exposures"].as_array().unwrap().len(), 0);
    assert!(!house.state_dir().join("secrets").exists(), "the store was opened for it");
}

#[test]
fn a_vault_that_is_away_is_said_to_be_away() {
    let house = House::new();
    // Taken and given back: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    house.file("token", "t");
    house.config(&format!(
        "[vault]\naddress = \"http://127.0.0.1:{port}\"\nallow_http_loopback = true\nauth = {{ token_file = \"token\" }}\n"
    ));
    assert_eq!(house.json(5, &["secret", "list"])["error"]["kind"], "secrets-away");
    house.run(&["secret", "get", "x"]).expect(5);
    house.run(&["rotate", "x"]).expect(5);
    house.run(&["config", "check"]).expect(0);
}
