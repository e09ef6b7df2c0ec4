//! estop recovery
