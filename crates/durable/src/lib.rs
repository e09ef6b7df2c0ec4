//! estop durable
