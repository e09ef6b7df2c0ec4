//! `VaultClient` against a real OpenBao server over TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use estop_secrets::cache::CachePolicy;
use estop_secrets::vault::{Limits, Login, Options};
use estop_secrets::{SecretCache, SecretName, SecretStore, SecretValue, StoreError, VaultClient, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

mod bao;
mod suite;

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

/// Limits that make a test of an absent server short.
fn short() -> Limits {
    let tries = Duration::from_millis(300);
    Limits { connect: Duration::from_secs(2), read_tries: tries, write_tries: tries, ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vault_does_what_every_store_must() {
    let Some(bao) = bao::shared() else { return };
    let options = Options { prefix: Some(name("team/app")), ..bao.options(bao.token()) };
    suite::run(Arc::new(VaultClient::connect(options).await.unwrap())).await;
}

#[tokio::test]
async fn the_servers_certificate_must_be_signed_by_the_pinned_authority() {
    let Some(bao) = bao::shared() else { return };
    VaultClient::connect(bao.options(bao.token())).await.unwrap();
    for ca_file in [Some(bao.path("other-ca.pem")), None] {
        let options = Options { ca_file, ..bao.options(bao.token()) };
        let error = VaultClient::connect(options).await.unwrap_err();
        assert!(matches!(error, StoreError::Certificate { .. }), "{error:?}");
    }
    let wrong_name = Options { address: format!("https://localhost:{}", bao.port()), ..bao.options(bao.token()) };
    let error = VaultClient::connect(wrong_name).await.unwrap_err();
    assert!(matches!(error, StoreError::Certificate { .. }), "{error:?}");
    let plain = Options {
        address: format!("http://127.0.0.1:{}", bao.port()),
        loopback_http: true,
        ..bao.options(bao.token())
    };
    let error = VaultClient::connect(plain).await.unwrap_err().to_string();
    assert!(error.contains("speaks https"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_before_anything_is_sent() {
    let login = || Login::Token("planted-secret-token".into());
    let with = |address: &str| Options::new(address, login());
    let bad = [
        with("http://127.0.0.1:1"),
        with("http://vault.example:8200"),
        with("vault:8200"),
        with("https://user:planted-secret@127.0.0.1:1"),
        Options { mount: "a/../b".into(), ..with("https://127.0.0.1:1") },
        Options { field: "estop".into(), ..with("https://127.0.0.1:1") },
        Options::new("https://127.0.0.1:1", Login::Token("two words\nplanted-secret".into())),
        Options::new("https://127.0.0.1:1", Login::Token(" \n".into())),
    ];
    for options in bad {
        let shown = format!("{options:?}");
        let error = VaultClient::connect(options).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
        assert!(!shown.contains("planted"), "{shown}");
    }
    let nobody = Options { limits: short(), ..with("https://127.0.0.1:1") };
    let error = VaultClient::connect(nobody).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn an_app_role_may_do_what_its_policy_says_and_logs_in_again_when_its_token_is_revoked() {
    let Some(bao) = bao::shared() else { return };
    let policy = r#"path "secret/+/app/*" { capabilities = ["create", "read", "update", "list", "delete"] }"#;
    let login = bao.app_role("app", policy, "10m");
    let client = VaultClient::connect(bao.options(login.clone())).await.unwrap();
    let secret = name("app/token");
    client.write(&secret, &"one".into(), Version::NONE).await.unwrap();
    let denied = client.read(&name("other/token"), None).await.unwrap_err();
    assert!(matches!(denied, StoreError::Denied { .. }), "{denied:?}");

    assert!(client.login_ends_in().unwrap() <= Duration::from_mins(10));
    client.renew().await.unwrap();
    let accessors = bao.must("LIST", "auth/token/accessors", &Value::Null);
    for accessor in accessors["data"]["keys"].as_array().unwrap() {
        let looked_up = bao.must("POST", "auth/token/lookup-accessor", &json!({ "accessor": accessor }));
        if looked_up["data"]["meta"]["role_name"] == "app" {
            bao.must("POST", "auth/token/revoke-accessor", &json!({ "accessor": accessor }));
        }
    }
    assert_eq!(client.read(&secret, None).await.unwrap().value, SecretValue::from("one"));

    let Login::AppRole { mount, role_id, .. } = login else { unreachable!() };
    let wrong = Login::AppRole { mount, role_id, secret_id: "planted-secret".into() };
    let error = VaultClient::connect(bao.options(wrong)).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert!(!format!("{error:?} {client:?}").contains("planted"));
}

#[tokio::test]
async fn a_revoked_token_is_named_as_such_and_a_token_file_is_read_again() {
    let Some(bao) = bao::shared() else { return };
    let new_token = || {
        let made = bao.must("POST", "auth/token/create", &json!({ "policies": ["admin"], "ttl": "10m" }));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let revoke = |token: &str| bao.must("POST", "auth/token/revoke", &json!({ "token": token }));
    let (plain, filed) = (new_token(), new_token());
    let file = bao.path("token");
    std::fs::write(&file, format!("{filed}\n")).unwrap();
    let by_token = VaultClient::connect(bao.options(Login::Token(plain.as_str().into()))).await.unwrap();
    let by_file = VaultClient::connect(bao.options(Login::TokenFile(file.clone()))).await.unwrap();
    revoke(&plain);
    revoke(&filed);
    std::fs::write(&file, new_token()).unwrap();
    let error = by_token.read(&name("nothing"), None).await.unwrap_err();
    assert!(matches!(&error, StoreError::Denied { detail, .. } if detail.contains("revoked")), "{error:?}");
    let error = by_file.read(&name("nothing"), None).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    let dead = VaultClient::connect(bao.options(Login::Token(plain.into()))).await.unwrap_err();
    assert!(matches!(dead, StoreError::Denied { .. }), "{dead:?}");
}

#[tokio::test]
async fn other_clients_read_the_current_value_and_what_they_write_becomes_a_version() {
    let Some(bao) = bao::shared() else { return };
    let client = VaultClient::connect(bao.options(bao.token())).await.unwrap();
    let secret = name("shared/key");
    client.write(&secret, &"ours".into(), Version::NONE).await.unwrap();
    let seen = bao.must("GET", "secret/data/shared/key", &Value::Null);
    assert_eq!(seen["data"]["data"]["value"], "ours");

    bao.must("POST", "secret/data/shared/key", &json!({ "data": { "value": "theirs", "owner": "team" } }));
    let read = client.read(&secret, None).await.unwrap();
    assert_eq!((read.info.version, read.value), (Version(2), "theirs".into()));
    assert_eq!(client.write(&secret, &"ours again".into(), Version(2)).await.unwrap(), Version(3));
    let seen = bao.must("GET", "secret/data/shared/key", &Value::Null);
    assert_eq!(seen["data"]["data"]["owner"], "team");

    bao.must("DELETE", "secret/data/shared/key", &Value::Null);
    assert!(matches!(client.read(&secret, None).await, Err(StoreError::NotFound { .. })));
    client.write(&secret, &"after a deletion".into(), Version::NONE).await.unwrap();
    assert_eq!(client.read(&secret, None).await.unwrap().value, "after a deletion".into());
}

#[tokio::test]
async fn a_revoked_value_is_gone_from_the_servers_history() {
    let Some(bao) = bao::shared() else { return };
    let client = VaultClient::connect(bao.options(bao.token())).await.unwrap();
    let secret = name("history/key");
    client.write(&secret, &"planted-secret".into(), Version::NONE).await.unwrap();
    client.write(&secret, &"new".into(), Version(1)).await.unwrap();
    client.revoke(&secret, Version(1)).await.unwrap();
    let metadata = bao.must("GET", "secret/metadata/history/key", &Value::Null);
    let revisions = metadata["data"]["versions"].as_object().unwrap();
    assert_eq!(revisions.len(), 3);
    for revision in revisions.keys() {
        let (_, seen) = bao.admin("GET", &format!("secret/data/history/key?version={revision}"), &Value::Null);
        assert!(!seen.to_string().contains("planted-secret"), "revision {revision}");
        assert_eq!(revisions[revision]["destroyed"], revision != "3");
    }
    assert_eq!(client.read(&secret, None).await.unwrap().value, "new".into());
}

#[tokio::test]
async fn a_mount_that_is_missing_or_of_the_wrong_kind_is_named() {
    let Some(bao) = bao::shared() else { return };
    bao.must("POST", "sys/mounts/old", &json!({ "type": "kv", "options": { "version": "1" } }));
    for mount in ["nowhere", "old"] {
        let options = Options { mount: mount.to_owned(), ..bao.options(bao.token()) };
        let client = VaultClient::connect(options).await.unwrap();
        let error = client.write(&name("a"), &"x".into(), Version::NONE).await.unwrap_err();
        assert!(error.to_string().contains("mount"), "{mount}: {error:?}");
    }
}

#[tokio::test]
async fn a_login_is_kept_alive_ahead_of_its_end() {
    let Some(bao) = bao::shared() else { return };
    let policy = r#"path "secret/+/alive/*" { capabilities = ["create", "read", "update"] }"#;
    let client = VaultClient::connect(bao.options(bao.app_role("alive", policy, "3s"))).await.unwrap();
    let keeper = tokio::spawn({
        let client = client.clone();
        async move { client.keep_alive().await }
    });
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut left = client.login_ends_in().unwrap();
    let mut renewals = 0;
    while renewals < 3 {
        assert!(Instant::now() < deadline, "renewed {renewals} times only");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = client.login_ends_in().unwrap();
        renewals += usize::from(now > left);
        left = now;
    }
    let secret = name("alive/key");
    client.put(&secret, &"x".into()).await.unwrap();
    keeper.abort();
}

/// A stretch of wire between client and server that can lose an answer.
struct Wire {
    port: u16,
    swallow: Arc<AtomicBool>,
    swallowed: Arc<AtomicBool>,
}

impl Wire {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire =
            Self { port: listener.local_addr().unwrap().port(), swallow: Arc::default(), swallowed: Arc::default() };
        let (swallow, swallowed) = (Arc::clone(&wire.swallow), Arc::clone(&wire.swallowed));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&swallow), Arc::clone(&swallowed)));
            }
        });
        wire
    }
}

async fn carry(client: TcpStream, server: TcpStream, swallow: Arc<AtomicBool>, swallowed: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
        if swallow.swap(false, Ordering::SeqCst) {
            swallowed.store(true, Ordering::SeqCst);
            break;
        }
        if to_client.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    there.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_which_the_answer_was_lost_is_settled_by_its_id() {
    let Some(bao) = bao::shared() else { return };
    let wire = Wire::to(bao.port()).await;
    let options = Options { address: format!("https://127.0.0.1:{}", wire.port), ..bao.options(bao.token()) };
    let client = VaultClient::connect(options).await.unwrap();
    let secret = name("lost/answer");
    client.write(&secret, &"v1".into(), Version::NONE).await.unwrap();
    for version in 1..=5 {
        let document = client.load(&secret).await.unwrap().unwrap();
        // The connection is there and idle: the next that comes from the server is the answer to the write.
        wire.swallow.store(true, Ordering::SeqCst);
        let revision = client.store(&document).await.unwrap();
        assert!(wire.swallowed.swap(false, Ordering::SeqCst), "no answer was lost");
        assert_eq!(revision, version + 1, "the write was made twice, or not at all");
    }
    // A lost answer to a write that another writer had overtaken is not taken for success.
    let document = client.load(&secret).await.unwrap().unwrap();
    let other = VaultClient::connect(bao.options(bao.token())).await.unwrap();
    other.write(&secret, &"by another".into(), Version(1)).await.unwrap();
    wire.swallow.store(true, Ordering::SeqCst);
    assert!(matches!(client.store(&document).await, Err(StoreError::Moved { .. })));
    assert_eq!(client.read(&secret, None).await.unwrap().value, "by another".into());
}

#[tokio::test]
async fn a_server_that_is_killed_or_sealed_is_told_apart_and_the_cache_serves_the_last_good_value() {
    let Some(binary) = bao::binary() else { return };
    let bao = bao::Bao::start(binary);
    let options = Options { limits: short(), ..bao.options(bao.token()) };
    let client = VaultClient::connect(options).await.unwrap();
    let secret = name("cached");
    client.write(&secret, &"good".into(), Version::NONE).await.unwrap();
    let policy = CachePolicy { max_age: Duration::ZERO, failure_pause: Duration::ZERO, ..CachePolicy::default() };
    let cache = SecretCache::new(Arc::new(client.clone()), policy);
    assert!(!cache.get(&secret).await.unwrap().stale);

    bao.kill();
    let error = client.read(&secret, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let cached = cache.get(&secret).await.unwrap();
    assert!(cached.stale && *cached.value() == "good".into());

    bao.restart();
    assert!(!cache.get(&secret).await.unwrap().stale);
    client.write(&secret, &"better".into(), Version(1)).await.unwrap();

    bao.must("PUT", "sys/seal", &Value::Null);
    let error = client.read(&secret, None).await.unwrap_err();
    assert!(matches!(error, StoreError::Sealed { .. }), "{error:?}");
    cache.revoked(&secret, Version(1));
    let error = cache.get(&secret).await.unwrap_err();
    assert!(error.is_away(), "a revoked version was served: {error:?}");
}
