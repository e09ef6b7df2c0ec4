//! The pillars wired together: what one needs of another, given to it.

pub mod keys;
pub mod launch;
pub mod recorder;
pub mod record;
pub mod response;
pub mod stores;
pub mod user;
