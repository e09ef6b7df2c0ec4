//! estop secrets
