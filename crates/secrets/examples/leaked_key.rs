//! A key leaks: who has it, a new one for everybody, and the old one is refused.
//!
//! `cargo run -p estop-secrets --example leaked_key`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use estop_secrets::exposure::{Channel, Exposure};
use estop_secrets::local::Options;
use estop_secrets::notify::{Delivery, Limits, Notifier, Subscriber};
use estop_secrets::rotate::{Generate, Plan, Policy, Request, Rotator};
use estop_secrets::{EmbeddedStore, ExposureLedger, SecretName, SecretStore, SecretValue, Version};

/// Stands for the part of a program that runs workloads.
struct Workloads;

#[async_trait]
impl Delivery for Workloads {
    async fn run_id(&self, _workload: &str) -> Result<String, String> {
        Ok("run-1".to_owned())
    }

    async fn signal(&self, workload: &str, signal: &str) -> Result<(), String> {
        println!("  {workload} gets SIG{signal}");
        Ok(())
    }

    async fn replace_file(&self, workload: &str, file: &str, value: &SecretValue) -> Result<(), String> {
        println!("  {workload}'s file {file} has {} new bytes", value.len());
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let options = Options::new(dir.path().join("secrets"), dir.path().join("key"))?;
    let store: Arc<dyn SecretStore> = Arc::new(EmbeddedStore::open(options)?);
    let ledger = Arc::new(ExposureLedger::new(dir.path().join("exposure")));

    let name = SecretName::new("api/token")?;
    let version = store.write(&name, &SecretValue::from("a token"), Version::NONE).await?;
    println!("{name} version {version} is stored in {}", store.describe());

    // The ledger first, then the secret.
    ledger.record(&[Exposure::now("agent", "run-1", name.clone(), version, Channel::Env)])?;
    println!("agent has received: {:?}", ledger.exposed_to("agent")?);

    println!("agent has gone wrong: rotate what it has seen");
    let notifier = Arc::new(Notifier::new(Arc::new(Workloads), Some(Arc::clone(&ledger)), Limits::default()));
    let rotator = Rotator::new(Arc::clone(&store), notifier);
    let plan = |name: SecretName| Plan {
        name,
        kind: Arc::new(Generate { policy: Policy::password(40), test: Some(vec!["true".to_owned()]) }),
        subscribers: vec![
            Subscriber::File { workload: "server".to_owned(), file: "token".to_owned() },
            Subscriber::Signal { signal: "HUP".to_owned(), workload: "server".to_owned() },
        ],
        overlap: Duration::ZERO,
    };
    let plans = ledger.exposed_to("agent")?.into_keys().map(plan).collect();
    let reports = rotator.rotate_all(plans, &Request::emergency("agent went wrong")).await;
    println!("{}", serde_json::to_string_pretty(&reports)?);

    for info in store.versions(&name).await? {
        println!("version {} is {:?}", info.version, info.state);
    }
    match store.read(&name, Some(version)).await {
        Ok(_) => Err("the old version is still there".into()),
        Err(error) => {
            println!("the old one: {error}");
            Ok(())
        }
    }
}
