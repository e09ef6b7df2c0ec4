//! The JSON schema of the configuration, for editors and for `estop config schema`.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

/// The JSON schema (draft 2020-12) of an `estop.toml`.
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<Config>();
    schema.insert("title".into(), "estop.toml".into());
    let mut schema = schema.to_value();
    remove_null(&mut schema);
    schema
}

/// TOML has no null: what may be left out is left out.
fn remove_null(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            for alternatives in ["type", "anyOf"] {
                if let Some(Value::Array(list)) = fields.get_mut(alternatives) {
                    list.retain(|one| *one != "null" && one.get("type").is_none_or(|kind| kind != "null"));
                    if let [only] = list.as_mut_slice() {
                        let only = only.take();
                        fields.remove(alternatives);
                        match only {
                            Value::Object(inner) => fields.extend(inner),
                            name => drop(fields.insert(alternatives.to_owned(), name)),
                        }
                    }
                }
            }
            fields.values_mut().for_each(remove_null);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_null),
        _ => {}
    }
}
