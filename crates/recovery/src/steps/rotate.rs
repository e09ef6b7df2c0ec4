//! Rotate: the exposed secrets are replaced. A survivor or a failed rollback is no reason to leave a key in a stranger's hands: it goes on
//! whatever came before it.

use super::{Conclusion, Stage};
use crate::actions::{Actions, Order};

pub(crate) struct Rotate;

impl Stage for Rotate {
    fn act(&self, actions: &dyn Actions, order: &Order, targets: &[String]) -> Conclusion {
        actions.rotate(order, targets).into()
    }
}
