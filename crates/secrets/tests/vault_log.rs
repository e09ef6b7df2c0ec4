//! What a client of a Vault logs. Alone in its process, as the log is of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};

use estop_secrets::vault::Login;
use estop_secrets::{SecretName, SecretStore, VaultClient};
use serde_json::json;

mod bao;

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

/// Collects everything that is logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_most_detailed_log_holds_no_secret_and_no_token() {
    let Some(bao) = bao::shared() else { return };
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer({
            let log = log.clone();
            move || log.clone()
        })
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let login =
        bao.app_role("logged", r#"path "secret/+/logged/*" { capabilities = ["create", "read", "update"] }"#, "10m");
    let Login::AppRole { secret_id, .. } = &login else { unreachable!() };
    let secret_id = String::from_utf8(secret_id.expose().to_vec()).unwrap();
    let client = VaultClient::connect(bao.options(login)).await.unwrap();
    let secret = name("logged/key");
    let version = client.put(&secret, &"planted-secret".into()).await.unwrap();
    client.read(&secret, None).await.unwrap();
    client.write(&secret, &"planted-secret".into(), version.next()).await.unwrap_err();
    client.read(&name("elsewhere/key"), None).await.unwrap_err();
    client.renew().await.unwrap();
    let login = bao.token();
    let Login::Token(token) = &login else { unreachable!() };
    let token = String::from_utf8(token.expose().to_vec()).unwrap();
    let client = VaultClient::connect(bao.options(login)).await.unwrap();
    bao.must("POST", "secret/data/logged/broken", &json!({ "data": { "value": ["planted-secret"] } }));
    client.read(&name("logged/broken"), None).await.unwrap_err();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("rustify"), "nothing was logged:\n{log}");
    for planted in ["planted-secret", secret_id.as_str(), token.as_str()] {
        assert!(!log.contains(planted), "{planted} is in the log");
    }
}
