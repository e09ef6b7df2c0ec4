//! Being asked to end, which a script's `trap` listens for: by signals where there are any. On Windows TERM is Ctrl-Break or, as
//! estop asks by it where that cannot be pressed, Ctrl-C; INT is Ctrl-C; nothing can send the others.
//!
//! Unlike elsewhere, what ignores a request does not make its children ignore it.

use std::sync::mpsc::Sender;

use tokio::runtime::{Builder, Runtime};

/// The signals that can be trapped.
pub(crate) const NAMES: [&str; 6] = ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"];

/// Has `heard` told of every `name` that comes from now on, which then has no effect by itself.
#[cfg(windows)]
pub(crate) fn listen(name: &'static str, heard: Sender<&'static str>) {
    use tokio::signal::windows::{ctrl_break, ctrl_c};
    let runtime = Builder::new_current_thread().build().unwrap();
    match name {
        "TERM" => {
            let (mut breaks, mut interrupts) = (ctrl_break().unwrap(), ctrl_c().unwrap());
            let next =
                async move || tokio::select! { asked = breaks.recv() => asked, asked = interrupts.recv() => asked };
            pass_on(runtime, next, name, heard);
        }
        "INT" => {
            let mut requests = ctrl_c().unwrap();
            pass_on(runtime, async move || requests.recv().await, name, heard);
        }
        _ => {}
    }
}

/// Has `heard` told of every `name` that comes from now on, which then has no effect by itself.
#[cfg(unix)]
pub(crate) fn listen(name: &'static str, heard: Sender<&'static str>) {
    use tokio::signal::unix::{SignalKind, signal};
    let kind = match name {
        "TERM" => SignalKind::terminate(),
        "INT" => SignalKind::interrupt(),
        "HUP" => SignalKind::hangup(),
        "QUIT" => SignalKind::quit(),
        "USR1" => SignalKind::user_defined1(),
        _ => SignalKind::user_defined2(),
    };
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let mut requests = {
        let _inside = runtime.enter();
        signal(kind).unwrap()
    };
    pass_on(runtime, async move || requests.recv().await, name, heard);
}

fn pass_on(
    runtime: Runtime,
    mut next: impl AsyncFnMut() -> Option<()> + Send + 'static,
    name: &'static str,
    heard: Sender<&'static str>,
) {
    std::thread::spawn(move || {
        runtime.block_on(async { while next().await.is_some() && heard.send(name).is_ok() {} });
    });
}
