//! Stop: the kernel ends the jobs, and their emptiness is proven. Nothing can forbid it.

use super::{Conclusion, Stage};
use crate::actions::{Actions, Order};

pub(crate) struct Stop;

impl Stage for Stop {
    fn act(&self, actions: &dyn Actions, order: &Order, _targets: &[String]) -> Conclusion {
        actions.stop(order).into()
    }
}
