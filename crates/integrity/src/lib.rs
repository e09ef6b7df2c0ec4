//! estop integrity
