//! `[vault]`: the `HashiCorp` Vault or `OpenBao` that holds the secrets. Without it they are in estop's own store.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A `HashiCorp` Vault or `OpenBao`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// Its address: `https://HOST:8200`.
    pub address: String,
    /// Where its KV (version 2) engine is mounted.
    #[serde(default = "Vault::default_mount")]
    pub mount: String,
    /// The folder in it that belongs to estop.
    #[serde(default = "Vault::default_prefix")]
    pub prefix: String,
    /// The certificates (PEM) that it is trusted by; no others are. Default: those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The namespace, where it has them.
    #[serde(default)]
    pub namespace: Option<String>,
    /// How estop logs in.
    pub auth: Auth,
    /// Allow `http://` to this host's own loopback address, for tests.
    #[serde(default)]
    pub allow_http_loopback: bool,
}

impl Vault {
    fn default_mount() -> String {
        "secret".into()
    }

    fn default_prefix() -> String {
        "estop".into()
    }
}

/// How estop logs in to the Vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AuthTable", into = "AuthTable")]
pub enum Auth {
    /// With the token in this file.
    Token {
        /// The file.
        token_file: PathBuf,
    },
    /// With an `AppRole`.
    AppRole {
        /// The role.
        role_id: String,
        /// The file with its secret id.
        secret_id_file: PathBuf,
    },
}

/// [`Auth`] as it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthTable {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_id_file: Option<PathBuf>,
}

impl TryFrom<AuthTable> for Auth {
    type Error = &'static str;

    fn try_from(table: AuthTable) -> Result<Self, Self::Error> {
        match table {
            AuthTable { token_file: Some(token_file), role_id: None, secret_id_file: None } => {
                Ok(Self::Token { token_file })
            }
            AuthTable { token_file: None, role_id: Some(role_id), secret_id_file: Some(secret_id_file) } => {
                Ok(Self::AppRole { role_id, secret_id_file })
            }
            _ => Err("this is not one way to log in\n\
                      write { token_file = \"FILE\" } or { role_id = \"ID\", secret_id_file = \"FILE\" }"),
        }
    }
}

impl From<Auth> for AuthTable {
    fn from(auth: Auth) -> Self {
        match auth {
            Auth::Token { token_file } => Self { token_file: Some(token_file), ..Self::default() },
            Auth::AppRole { role_id, secret_id_file } => {
                Self { role_id: Some(role_id), secret_id_file: Some(secret_id_file), ..Self::default() }
            }
        }
    }
}

impl JsonSchema for Auth {
    fn schema_name() -> Cow<'static, str> {
        "Auth".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How estop logs in to the Vault: by a token in a file, or by an AppRole.",
            "oneOf": [
                {
                    "type": "object",
                    "properties": { "token_file": { "type": "string" } },
                    "required": ["token_file"],
                    "additionalProperties": false
                },
                {
                    "type": "object",
                    "properties": { "role_id": { "type": "string" }, "secret_id_file": { "type": "string" } },
                    "required": ["role_id", "secret_id_file"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// Whether `authority` (`HOST:PORT`, perhaps with a path behind) is this host itself.
pub(super) fn is_loopback(authority: &str) -> bool {
    let authority = authority.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
