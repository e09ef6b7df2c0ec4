#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::document::{Start, Step};

fn name() -> SecretName {
    SecretName::new("db/password").unwrap()
}

fn at(revision: u64) -> Written {
    Written { revision, at: Timestamp::UNIX_EPOCH }
}

fn reread(document: &Document) -> Document {
    let bytes = encode(document, DEFAULT_FIELD, Uuid::new_v4()).unwrap();
    decode(&name(), at(document.revision + 1), DEFAULT_FIELD, &bytes).unwrap()
}

fn json(document: &Document) -> serde_json::Value {
    serde_json::from_slice(&encode(document, DEFAULT_FIELD, Uuid::new_v4()).unwrap()).unwrap()
}

#[test]
fn a_value_made_by_another_client_becomes_a_version_and_its_other_fields_stay() {
    let foreign = br#"{"value":"theirs","owner":"team a","nested":{"a":[1,2]}}"#;
    let mut document = decode(&name(), at(7), DEFAULT_FIELD, foreign).unwrap();
    assert_eq!(document.current_version(), Version(7));
    assert_eq!(document.secret(None).unwrap().value, SecretValue::from("theirs"));
    assert_eq!(document.put("ours".into(), Timestamp::now()), Version(8));
    let written = json(&document);
    assert_eq!(written["value"], "ours");
    assert_eq!(written["owner"], "team a");
    assert_eq!(written["nested"]["a"][1], 2);
}

#[test]
fn a_value_changed_by_another_hand_is_noticed() {
    let mut document = Document::absent(name());
    document.put("ours".into(), Timestamp::now());
    let mut changed = json(&document);
    changed["value"] = "patched".into();
    let bytes = serde_json::to_vec(&changed).unwrap();
    let document = decode(&name(), at(2), DEFAULT_FIELD, &bytes).unwrap();
    assert_eq!(document.current_version(), Version(2));
    assert_eq!(document.secret(None).unwrap().value, SecretValue::from("patched"));
    assert!(matches!(document.secret(Some(Version(1))), Err(StoreError::Revoked { .. })));
}

#[test]
fn a_missing_field_and_an_unknown_format_are_refused() {
    let no_field = decode(&name(), at(1), DEFAULT_FIELD, br#"{"password":"x"}"#).unwrap_err();
    assert!(no_field.to_string().contains("\"value\""), "{no_field}");
    let mut document = json(&Document::absent(name()));
    document["estop"]["format"] = 2.into();
    let bytes = serde_json::to_vec(&document).unwrap();
    assert!(matches!(decode(&name(), at(1), DEFAULT_FIELD, &bytes), Err(StoreError::Damaged { .. })));
}

#[test]
fn an_error_shows_nothing_of_the_content() {
    for bad in [&br#"{"value":"planted-secret""#[..], br#"{"value":["planted-secret"]}"#, br#""planted-secret""#] {
        let error = decode(&name(), at(1), DEFAULT_FIELD, bad).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("planted"), "{error:?}");
    }
}

#[test]
fn debug_of_a_document_shows_no_value() {
    let mut document = Document::absent(name());
    document.put("planted-secret".into(), Timestamp::now());
    assert!(!format!("{document:?}").contains("planted"));
}

proptest! {
    #[test]
    fn every_value_comes_back_whole(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6)) {
        let mut document = Document::absent(name());
        for value in &values {
            document.put(value.clone().into(), Timestamp::now());
            document = reread(&document);
        }
        let start = Start { id: Uuid::new_v4(), emergency: false, reason: "test".to_owned() };
        let id = start.id;
        document.begin(start, values[0].clone().into(), Timestamp::now()).unwrap();
        document = reread(&document);
        for (version, value) in (1..).zip(values.iter().chain([&values[0]])) {
            let secret = document.secret(Some(Version(version))).unwrap();
            prop_assert_eq!(secret.value.expose(), value.as_slice());
        }
        prop_assert_eq!(document.rotation().unwrap().id, id);
        prop_assert_eq!(document.rotation().unwrap().step, Step::Created);
        document.promote(id, false, None).unwrap();
        let kept = reread(&document);
        prop_assert_eq!(kept.current_version(), document.current_version());
        prop_assert_eq!(kept.versions().collect::<Vec<_>>(), document.versions().collect::<Vec<_>>());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&name(), at(1), DEFAULT_FIELD, &bytes);
    }
}
