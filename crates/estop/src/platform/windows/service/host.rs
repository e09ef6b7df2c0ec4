//! Runs the daemon for the service control manager.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use windows_service::define_windows_service;
use windows_service::service::{
    ServiceControl, ServiceControlAccept, ServiceExitCode, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_dispatcher;
use windows_sys::Win32::Foundation::ERROR_FAILED_SERVICE_CONTROLLER_CONNECT;

use super::manage::{code, refused};
use crate::cli::Output;
use crate::commands::logging;
use crate::commands::up::{require_configuration, serve};
use crate::config::Daemon;
use crate::failure::{Code, Failure, Result};
use crate::site::{Choice, Site};

/// How long the manager waits for the next sign of a start or an end.
const WAIT: Duration = Duration::from_secs(20);
/// How often there is one.
const SIGN: Duration = Duration::from_secs(2);
/// What the manager is told if the daemon ended by a panic.
const PANICKED: u32 = 101;

/// What to run: the entry point that the manager calls takes nothing along.
static WANTED: OnceLock<Wanted> = OnceLock::new();
static HOST: OnceLock<Host> = OnceLock::new();

struct Wanted {
    name: String,
    choice: Choice,
    output: Output,
}

define_windows_service!(entry, live);

/// Gives this thread to the manager until the service has ended.
///
/// # Errors
/// If it was not the manager that has started this process.
pub(super) fn run(name: &str, choice: &Choice, output: Output) -> Result<Code> {
    let wanted = Wanted { name: name.to_owned(), choice: choice.clone(), output };
    WANTED.set(wanted).map_err(|_| Failure::failed("the service runs already in this process", ""))?;
    service_dispatcher::start(name, entry).map_err(|error| {
        if code(&error) == Some(ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) {
            let hint = "use `estop service start`, or `estop up` in the foreground";
            return Failure::usage("this is for the service control manager alone", hint);
        }
        refused("run the service", &error)
    })?;
    let failed = HOST.get().is_none_or(Host::has_failed);
    Ok(if failed { Code::Failed } else { Code::Done })
}

/// The service's main function, on a thread that the manager's library has made.
fn live(_arguments: Vec<OsString>) {
    let Some(Wanted { name, choice, output }) = WANTED.get() else { return };
    let site = Site::find(choice);
    let settings = site.as_ref().map_or_else(|_| Daemon::default(), |site| site.config.estop.clone());
    logging::start(&settings, output, Some(name));
    let (end, told) = watch::channel(false);
    // The closure stays without captures: windows-service 0.8 frees it after the first stop, and calls it again if another control
    // was on its way.
    let handle = match service_control_handler::register(name, |control| Host::control(&control)) {
        Ok(handle) => handle,
        Err(error) => return tracing::error!(%error, "the service control manager cannot be answered"),
    };
    let host = HOST.get_or_init(|| Host { handle, end, told: Mutex::default() });
    host.tell(ServiceState::StartPending, None);
    std::thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        scope.spawn(move || {
            while is_done.recv_timeout(SIGN) == Err(RecvTimeoutError::Timeout) {
                host.sign();
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| carry(site, host, told)));
        drop(done);
        // The last: the process may end while this returns.
        host.tell(ServiceState::Stopped, Some(exit_of(outcome)));
    });
}

/// Runs the daemon to its end. A stop of the service is for the daemon alone, as a service manager's is elsewhere: the next one
/// adopts the workloads.
fn carry(site: Result<Site>, host: &Host, mut told: watch::Receiver<bool>) -> Result<()> {
    let site = site?;
    require_configuration(&site)?;
    let end = async move {
        // The sender is never dropped.
        let _ = told.wait_for(|told| *told).await;
        Ok(false)
    };
    serve(&site, end, || {
        host.tell(ServiceState::Running, None);
        tracing::info!("up");
    })
}

fn exit_of(outcome: std::thread::Result<Result<()>>) -> ServiceExitCode {
    match outcome {
        Ok(Ok(())) => ServiceExitCode::NO_ERROR,
        Ok(Err(failure)) => {
            tracing::error!("{}", failure.render(false));
            ServiceExitCode::ServiceSpecific(failure.code as u32)
        }
        Err(_) => {
            tracing::error!("the daemon has panicked; please report it");
            ServiceExitCode::ServiceSpecific(PANICKED)
        }
    }
}

/// This process, as the manager sees it.
struct Host {
    handle: ServiceStatusHandle,
    end: watch::Sender<bool>,
    told: Mutex<Told>,
}

/// What the manager was told last.
#[derive(Default)]
struct Told {
    state: Option<ServiceState>,
    checkpoint: u32,
    failed: bool,
}

impl Host {
    /// Called by the manager's thread, which must not be held up.
    fn control(control: &ServiceControl) -> ServiceControlHandlerResult {
        match control {
            ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
            ServiceControl::Stop | ServiceControl::Shutdown | ServiceControl::Preshutdown => {
                if let Some(host) = HOST.get() {
                    // Said before this returns: from then on the manager sends nothing more.
                    host.tell(ServiceState::StopPending, None);
                    host.end.send_replace(true);
                }
                ServiceControlHandlerResult::NoError
            }
            _ => ServiceControlHandlerResult::NotImplemented,
        }
    }

    /// Tells the manager that the service is in `state`, unless it is further already.
    fn tell(&self, state: ServiceState, exit: Option<ServiceExitCode>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_back = match told.state {
            Some(ServiceState::Stopped) => true,
            Some(ServiceState::StopPending) => state != ServiceState::Stopped,
            _ => false,
        };
        if is_back {
            return;
        }
        told.state = Some(state);
        told.checkpoint = 0;
        told.failed = exit.is_some_and(|exit| exit != ServiceExitCode::NO_ERROR);
        self.set(&mut told, exit.unwrap_or(ServiceExitCode::NO_ERROR));
    }

    /// A sign of life while the service starts or ends, without which the manager would think that it hangs.
    fn sign(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(told.state, Some(ServiceState::StartPending | ServiceState::StopPending)) {
            self.set(&mut told, ServiceExitCode::NO_ERROR);
        }
    }

    fn set(&self, told: &mut Told, exit_code: ServiceExitCode) {
        let Some(current_state) = told.state else { return };
        let pending = matches!(current_state, ServiceState::StartPending | ServiceState::StopPending);
        told.checkpoint += u32::from(pending);
        let controls_accepted = if current_state == ServiceState::Running {
            ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN | ServiceControlAccept::PRESHUTDOWN
        } else {
            ServiceControlAccept::empty()
        };
        let status = ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state,
            controls_accepted,
            exit_code,
            checkpoint: told.checkpoint,
            wait_hint: if pending { WAIT } else { Duration::ZERO },
            process_id: None,
        };
        if let Err(error) = self.handle.set_service_status(status) {
            tracing::error!(%error, "the service control manager does not take the state");
        }
    }

    fn has_failed(&self) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).failed
    }
}
