//! A real OpenBao server: one node, raft, TLS, a static seal, so that it is up without a manual step and survives a kill.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use estop_secrets::vault::{Login, Options};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_mins(1);

pub(crate) struct Bao {
    dir: TempDir,
    binary: PathBuf,
    port: u16,
    admin: reqwest::Client,
    token: String,
    server: Mutex<Option<Server>>,
}

/// The running server. It is a child of a thread that lives as long, since a child told to die with its parent dies with
/// the *thread* that started it.
struct Server {
    child: Child,
    _keep: mpsc::Sender<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server binary; `None`, said loudly, where there is none and none is required.
pub(crate) fn binary() -> Option<PathBuf> {
    let installed = concat!(env!("CARGO_TARGET_TMPDIR"), "/../openbao");
    let named = std::env::var_os("ESTOP_TEST_BAO").map(PathBuf::from).filter(|path| path.is_file());
    let found = named.or_else(|| find(Path::new(installed), 6));
    if found.is_none() {
        assert!(
            std::env::var_os("ESTOP_TEST_REQUIRE_ALL").is_none_or(|value| value != "1"),
            "no bao binary: run scripts/install-openbao, or name one in ESTOP_TEST_BAO"
        );
        eprintln!("SKIPPED: no bao binary; run scripts/install-openbao, or name one in ESTOP_TEST_BAO");
    }
    found
}

fn find(dir: &Path, depth: usize) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let is_server = |path: &&PathBuf| {
        path.ends_with("bao") && std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() > 1 << 20)
    };
    let here = entries.iter().find(is_server).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir() && depth > 0).find_map(|path| find(path, depth - 1)))
}

/// One server for the tests that run at the same time. The last of them ends it.
pub(crate) fn shared() -> Option<Arc<Bao>> {
    static SHARED: Mutex<Weak<Bao>> = Mutex::new(Weak::new());
    let binary = binary()?;
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(bao) = shared.upgrade() {
        return Some(bao);
    }
    let bao = Arc::new(Bao::start(binary));
    *shared = Arc::downgrade(&bao);
    Some(bao)
}

impl Bao {
    /// Starts a server and sets it up: `secret/` as KV version 2, AppRole, an administrator.
    pub(crate) fn start(binary: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_certificates(dir.path());
        std::fs::write(dir.path().join("seal.key"), uuid_bytes()).unwrap();
        std::fs::create_dir(dir.path().join("raft")).unwrap();
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = std::fs::read(dir.path().join("ca.pem")).unwrap();
        let admin = reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&ca).unwrap())
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        let mut bao = Self { dir, binary, port: 0, admin, token: String::new(), server: Mutex::new(None) };
        // Another program may take a port between our choice and the server's binding it.
        for _ in 0..3 {
            let (api, cluster) = free_ports();
            bao.port = api;
            write_config(bao.dir.path(), api, cluster);
            if bao.spawn() {
                break;
            }
        }
        assert!(bao.server.lock().unwrap().is_some(), "bao does not start:\n{}", bao.log());
        bao.set_up();
        bao
    }

    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Options for this server with the CA pinned.
    pub(crate) fn options(&self, login: Login) -> Options {
        Options { ca_file: Some(self.path("ca.pem")), ..Options::new(self.address(), login) }
    }

    /// A token of the administrator's.
    pub(crate) fn token(&self) -> Login {
        Login::Token(self.token.as_str().into())
    }

    /// Kills the server without notice.
    pub(crate) fn kill(&self) {
        self.server.lock().unwrap().take();
    }

    /// Starts it again on the same data and port.
    pub(crate) fn restart(&self) {
        assert!(self.spawn(), "bao does not start again:\n{}", self.log());
    }

    /// A request of the administrator's. Gives status and body.
    pub(crate) fn admin(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}/v1/{path}", self.address());
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.admin.request(method, url).header("x-vault-token", &self.token);
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        block_on(async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null))
        })
    }

    /// As [`Bao::admin`], for what must succeed.
    pub(crate) fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.admin(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// A new AppRole login with `policy`, of which the tokens live for `ttl`.
    pub(crate) fn app_role(&self, role: &str, policy: &str, ttl: &str) -> Login {
        self.must("POST", &format!("sys/policies/acl/{role}"), &json!({ "policy": policy }));
        let settings = json!({ "token_policies": [role], "token_ttl": ttl, "token_max_ttl": "1h" });
        self.must("POST", &format!("auth/approle/role/{role}"), &settings);
        let role_id = self.must("GET", &format!("auth/approle/role/{role}/role-id"), &Value::Null);
        let secret_id = self.must("POST", &format!("auth/approle/role/{role}/secret-id"), &json!({}));
        Login::AppRole {
            mount: "approle".to_owned(),
            role_id: string(&role_id["data"]["role_id"]),
            secret_id: string(&secret_id["data"]["secret_id"]).into(),
        }
    }

    fn set_up(&mut self) {
        let login = self.must("POST", "auth/userpass/login/admin", &json!({ "password": "admin-pw-1" }));
        self.token = string(&login["auth"]["client_token"]);
        self.must("POST", "sys/mounts/secret", &json!({ "type": "kv", "options": { "version": "2" } }));
        self.must("POST", "sys/auth/approle", &json!({ "type": "approle" }));
    }

    /// Starts the server and waits until it is active. `false` if it ended instead.
    fn spawn(&self) -> bool {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.binary);
        if Command::new("setpriv").arg("--version").output().is_err() {
            command = Command::new(&self.binary);
        }
        command.arg("server").arg(format!("-config={}", self.path("config.hcl").display()));
        command.env_clear().env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let (started, child) = mpsc::channel();
        let (keep, until) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let _ = started.send(command.spawn());
            let _ = until.recv();
        });
        let mut server = Server { child: child.recv().unwrap().unwrap(), _keep: keep };
        let deadline = Instant::now() + START_LIMIT;
        let health = format!("{}/v1/sys/health", self.address());
        loop {
            if server.child.try_wait().unwrap().is_some() {
                return false;
            }
            let request = self.admin.get(&health);
            let active = block_on(async move { request.send().await.is_ok_and(|answer| answer.status() == 200) });
            if active {
                *self.server.lock().unwrap() = Some(server);
                return true;
            }
            assert!(Instant::now() < deadline, "bao is not active after {START_LIMIT:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

/// Runs a future to its end on a thread of its own, so that it works inside and outside of a runtime.
fn block_on<T: Send>(future: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
        scope.spawn(run).join().unwrap()
    })
}

fn string(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn uuid_bytes() -> Vec<u8> {
    [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()
}

fn free_ports() -> (u16, u16) {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, two) = (bind(), bind());
    (one.local_addr().unwrap().port(), two.local_addr().unwrap().port())
}

/// A certificate authority in `ca.pem`, a server's certificate for 127.0.0.1, and another authority in `other-ca.pem`.
fn write_certificates(dir: &Path) {
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), params, key)
    };
    let (pem, params, key) = authority();
    std::fs::write(dir.join("ca.pem"), pem).unwrap();
    std::fs::write(dir.join("other-ca.pem"), authority().0).unwrap();
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&server_key, &issuer).unwrap();
    std::fs::write(dir.join("server.pem"), server.pem()).unwrap();
    std::fs::write(dir.join("server.key"), server_key.serialize_pem()).unwrap();
}

fn write_config(dir: &Path, api: u16, cluster: u16) {
    let d = dir.display();
    let config = format!(
        r#"
storage "raft" {{
  path = "{d}/raft"
  node_id = "solo"
  performance_multiplier = 1
}}
seal "static" {{
  current_key_id = "k1"
  current_key = "file://{d}/seal.key"
}}
listener "tcp" {{
  address = "127.0.0.1:{api}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{d}/server.pem"
  tls_key_file = "{d}/server.key"
}}
api_addr = "https://127.0.0.1:{api}"
cluster_addr = "https://127.0.0.1:{cluster}"
initialize "auth" {{
  request "up" {{
    operation = "update"
    path = "sys/auth/userpass"
    data = {{ type = "userpass" }}
  }}
}}
initialize "admin" {{
  request "policy" {{
    operation = "update"
    path = "sys/policies/acl/admin"
    data = {{ policy = "path \"*\" {{ capabilities = [\"create\",\"read\",\"update\",\"delete\",\"list\",\"patch\",\"sudo\"] }}" }}
  }}
  request "user" {{
    operation = "update"
    path = "auth/userpass/users/admin"
    data = {{
      password = "admin-pw-1"
      token_policies = ["admin"]
    }}
  }}
}}
"#
    );
    std::fs::write(dir.join("config.hcl"), config).unwrap();
}
