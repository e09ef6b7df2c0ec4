//! `estop inspect` for a person.

use std::collections::HashMap;

use anstyle::AnsiColor;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::{Output, output};

pub(super) fn text(answer: &Value, output: &Output) -> String {
    let empty = Vec::new();
    let processes = answer["processes"].as_array().unwrap_or(&empty);
    let (live, past): (Vec<&Value>, Vec<&Value>) = processes.iter().partition(|process| !process["state"].is_null());
    let mut text = head(answer);
    if !live.is_empty() {
        text.push_str(&format!("\n{}", tree(&live)));
    }
    if !past.is_empty() {
        text.push_str(&format!("\n{}", ended(&past)));
    }
    text.push_str(&format!("\n{}", history(&answer["history"], output)));
    text
}

fn head(answer: &Value) -> String {
    let status = &answer["status"];
    let mut fields = vec![
        ("workload", shown(&answer["name"])),
        ("job", shown(&answer["job"])),
        ("tier", format!("{}, {}", shown(&answer["tier"]), shown(&answer["isolation"]))),
    ];
    if status.is_null() {
        fields.push(("state", "not running".to_owned()));
        return output::fields(&fields);
    }
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let size = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), output::bytes);
    fields.push(("state", shown(&status["state"])));
    fields.push(("guardian", format!("pid {}", shown(&status["guardian"]["pid"]))));
    fields.push(("up", output::seconds(number(&status["uptime_seconds"]))));
    fields.push((
        "processor",
        format!(
            "{:.2} cores, {} in all",
            number(&status["cpu_cores"]),
            output::seconds(number(&status["cpu_seconds"]))
        ),
    ));
    fields
        .push(("memory", format!("{}, {} at most", size(&status["memory_bytes"]), size(&status["memory_peak_bytes"]))));
    let limits = status["limits"].as_object().into_iter().flatten().filter(|(_, limit)| !limit.is_null());
    let limits: Vec<String> = limits.map(|(name, limit)| limit_text(name, limit)).collect();
    fields.push(("limits", if limits.is_empty() { "none".to_owned() } else { limits.join(", ") }));
    output::fields(&fields)
}

fn limit_text(name: &str, limit: &Value) -> String {
    if let Some(name) = name.strip_suffix("_bytes") {
        return format!("{name} {}", limit.as_u64().map_or_else(|| shown(limit), output::bytes));
    }
    if let Some(name) = name.strip_suffix("_seconds") {
        return format!("{name} {}", limit.as_f64().map_or_else(|| shown(limit), output::seconds));
    }
    format!("{} {}", name.strip_suffix("_cores").unwrap_or(name), shown(limit))
}

fn tree(live: &[&Value]) -> String {
    let now = Timestamp::now();
    let mut depths: HashMap<u64, usize> = HashMap::new();
    let rows: Vec<Vec<String>> = live
        .iter()
        .map(|process| {
            let depth =
                process["parent"]["pid"].as_u64().and_then(|parent| depths.get(&parent)).map_or(0, |depth| depth + 1);
            depths.insert(process["pid"].as_u64().unwrap_or(0), depth);
            vec![
                shown(&process["pid"]),
                user(process),
                moment(&process["started"]).map_or_else(dash, |started| seconds_between(started, now)),
                process["cpu_seconds"].as_f64().map_or_else(dash, output::seconds),
                process["memory_bytes"].as_u64().map_or_else(dash, output::bytes),
                shown(&process["state"]),
                format!("{}{}", "  ".repeat(depth.min(20)), command(process)),
            ]
        })
        .collect();
    output::table(&["pid", "user", "age", "cpu", "memory", "state", "command"], &rows)
}

fn ended(past: &[&Value]) -> String {
    let rows: Vec<Vec<String>> = past
        .iter()
        .map(|process| {
            let exit = &process["exit"];
            let how = match (exit["code"].as_i64(), exit["signal"].as_i64()) {
                (Some(code), _) => format!("exit {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => "unknown".to_owned(),
            };
            let ended = moment(&process["ended"]);
            let lived = moment(&process["started"]).zip(ended).map(|(started, ended)| seconds_between(started, ended));
            vec![
                shown(&process["pid"]),
                user(process),
                ended.map_or_else(dash, output::moment),
                how,
                lived.unwrap_or_else(dash),
                process["cpu_seconds"].as_f64().map_or_else(dash, output::seconds),
                process["memory_peak_bytes"].as_u64().map_or_else(dash, output::bytes),
                command(process),
            ]
        })
        .collect();
    output::table(&["pid", "user", "ended", "how", "lived", "cpu", "peak", "command"], &rows)
}

fn history(history: &Value, output: &Output) -> String {
    let mut text = match (history["complete"].as_bool(), history["source"].as_str()) {
        (Some(true), _) => format!("history: complete as of {}\n", time(&history["as_of"])),
        (_, Some("sampled")) => {
            let line = "history: INCOMPLETE: the kernel does not tell this estop of processes; what lived between two looks is missing";
            format!("{}\n", output.paint(AnsiColor::Yellow, line))
        }
        (_, Some(_)) => format!("{}\n", output.paint(AnsiColor::Yellow, "history: INCOMPLETE")),
        (_, None) => format!("{}\n", output.paint(AnsiColor::Yellow, "history: none")),
    };
    for gap in history["gaps"].as_array().into_iter().flatten() {
        let to = if gap["to"].is_null() { "now".to_owned() } else { time(&gap["to"]) };
        text.push_str(&format!("  missing from {} to {to}: {}\n", time(&gap["from"]), shown(&gap["reason"])));
    }
    if let Some(omitted @ 1..) = history["omitted"].as_u64() {
        text.push_str(&format!(
            "  and {} that were seen and are not listed\n",
            output::counted(omitted, "process", "processes")
        ));
    }
    text
}

/// What a process is called with; in brackets its name, where only that is known.
fn command(process: &Value) -> String {
    let text = match process["arguments"].as_str() {
        Some(arguments) if !arguments.is_empty() => arguments.to_owned(),
        _ => format!("[{}]", process["command"].as_str().unwrap_or_default()),
    };
    output::printable(&text)
}

fn user(process: &Value) -> String {
    process["user"].as_str().map_or_else(dash, output::printable)
}

fn moment(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

fn time(value: &Value) -> String {
    moment(value).map_or_else(dash, output::moment)
}

fn seconds_between(from: Timestamp, to: Timestamp) -> String {
    output::seconds(to.duration_since(from).as_secs_f64().max(0.0))
}

fn dash() -> String {
    "-".to_owned()
}

fn shown(value: &Value) -> String {
    if value.is_null() { dash() } else { value.as_str().map_or_else(|| value.to_string(), output::printable) }
}
