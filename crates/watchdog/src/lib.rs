//! estop watchdog
