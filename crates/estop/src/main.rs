//! The program `estop`.

fn main() -> std::process::ExitCode {
    // A guardian is this same executable. It must come before anything that starts a thread.
    estop_watchdog::guardian::enter(&estop::engine::recorder::LogRecorder);
    estop::cli::main()
}
