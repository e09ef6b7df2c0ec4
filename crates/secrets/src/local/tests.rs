#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{SecretValue, Version};

fn options(dir: &TempDir) -> Options {
    Options {
        dir: dir.path().join("data"),
        key: KeySource::File(dir.path().join("keys/key")),
        kept_versions: DEFAULT_KEPT_VERSIONS,
    }
}

fn open(dir: &TempDir) -> EmbeddedStore {
    EmbeddedStore::open(options(dir)).unwrap()
}

fn name(text: &str) -> SecretName {
    SecretName::new(text).unwrap()
}

/// Puts a value without an async runtime.
fn put(store: &EmbeddedStore, secret: &SecretName, value: &str) -> Result<u64, StoreError> {
    let document = store.inner.load(secret)?;
    let mut document = document.unwrap_or_else(|| Document::absent(secret.clone()));
    document.put(value.into(), Timestamp::now());
    store.inner.store(&document)
}

fn get(store: &EmbeddedStore, secret: &SecretName) -> Result<SecretValue, StoreError> {
    store.inner.load(secret)?.map_or_else(|| Err(not_found(secret, None)), |found| Ok(found.secret(None)?.value))
}

#[test]
fn a_flipped_bit_at_any_offset_and_a_cut_at_any_length_is_refused_and_left_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let secret = name("a/b");
    put(&store, &secret, "planted-secret").unwrap();
    let path = store.inner.path(&secret);
    let good = fs::read(&path).unwrap();
    let spoiled = (0..good.len()).map(|at| {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        bad
    });
    let cut = (0..good.len()).map(|length| good[..length].to_vec());
    for bad in spoiled.chain(cut) {
        fs::write(&path, &bad).unwrap();
        let read = get(&store, &secret).unwrap_err();
        assert!(matches!(read, StoreError::Damaged { .. }), "{read:?}");
        let written = put(&store, &secret, "new").unwrap_err();
        assert!(matches!(written, StoreError::Damaged { .. }), "{written:?}");
        let blind = store.inner.store(&Document::absent(secret.clone())).unwrap_err();
        assert!(matches!(blind, StoreError::Damaged { .. }), "{blind:?}");
        assert_eq!(fs::read(&path).unwrap(), bad, "the damaged file was changed");
        assert!(!format!("{read}{read:?}").contains("planted"));
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(get(&store, &secret).unwrap(), SecretValue::from("planted-secret"));
}

/// The container's checksum finds accidents; against intent stands the cipher. Here the checksum is made to match.
#[test]
fn a_change_with_a_matching_checksum_is_refused_by_the_cipher() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let secret = name("a");
    put(&store, &secret, "planted-secret").unwrap();
    let path = store.inner.path(&secret);
    let kind = estop_durable::Kind(*b"ESTOPSEC");
    let good = estop_durable::sealed::read(&path, kind, 1).unwrap().unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        estop_durable::sealed::write(&path, kind, 1, &bad).unwrap();
        let error = get(&store, &secret).unwrap_err();
        // The first eight bytes name the key.
        let expected = if at < 8 { "WrongKey" } else { "Damaged" };
        assert!(format!("{error:?}").starts_with(expected), "byte {at}: {error:?}");
    }
}

#[test]
fn one_secrets_file_is_not_accepted_as_anothers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, &name("mine"), "a").unwrap();
    put(&store, &name("theirs"), "b").unwrap();
    fs::copy(store.inner.path(&name("theirs")), store.inner.path(&name("mine"))).unwrap();
    assert!(matches!(get(&store, &name("mine")), Err(StoreError::Damaged { .. })));
}

#[test]
fn files_show_neither_names_nor_values() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, &name("telling-name"), "planted-secret").unwrap();
    for path in secret_files(&store.inner.dir).unwrap() {
        assert!(!path.to_string_lossy().contains("telling"));
        let bytes = fs::read(&path).unwrap();
        for needle in [&b"telling"[..], b"planted"] {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle));
        }
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o7777,
            0o600
        );
    }
}

#[test]
fn a_wrong_key_is_named_as_such_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, &name("a"), "value").unwrap();
    let before = fs::read(store.inner.path(&name("a"))).unwrap();
    let other = Options { key: KeySource::Text("ab".repeat(32).into()), ..options(&dir) };
    let error = EmbeddedStore::open(other).unwrap_err();
    assert!(matches!(error, StoreError::WrongKey { .. }), "{error:?}");
    assert_eq!(fs::read(store.inner.path(&name("a"))).unwrap(), before);
    assert_eq!(get(&open(&dir), &name("a")).unwrap(), SecretValue::from("value"));
}

#[test]
fn a_missing_key_file_is_not_replaced_while_secrets_need_it() {
    let dir = tempfile::tempdir().unwrap();
    put(&open(&dir), &name("a"), "value").unwrap();
    let key = dir.path().join("keys/key");
    fs::remove_file(&key).unwrap();
    assert!(matches!(EmbeddedStore::open(options(&dir)), Err(StoreError::Invalid { .. })));
    assert!(!key.exists());
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_may_reach_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    open(&dir);
    let key = dir.path().join("keys/key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);
    for mode in [0o640, 0o604, 0o620, 0o660] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let error = EmbeddedStore::open(options(&dir)).unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }
    let moved = dir.path().join("moved");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&key, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &key).unwrap();
    assert!(EmbeddedStore::open(options(&dir)).is_err(), "a symlink was followed");
}

/// On Windows the system sees to that, in its own way.
#[cfg(unix)]
#[test]
fn a_changed_byte_in_the_key_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir);
    let key = dir.path().join("keys/key");
    let good = fs::read(&key).unwrap();
    for at in 0..good.len() - 1 {
        let mut bad = good.clone();
        // Another digit, where it is one.
        bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
        fs::write(&key, &bad).unwrap();
        let error = EmbeddedStore::open(options(&dir)).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "byte {at}: {error:?}");
    }
}

#[test]
fn a_key_is_taken_as_hexadecimal_and_as_base64_and_nothing_else() {
    let hex = "0f".repeat(32);
    let base64 = data_encoding::BASE64.encode(&[0x0f; 32]);
    let dir = tempfile::tempdir().unwrap();
    let with = |text: &str| Options { key: KeySource::Text(text.into()), ..options(&dir) };
    put(&EmbeddedStore::open(with(&hex)).unwrap(), &name("a"), "value").unwrap();
    let store = EmbeddedStore::open(with(&format!(" {base64}\n"))).unwrap();
    assert_eq!(get(&store, &name("a")).unwrap(), SecretValue::from("value"));
    for bad in ["", "0f0f", &hex[1..], "planted-secret"] {
        let error = EmbeddedStore::open(with(bad)).unwrap_err();
        assert!(!format!("{error} {error:?} {:?}", with(bad)).contains("planted"));
    }
}

#[test]
fn one_damaged_secret_does_not_keep_the_others_from_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    put(&store, &name("a"), "value").unwrap();
    put(&store, &name("b"), "value").unwrap();
    fs::write(store.inner.path(&name("b")), b"rubbish").unwrap();
    let store = open(&dir);
    assert_eq!(get(&store, &name("a")).unwrap(), SecretValue::from("value"));
    assert!(matches!(store.inner.list(), Err(StoreError::Damaged { .. })));
}

#[test]
fn writers_in_many_threads_and_handles_lose_no_write() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir);
    let secret = name("a");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            // A store of its own for each, as another process would have.
            let store = open(&dir);
            let secret = &secret;
            scope.spawn(move || {
                let mut done = 0;
                while done < 5 {
                    match put(&store, secret, &format!("{writer}-{done}")) {
                        Ok(_) => done += 1,
                        Err(StoreError::Moved { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let document = open(&dir).inner.load(&secret).unwrap().unwrap();
    assert_eq!(document.current_version(), Version(20));
    assert_eq!(document.revision(), 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn what_is_stored_comes_back_after_reopening(
        secrets in prop::collection::btree_map("[A-Za-z0-9_-]{1,12}(/[A-Za-z0-9_-]{1,12}){0,2}", prop::collection::vec(any::<u8>(), 0..600), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        for (secret, value) in &secrets {
            let mut document = Document::absent(name(secret));
            document.put(value.clone().into(), Timestamp::now());
            store.inner.store(&document).unwrap();
        }
        let store = open(&dir);
        let names: Vec<String> = store.inner.list().unwrap().into_iter().map(String::from).collect();
        prop_assert_eq!(&names, &secrets.keys().cloned().collect::<Vec<_>>());
        for (secret, value) in &secrets {
            let found = get(&store, &name(secret)).unwrap();
            prop_assert_eq!(found.expose(), value.as_slice());
        }
    }
}

/// Wine keeps access lists as modes.
#[cfg(windows)]
#[test]
fn a_key_file_lies_protected_and_is_refused_where_others_may_reach_it() {
    let dir = tempfile::tempdir().unwrap();
    open(&dir);
    let key = dir.path().join("keys/key");
    let text = fs::read(&key).unwrap();
    assert!(!text.windows(5).any(|window| window == b"estop"), "it lies there as it is");
    fs::write(&key, &text[..text.len() / 2]).unwrap();
    assert!(matches!(EmbeddedStore::open(options(&dir)), Err(StoreError::Damaged { .. })));
    fs::write(&key, &text).unwrap();
    assert!(EmbeddedStore::open(options(&dir)).is_ok());
    let shared = std::process::Command::new("icacls").arg(&key).args(["/grant", "*S-1-1-0:R"]).status();
    if shared.is_ok_and(|status| status.success()) && !std::path::Path::new(r"Z:\proc\version").exists() {
        let error = EmbeddedStore::open(options(&dir)).unwrap_err().to_string();
        assert!(error.contains("icacls"), "{error}");
    }
}
