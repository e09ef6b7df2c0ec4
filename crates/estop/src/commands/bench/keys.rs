//! How long a rotation takes.

use std::time::Instant;

use estop_secrets::rotate::Request;
use estop_secrets::{SecretName, SecretValue};

use super::interrupt::Interrupt;
use super::measurement::{Measurement, Unit};
use crate::engine::keys::Keys;
use crate::engine::launch::block_on;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// Rotates a generated secret of the embedded store that one command is told of.
pub(super) fn measure(site: &Site, rounds: u32, interrupt: &Interrupt) -> Result<Measurement> {
    let seconds = block_on(async {
        let keys = Keys::open(site).await?;
        let name = SecretName::new("bench/key")?;
        keys.store.put(&name, &SecretValue::from("the first value of this secret")).await?;
        let (plan, rotator) = (keys.plan(&name).await?, keys.rotator());
        let mut seconds = Vec::new();
        for _ in 0..rounds {
            interrupt.check()?;
            let started = Instant::now();
            let report =
                rotator.rotate(&plan, &Request { reason: "estop bench".to_owned(), ..Request::default() }).await;
            seconds.push(started.elapsed().as_secs_f64());
            if !report.is_complete() {
                let why = report.error.unwrap_or_else(|| "it is not complete".to_owned());
                return Err(Failure::failed(format!("a rotation failed: {why}"), "see `estop doctor`"));
            }
        }
        Ok(seconds)
    })?;
    Ok(Measurement::middle("rotation", Unit::Seconds, seconds).below(5.0).with("embedded store, one command told"))
}
