//! A whole incident with pretended actions: `cargo run -p estop-recovery --example incident`.
//!
//! Prints each step with its time, then the incident as `estop incident show --json` would.

use std::error::Error;
use std::sync::Arc;

use estop_recovery::{
    Actions, Answer, Detail, Event, Failure, IncidentStore, Order, Plan, Saga, Settings, Stopped, Trigger,
};

struct Pretended;

impl Actions for Pretended {
    fn latch(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }

    fn freeze(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }

    fn capture(&self, order: &Order) -> Result<Answer, Failure> {
        Err(Failure::new(format!("no evidence of {}: this is an example", order.incident.workloads.join(", "))))
    }

    fn stop(&self, _: &Order) -> Result<Stopped, Failure> {
        Ok(Stopped { proven_empty: true, detail: Detail::new() })
    }

    fn rollback(&self, _: &Order, store: &str) -> Result<Answer, Failure> {
        let detail = Detail::from_iter([("store".to_owned(), store.into()), ("restored".to_owned(), 3.into())]);
        Ok(Answer::Done(detail))
    }

    fn rotate(&self, _: &Order, _secrets: &[String]) -> Result<Answer, Failure> {
        Ok(Answer::NothingToDo { reason: "no workload was given a secret".into() })
    }

    fn verify(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }

    fn restart(&self, _: &Order) -> Result<Answer, Failure> {
        Ok(Answer::done())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let store = IncidentStore::open(dir.path())?;
    let plan = Plan::build(&Settings {
        rollback: vec!["kb".into()],
        rotate: vec!["db/password".into()],
        ..Settings::default()
    })?;
    let observer = |event: Event<'_>| {
        if let Event::Ended { step, .. } = event {
            eprintln!("{:9} {:8} {:7.1} ms", step.kind, step.state, step.seconds * 1e3);
        }
    };
    let saga = Saga::new(Arc::new(store.clone()), Arc::new(Pretended), Box::new(observer));
    let run = saga.open(Trigger::Operator, Some("an example".into()), vec!["agent".into()], &plan);
    let shown = store.show(&run.incident.id.to_string())?;
    println!("{}", serde_json::to_string_pretty(&shown)?);
    Ok(())
}
