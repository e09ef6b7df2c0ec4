//! The program with its secrets in a real OpenBao: put, given to a workload, rotated, and what it says when the server is away.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../secrets/tests/bao/mod.rs"]
mod bao;
mod house;

use bao::{Bao, binary};
use estop_secrets::vault::Login;
use house::House;

const POLICY: &str = r#"
path "secret/data/estop/*" { capabilities = ["create", "read", "update"] }
path "secret/metadata/estop/*" { capabilities = ["read", "list", "delete"] }
path "secret/metadata/estop" { capabilities = ["list"] }
path "secret/destroy/estop/*" { capabilities = ["update"] }
"#;

/// A house whose secrets are in `bao`, reached by an AppRole of its own.
fn house(bao: &Bao, role: &str) -> House {
    let house = House::new();
    let Login::AppRole { role_id, secret_id, .. } = bao.app_role(role, POLICY, "10m") else { panic!("no AppRole") };
    let file = house.file("secret-id", secret_id.expose());
    house.config(&format!(
        r#"
[vault]
address = "{}"
ca_file = "{}"
auth = {{ role_id = "{role_id}", secret_id_file = "{}" }}

[secret."db/password"]
generate = {{ length = 24 }}
notify = [{{ exec = ["sh", "-c", "cat >> told"] }}]
"#,
        bao.address(),
        bao.path("ca.pem").display(),
        file.display(),
    ));
    house
}

#[test]
fn secrets_in_a_real_vault_are_put_given_and_rotated() {
    let Some(binary) = binary() else { return };
    let bao = Bao::start(binary);
    let house = house(&bao, "program");
    house.feed(&["secret", "put", "db/password", "--expect", "0"], "first-value").expect(0);
    assert_eq!(house.run(&["secret", "get", "db/password"]).expect(0).stdout, "first-value");
    house.feed(&["secret", "put", "db/password", "--expect", "7"], "x").expect(1);

    let given =
        house.run(&["run", "--name", "agent", "--secret", "PW=db/password", "--", "sh", "-c", "echo $PW"]).expect(0);
    assert_eq!(given.stdout, "first-value\n");
    let exposure = house.json(0, &["secret", "exposure", "db/password"]);
    assert!(exposure.to_string().contains("\"agent\""), "{exposure}");

    let rotated = house.json(0, &["rotate", "--emergency", "--exposed-to", "agent"]);
    let rotation = &rotated["rotations"][0];
    assert_eq!((&rotation["promoted"], &rotation["old_revoked"]), (&true.into(), &true.into()), "{rotated}");
    let told = std::fs::read_to_string(house.path().join("told")).unwrap();
    assert!(told.contains("\"version\":2") && !told.contains("first-value"), "{told}");
    assert_ne!(house.run(&["secret", "get", "db/password"]).expect(0).stdout, "first-value");
    house.run(&["secret", "get", "db/password", "--version", "1"]).expect(1);
    // The value is gone from the server's own history too.
    let (_, history) = bao.admin("GET", "secret/data/estop/db/password?version=1", &serde_json::Value::Null);
    assert!(!history.to_string().contains("first-value"), "{history}");

    bao.kill();
    house.run(&["secret", "get", "db/password"]).expect(5);
    let away = house.json(5, &["rotate", "db/password"]);
    assert_eq!(away["error"]["kind"], "secrets-away", "{away}");
    bao.restart();
    house.run(&["secret", "get", "db/password"]).expect(0);
}
