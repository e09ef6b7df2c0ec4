#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod cache;
pub mod document;
mod error;
pub mod exposure;
pub mod local;
mod name;
pub mod notify;
pub mod rotate;
pub mod store;
#[cfg(test)]
mod testing;
#[cfg(any(feature = "vault", feature = "webhook"))]
mod tls;
mod value;
#[cfg(feature = "vault")]
pub mod vault;
mod version;

pub use cache::SecretCache;
pub use error::StoreError;
pub use exposure::ExposureLedger;
pub use local::EmbeddedStore;
pub use name::{InvalidName, SecretName};
pub use rotate::Rotator;
pub use store::{Secret, SecretStore};
pub use value::SecretValue;
#[cfg(feature = "vault")]
pub use vault::VaultClient;
pub use version::{Version, VersionInfo, VersionState};
