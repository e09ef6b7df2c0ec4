//! The pillars wired together: what one needs of another, given to it.

pub mod ballast;
pub mod history;
pub mod keys;
pub mod launch;
pub mod masks;
pub mod record;
pub mod recorder;
pub mod response;
pub mod stores;
