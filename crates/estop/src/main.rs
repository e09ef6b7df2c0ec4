//! estop
fn main() {}
