//! Secrets: references, subscribers, tests, the Vault's address.

use super::names::secret_name_fault;
use super::workloads::command;
use super::{KnownSecrets, Surroundings, interval};
use crate::config::problem::suggest;
use crate::config::vault::is_loopback;
use crate::config::{Auth, Config, KeyPath, Problem, Subscriber, Vault, folder};
use crate::platform::words::signal_number;

pub(super) fn check(config: &Config, surroundings: &Surroundings<'_>, problems: &mut Vec<Problem>) {
    let known = Known { config, store: surroundings.known_secrets };
    for (name, workload) in &config.workloads {
        let key = KeyPath::section("workload").key(name);
        for (list, given) in [("secrets", &workload.secrets), ("secret_files", &workload.secret_files)] {
            for (target, secret) in given {
                known.reference(secret, key.clone().key(list).key(target), problems);
            }
        }
    }
    for (name, secret) in &config.secrets {
        let key = KeyPath::section("secret").key(name);
        let directory = folder(config.origin());
        let search = std::env::var_os("PATH");
        if let Err(error) = secret.generate.policy().draw() {
            let hint = "write { length = 32 }, or { bytes = 32 } for a key";
            problems.push(Problem::at(key.clone().key("generate"), error.to_string(), hint));
        }
        if let Some(test) = &secret.test {
            command(test, key.clone().key("test"), &directory, search.as_deref(), problems);
        }
        interval(secret.rotate_every, "rotate_every", &key, problems);
        for (index, subscriber) in secret.notify.iter().enumerate() {
            let place = key.clone().key("notify").index(index);
            match subscriber {
                Subscriber::Signal { signal, workload } => {
                    if signal_number(signal).is_none() {
                        let message = format!("this system has no signal {signal}");
                        problems.push(Problem::at(place.clone().key("signal"), message, "tell it by { exec = [...] }"));
                    }
                    workload_reference(config, workload, place.key("workload"), problems);
                }
                Subscriber::Exec(exec) => command(exec, place.key("exec"), &directory, search.as_deref(), problems),
                Subscriber::Webhook { key: Some(secret), .. } => known.reference(secret, place.key("key"), problems),
                Subscriber::Webhook { key: None, .. } => {}
            }
        }
    }
    if let Some(vault) = &config.vault {
        vault_address(vault, problems);
        vault_files(vault, problems);
    }
}

struct Known<'a> {
    config: &'a Config,
    store: Option<&'a dyn KnownSecrets>,
}

impl Known<'_> {
    fn reference(&self, name: &str, place: KeyPath, problems: &mut Vec<Problem>) {
        if let Some(problem) = secret_name_fault(place.clone(), name) {
            problems.push(problem);
            return;
        }
        if self.config.secrets.contains_key(name) || self.store.is_some_and(|store| store.is_known(name)) {
            return;
        }
        let defined: Vec<&str> = self.config.secrets.keys().map(String::as_str).collect();
        let near = suggest(name, &defined, "secrets");
        let hint = if near.starts_with("did you mean") {
            near
        } else {
            format!("put one in with `estop secret put {name}`, or add a section [secret.\"{name}\"]")
        };
        problems.push(Problem::at(place, format!("there is no secret \"{name}\""), hint));
    }
}

pub(super) fn workload_reference(config: &Config, name: &str, place: KeyPath, problems: &mut Vec<Problem>) {
    if !config.workloads.contains_key(name) {
        let known: Vec<&str> = config.workloads.keys().map(String::as_str).collect();
        let message = format!("there is no workload \"{}\"", name.escape_debug());
        problems.push(Problem::at(place, message, suggest(name, &known, "workloads")));
    }
}

fn vault_address(vault: &Vault, problems: &mut Vec<Problem>) {
    let key = || KeyPath::section("vault").key("address");
    let address = vault.address.as_str();
    let refused = match (address.strip_prefix("https://"), address.strip_prefix("http://")) {
        (Some(rest), _) => authority_fault(rest),
        (None, Some(rest)) => authority_fault(rest).or_else(|| match (is_loopback(rest), vault.allow_http_loopback) {
            (true, true) => None,
            (true, false) => Some((
                "http:// sends the secrets in the clear",
                "use https://, or set allow_http_loopback = true for a test",
            )),
            (false, _) => Some(("http:// sends the secrets in the clear", "use https://")),
        }),
        (None, None) => Some(("the address has no scheme", "write https://HOST:8200")),
    };
    if let Some((message, hint)) = refused {
        problems.push(Problem::at(key(), message, hint));
    }
    for (name, value) in [("mount", &vault.mount), ("prefix", &vault.prefix)] {
        if let Some(mut fault) = secret_name_fault(KeyPath::section("vault").key(name), value) {
            fault.message = format!("\"{}\" is no path in a Vault", value.escape_debug());
            problems.push(fault);
        }
    }
}

fn authority_fault(rest: &str) -> Option<(&'static str, &'static str)> {
    let authority = rest.trim_end_matches('/');
    let plain = |character: char| character.is_ascii_alphanumeric() || ".-_:[]".contains(character);
    if authority.is_empty() || !authority.chars().all(plain) {
        return Some((
            "the address is not just a host and a port",
            "write https://HOST:8200; mount and prefix are keys of their own",
        ));
    }
    None
}

fn vault_files(vault: &Vault, problems: &mut Vec<Problem>) {
    let key = KeyPath::section("vault");
    let auth = key.clone().key("auth");
    let mut files = vec![match &vault.auth {
        Auth::Token { token_file } => (auth.key("token_file"), token_file),
        Auth::AppRole { secret_id_file, .. } => (auth.key("secret_id_file"), secret_id_file),
    }];
    files.extend(vault.ca_file.as_ref().map(|file| (key.key("ca_file"), file)));
    for (place, file) in files {
        if !file.is_file() {
            problems.push(Problem::at(
                place,
                format!("there is no file {}", file.display()),
                "create it, or correct the path",
            ));
        }
    }
}
