//! Installs, starts, stops, shows and uninstalls the service.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceExitCode,
    ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceSidType, ServiceStartType, ServiceState,
    ServiceStatus, ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_LEVEL, ERROR_SERVICE_ALREADY_RUNNING, ERROR_SERVICE_DOES_NOT_EXIST,
    ERROR_SERVICE_EXISTS, ERROR_SERVICE_MARKED_FOR_DELETE, ERROR_SERVICE_NOT_ACTIVE,
};

use super::super::event_log;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// How long a service may take to start and to end.
const WAIT: Duration = Duration::from_mins(1);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(50);

/// Installs the service, with the places of `site`. Answers which settings this service control manager does not know.
///
/// # Errors
/// If a path cannot be a service's, or the manager refuses: then nothing is left of it.
pub(super) fn install(name: &str, manual: bool, site: &Site) -> Result<Vec<&'static str>> {
    check_name(name)?;
    let info = description(name, manual, site)?;
    let manager = manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    // To have a service started again, one must be allowed to start it.
    let access =
        ServiceAccess::CHANGE_CONFIG | ServiceAccess::QUERY_CONFIG | ServiceAccess::START | ServiceAccess::DELETE;
    let service = manager.create_service(&info, access).map_err(|error| match code(&error) {
        Some(ERROR_SERVICE_EXISTS) => {
            let hint = "`estop service uninstall` removes it, --name names another";
            Failure::new(Code::Refused, "service-exists", format!("the service {name} is there already"), hint)
        }
        Some(ERROR_SERVICE_MARKED_FOR_DELETE) => Failure::new(
            Code::Refused,
            "service-going",
            format!("the service {name} is being deleted"),
            "close what has it open: services.msc, for instance",
        ),
        _ => refused("make the service", &error),
    })?;
    let set = configure(&service, manual).and_then(|missing| {
        let fail = |error| Failure::failed(format!("cannot register {name} with the Event Log: {error}"), "");
        event_log::register(name).map_err(fail)?;
        Ok(missing)
    });
    if set.is_err() {
        // The failure is told; what cannot be removed now, `uninstall` removes.
        let _ = service.delete();
        let _ = event_log::unregister(name);
    }
    set
}

fn description(name: &str, manual: bool, site: &Site) -> Result<ServiceInfo> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find estop's own executable: {error}"), ""))?;
    let absolute =
        |path: &std::path::Path| std::path::absolute(path).map_err(|error| Failure::io("find", path, &error));
    let (config, state_dir) = (absolute(site.config.origin())?, absolute(&site.state_dir)?);
    for path in [&program, &config, &state_dir] {
        // The manager expands variables in a command line.
        if path.to_string_lossy().contains('%') {
            let message = format!("{}: a service cannot be started with a % in a path", path.display());
            return Err(Failure::usage(message, "choose another path"));
        }
    }
    Ok(ServiceInfo {
        name: name.into(),
        display_name: name.into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: if manual { ServiceStartType::OnDemand } else { ServiceStartType::AutoStart },
        error_control: ServiceErrorControl::Normal,
        executable_path: program,
        launch_arguments: arguments(name, config, state_dir),
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    })
}

fn arguments(name: &str, config: PathBuf, state_dir: PathBuf) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--config".into(), config.into(), "--state-dir".into(), state_dir.into()];
    arguments.extend(["service", "run", "--name", name].map(OsString::from));
    arguments
}

/// What is beyond a service's bare being there. Answers what the manager does not know.
fn configure(service: &Service, manual: bool) -> Result<Vec<&'static str>> {
    let again = |after| ServiceAction { action_type: ServiceActionType::Restart, delay: Duration::from_secs(after) };
    let recovery = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_hours(1)),
        reboot_msg: None,
        command: None,
        // The last one is repeated.
        actions: Some(vec![again(1), again(5), again(60)]),
    };
    let mut missing = Vec::new();
    let mut note = |what: &'static str, done: windows_service::Result<()>| match done {
        Err(error) if code(&error) == Some(ERROR_INVALID_LEVEL) => {
            missing.push(what);
            Ok(())
        }
        done => done.map_err(|error| refused(what, &error)),
    };
    note("description", service.set_description("An emergency stop for programs that run on their own."))?;
    note("recovery", service.update_failure_actions(recovery))?;
    note("recovery after an end with an error", service.set_failure_actions_on_non_crash_failures(true))?;
    if !manual {
        note("delayed start", service.set_delayed_auto_start(true))?;
    }
    note("time before shutdown", service.set_preshutdown_timeout(Duration::from_secs(30)))?;
    // So that access lists can name `NT SERVICE\NAME`. A restricted one would bind the workloads too.
    note("service SID", service.set_config_service_sid_info(ServiceSidType::Unrestricted))?;
    Ok(missing)
}

/// Starts it and waits until it runs.
///
/// # Errors
/// If it ends at its start; the manager's refusal.
pub(super) fn start(name: &str) -> Result<()> {
    let service = open(name, ServiceAccess::START | ServiceAccess::QUERY_STATUS)?;
    service.start::<&OsStr>(&[]).map_err(|error| match code(&error) {
        Some(ERROR_SERVICE_ALREADY_RUNNING) => {
            Failure::new(Code::Refused, "service-runs", format!("the service {name} runs already"), "")
        }
        _ => refused("start the service", &error),
    })?;
    let is_settled =
        |status: &ServiceStatus| matches!(status.current_state, ServiceState::Running | ServiceState::Stopped);
    let status = wait(&service, is_settled)?;
    if status.current_state == ServiceState::Running {
        return Ok(());
    }
    let message = format!("the service {name} has ended at its start ({})", shown(status.exit_code));
    Err(Failure::failed(message, "the Event Log says why; so does `estop up` in the foreground"))
}

/// Stops it and waits until it has ended.
///
/// # Errors
/// If it does not end, or ends with a failure; the manager's refusal.
pub(super) fn stop(name: &str) -> Result<()> {
    let status = end(&open(name, ServiceAccess::STOP | ServiceAccess::QUERY_STATUS)?)?;
    // One that was never started has a code for that.
    match status.exit_code {
        ServiceExitCode::ServiceSpecific(_) => {
            let message = format!("the service {name} has ended with a failure ({})", shown(status.exit_code));
            Err(Failure::failed(message, "the Event Log says why"))
        }
        ServiceExitCode::Win32(_) => Ok(()),
    }
}

fn end(service: &Service) -> Result<ServiceStatus> {
    // While it starts it takes no stop; and one that is deleted then runs on, and is there until it ends.
    let status = wait(service, |status| status.current_state != ServiceState::StartPending)?;
    if !matches!(status.current_state, ServiceState::Stopped | ServiceState::StopPending) {
        match service.stop() {
            Err(error) if code(&error) == Some(ERROR_SERVICE_NOT_ACTIVE) => {}
            done => drop(done.map_err(|error| refused("stop the service", &error))?),
        }
    }
    wait(service, |status| status.current_state == ServiceState::Stopped)
}

/// Ends and removes the service; that there is none is no error.
///
/// # Errors
/// If somebody has it open, so that it stays; the manager's refusal.
pub(super) fn uninstall(name: &str) -> Result<()> {
    let manager = manager(ServiceManagerAccess::CONNECT)?;
    let access =
        ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG | ServiceAccess::DELETE;
    match manager.open_service(name, access) {
        Err(error) if code(&error) == Some(ERROR_SERVICE_DOES_NOT_EXIST) => return Ok(()),
        Err(error) => return Err(refused("open the service", &error)),
        Ok(service) => {
            require_own(&service, name)?;
            // One that does not end is removed too, as soon as it has.
            let ended = end(&service);
            match service.delete() {
                Err(error) if code(&error) == Some(ERROR_SERVICE_MARKED_FOR_DELETE) => {}
                done => done.map_err(|error| refused("delete the service", &error))?,
            }
            ended?;
        }
    }
    let fail = |error| Failure::failed(format!("cannot take {name} out of the Event Log: {error}"), "");
    event_log::unregister(name).map_err(fail)?;
    wait_until_gone(&manager, name)
}

/// It goes when the last handle to it is closed, also those of others.
fn wait_until_gone(manager: &ServiceManager, name: &str) -> Result<()> {
    let deadline = Instant::now() + WAIT;
    loop {
        match manager.open_service(name, ServiceAccess::QUERY_STATUS) {
            Err(error) if code(&error) == Some(ERROR_SERVICE_DOES_NOT_EXIST) => return Ok(()),
            Err(error) if code(&error) != Some(ERROR_SERVICE_MARKED_FOR_DELETE) => {
                return Err(refused("look at the service", &error));
            }
            _ if Instant::now() >= deadline => {
                let message = format!("the service {name} is to be deleted, but somebody has it open");
                return Err(Failure::failed(message, "close what has it open: services.msc, for instance"));
            }
            _ => std::thread::sleep(LOOK),
        }
    }
}

/// What it is now.
///
/// # Errors
/// If there is none; the manager's refusal.
pub(super) fn status(name: &str) -> Result<Value> {
    let service = open(name, ServiceAccess::QUERY_STATUS)?;
    let status = service.query_status().map_err(|error| refused("look at the service", &error))?;
    let config = service.query_config().map_err(|error| refused("look at the service", &error))?;
    let start = match config.start_type {
        ServiceStartType::AutoStart => "auto",
        ServiceStartType::OnDemand => "manual",
        _ => "other",
    };
    let (win32, specific) = match status.exit_code {
        ServiceExitCode::Win32(code) => (Some(code), None),
        ServiceExitCode::ServiceSpecific(code) => (None, Some(code)),
    };
    Ok(json!({
        "schema_version": 1, "name": name, "state": word(status.current_state), "pid": status.process_id, "start": start,
        "account": config.account_name.map(|account| account.to_string_lossy().into_owned()),
        "command": config.executable_path, "system_exit_code": win32, "exit_code": specific,
    }))
}

fn word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Stopped => "stopped",
        ServiceState::StartPending => "starting",
        ServiceState::StopPending => "stopping",
        ServiceState::Running => "running",
        _ => "paused",
    }
}

fn shown(exit: ServiceExitCode) -> String {
    match exit {
        ServiceExitCode::Win32(code) => std::io::Error::from_raw_os_error(code.cast_signed()).to_string(),
        ServiceExitCode::ServiceSpecific(code) => format!("exit code {code}"),
    }
}

fn wait(service: &Service, is_it: impl Fn(&ServiceStatus) -> bool) -> Result<ServiceStatus> {
    let deadline = Instant::now() + WAIT;
    loop {
        let status = service.query_status().map_err(|error| refused("look at the service", &error))?;
        if is_it(&status) {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            let message = format!("the service is still {}", word(status.current_state));
            return Err(Failure::new(Code::NotProven, "service-slow", message, "`estop service status` shows it"));
        }
        std::thread::sleep(LOOK);
    }
}

fn manager(access: ServiceManagerAccess) -> Result<ServiceManager> {
    // Never with a database's name: windows-service 0.8 then gives the system freed memory.
    ServiceManager::local_computer(None::<&OsStr>, access)
        .map_err(|error| refused("speak to the service control manager", &error))
}

fn open(name: &str, access: ServiceAccess) -> Result<Service> {
    let access = access | ServiceAccess::QUERY_CONFIG;
    let opened = manager(ServiceManagerAccess::CONNECT)?.open_service(name, access);
    let service = opened.map_err(|error| match code(&error) {
        Some(ERROR_SERVICE_DOES_NOT_EXIST) => Failure::new(
            Code::Failed,
            "no-such-service",
            format!("there is no service {name}"),
            "`estop service install` makes it",
        ),
        _ => refused("open the service", &error),
    })?;
    require_own(&service, name)?;
    Ok(service)
}

/// Refuses what is no service of estop's: of others nothing is started, stopped or removed here, whatever name was typed.
fn require_own(service: &Service, name: &str) -> Result<()> {
    let config = service.query_config().map_err(|error| refused("look at the service", &error))?;
    if config.executable_path.to_string_lossy().contains(&format!("service run --name {name}")) {
        return Ok(());
    }
    let message = format!("the service {name} is none of estop's");
    Err(Failure::new(Code::Refused, "other-service", message, "`sc query` lists all services"))
}

fn check_name(name: &str) -> Result<()> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if (1..=80).contains(&name.len()) && name.chars().all(fits) {
        return Ok(());
    }
    Err(Failure::usage(format!("{name:?} is no name for a service"), "use letters, digits, `.`, `_`, `-`, at most 80"))
}

/// The system's code of an error.
pub(super) fn code(error: &windows_service::Error) -> Option<u32> {
    match error {
        windows_service::Error::Winapi(error) => error.raw_os_error().map(i32::cast_unsigned),
        _ => None,
    }
}

/// The manager's refusal to do `what`.
pub(super) fn refused(what: &str, error: &windows_service::Error) -> Failure {
    // The message of windows-service itself says nothing of the cause.
    let cause = match error {
        windows_service::Error::Winapi(error) => error.to_string(),
        error => error.to_string(),
    };
    if code(error) == Some(ERROR_ACCESS_DENIED) {
        let hint = "services are for administrators: use an elevated prompt";
        return Failure::new(Code::Refused, "not-administrator", format!("cannot {what}: {cause}"), hint);
    }
    Failure::failed(format!("cannot {what}: {cause}"), "see `estop service status`")
}
