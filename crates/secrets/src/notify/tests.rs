#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use super::*;
use crate::{VersionInfo, VersionState};

fn secret() -> Secret {
    let info = VersionInfo {
        version: Version(4),
        state: VersionState::Current,
        created: Timestamp::UNIX_EPOCH,
        rotation_id: None,
        valid_until: None,
        revoked: None,
        revision: 9,
    };
    Secret { name: SecretName::new("db/password").unwrap(), info, value: "planted-secret".into() }
}

fn message() -> Message {
    Message {
        schema_version: 1,
        name: secret().name,
        version: Version(4),
        index: 9,
        rotation_id: Uuid::nil(),
        reason: "leaked".to_owned(),
        time: Timestamp::UNIX_EPOCH,
    }
}

fn limits() -> Limits {
    Limits { subscriber: Duration::from_secs(10), webhook_try: Duration::from_secs(3), webhook_tries: 3 }
}

/// Notes what it is asked to do, in order.
#[derive(Default)]
struct Noting {
    done: Mutex<Vec<String>>,
    refuses: bool,
}

#[async_trait]
impl Delivery for Noting {
    async fn run_id(&self, workload: &str) -> Result<String, String> {
        if self.refuses { Err(format!("{workload} is in an open incident")) } else { Ok("run-7".to_owned()) }
    }

    async fn signal(&self, workload: &str, signal: &str) -> Result<(), String> {
        self.done.lock().unwrap().push(format!("signal {signal} {workload}"));
        Ok(())
    }

    async fn replace_file(&self, workload: &str, file: &str, value: &SecretValue) -> Result<(), String> {
        assert_eq!(value.expose(), b"planted-secret");
        // Longer than a signal takes: the order must not come about by chance.
        tokio::task::yield_now().await;
        self.done.lock().unwrap().push(format!("file {file} {workload}"));
        Ok(())
    }
}

fn file() -> Subscriber {
    Subscriber::File { workload: "agent".into(), file: "db".into() }
}

fn signal() -> Subscriber {
    Subscriber::Signal { signal: "HUP".into(), workload: "agent".into() }
}

fn exec(script: &str) -> Subscriber {
    Subscriber::Exec { command: vec!["sh".into(), "-c".into(), script.into()] }
}

#[test]
fn the_display_name_is_that_of_the_contract_and_shows_no_credential() {
    let webhook = |url: &str| Subscriber::Webhook { url: url.into(), key: SigningKey::Key("planted".into()) };
    assert_eq!(signal().to_string(), "signal HUP agent");
    assert_eq!(exec("planted").to_string(), "exec sh");
    assert_eq!(webhook("https://u:planted@host:1/hook?planted#planted").to_string(), "webhook https://host:1/hook");
    assert_eq!(webhook("https://host/a@b").to_string(), "webhook https://host/a@b");
    assert!(!format!("{:?}", webhook("https://host")).contains("planted"));
}

#[test]
fn a_message_is_the_json_of_the_contract_without_the_value() {
    let json = serde_json::to_value(message()).unwrap();
    let expected = serde_json::json!({
        "schema_version": 1, "name": "db/password", "version": 4, "index": 9, "reason": "leaked",
        "rotation_id": "00000000-0000-0000-0000-000000000000", "time": "1970-01-01T00:00:00Z",
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn files_are_replaced_and_recorded_before_anyone_is_signalled() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(ExposureLedger::new(dir.path()));
    let delivery = Arc::new(Noting::default());
    let notifier = Notifier::new(delivery.clone(), Some(ledger.clone()), limits());
    let told = notifier.tell(&[signal(), file()], &message(), &secret()).await;
    assert!(told.iter().all(|notified| notified.acknowledged), "{told:?}");
    assert_eq!(told[0].subscriber, "signal HUP agent");
    assert_eq!(*delivery.done.lock().unwrap(), ["file db agent", "signal HUP agent"]);
    let exposure = &ledger.exposure(&secret().name).unwrap()[0];
    assert_eq!((exposure.workload.as_str(), exposure.run_id.as_str()), ("agent", "run-7"));
    assert_eq!((exposure.version, exposure.channel), (Version(4), Channel::File));
}

#[tokio::test]
async fn nothing_leaves_that_cannot_be_recorded_or_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let not_a_directory = dir.path().join("file");
    std::fs::write(&not_a_directory, "").unwrap();
    let ledgers = [
        (None, false),
        (Some(Arc::new(ExposureLedger::new(not_a_directory))), false),
        (Some(Arc::new(ExposureLedger::new(dir.path().join("ledger")))), true),
    ];
    for (ledger, refuses) in ledgers {
        let delivery = Arc::new(Noting { refuses, ..Noting::default() });
        let notifier = Notifier::new(delivery.clone(), ledger, limits());
        let told = notifier.tell(&[file()], &message(), &secret()).await;
        assert!(!told[0].acknowledged && told[0].error.is_some(), "{told:?}");
        assert!(delivery.done.lock().unwrap().is_empty());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_gets_the_message_and_its_exit_code_is_the_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    let notifier = Notifier::new(Arc::new(NoWorkloads), None, limits());
    let commands = [
        exec(&format!("cat > {}", copy.display())),
        exec("exit 3"),
        exec("echo planted-secret >&2; exec 0<&-; exit 0"),
        Subscriber::Exec { command: vec!["/nowhere/program".into()] },
        Subscriber::Exec { command: Vec::new() },
    ];
    let told = notifier.tell(&commands, &message(), &secret()).await;
    let acknowledged: Vec<bool> = told.iter().map(|notified| notified.acknowledged).collect();
    assert_eq!(acknowledged, [true, false, true, false, false]);
    assert_eq!(std::fs::read(copy).unwrap(), serde_json::to_vec(&message()).unwrap());
    assert!(!format!("{told:?}").contains("planted"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_that_hangs_is_given_up_in_time() {
    let limits = Limits { subscriber: Duration::from_millis(100), ..limits() };
    let notifier = Notifier::new(Arc::new(NoWorkloads), None, limits);
    let told = notifier.tell(&[exec("sleep 600")], &message(), &secret()).await;
    assert!(!told[0].acknowledged && told[0].error.as_ref().unwrap().contains("no acknowledgement"), "{told:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_that_is_given_up_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sleep 600 & echo $! $$ > {0}.new; mv {0}.new {0}; wait", pids.display());
    let deadline = Instant::now() + Duration::from_mins(1);
    let started = async {
        while !pids.exists() {
            assert!(Instant::now() < deadline, "the command does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let command = ["sh".to_owned(), "-c".to_owned(), script];
    // Whichever ends first, the other is dropped: as a time limit does with a command.
    tokio::select! {
        ended = super::exec::run(&command, b"") => panic!("it ended: {ended:?}"),
        () = started => {}
    }
    for pid in std::fs::read_to_string(pids).unwrap().split_whitespace() {
        let stat = format!("/proc/{pid}/stat");
        let gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !gone() {
            assert!(Instant::now() < deadline, "process {pid} lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[cfg(feature = "webhook")]
mod webhooks {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    struct Request {
        headers: BTreeMap<String, String>,
        body: Vec<u8>,
    }

    /// Answers one request after the other with `answers`, and gives the address and what came.
    async fn receiver(answers: &'static [&'static str]) -> (String, Arc<Mutex<Vec<Request>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://user:planted@{}/hook?token=planted", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let came = Arc::clone(&requests);
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let request = read(&mut stream).await;
                came.lock().unwrap().push(request);
                let text = format!("HTTP/1.1 {answer}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        (address, requests)
    }

    async fn read(stream: &mut tokio::net::TcpStream) -> Request {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let length = stream.read(&mut buffer).await.unwrap();
            bytes.extend_from_slice(&buffer[..length]);
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let header = |line: &str| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned()));
            let headers: BTreeMap<String, String> = head.lines().filter_map(header).collect();
            let expected: usize = headers["content-length"].parse().unwrap();
            if bytes.len() >= end + 4 + expected {
                return Request { headers, body: bytes[end + 4..].to_vec() };
            }
        }
    }

    async fn told(url: String) -> Notified {
        let notifier = Notifier::new(Arc::new(NoWorkloads), None, limits());
        let subscriber = Subscriber::Webhook { url, key: SigningKey::Key("key".into()) };
        notifier.tell(&[subscriber], &message(), &secret()).await.remove(0)
    }

    #[tokio::test]
    async fn is_signed_and_tried_again_under_the_same_id() {
        let (url, requests) = receiver(&["503 Away", "429 Slow down", "204 Done"]).await;
        let told = told(url).await;
        assert!(told.acknowledged, "{told:?}");
        let requests = requests.lock().unwrap();
        assert_eq!(requests.len(), 3);
        for request in requests.iter() {
            assert_eq!(request.body, serde_json::to_vec(&message()).unwrap());
            assert_eq!(request.headers["webhook-id"], "00000000-0000-0000-0000-000000000000.4");
            let timestamp: i64 = request.headers["webhook-timestamp"].parse().unwrap();
            assert!((Timestamp::now().as_second() - timestamp).abs() < 60);
            let signed = webhook::signature(&"key".into(), &request.headers["webhook-id"], timestamp, &request.body);
            assert_eq!(request.headers["webhook-signature"], signed);
        }
    }

    /// The example of the specification (standardwebhooks.com, "Verifying webhooks").
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let key = data_encoding::BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = webhook::signature(&key.into(), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[tokio::test]
    async fn a_refusal_or_redirect_is_final_and_shows_no_credential() {
        for answer in [&["403 Forbidden"], &["307 Elsewhere"]] {
            let (url, requests) = receiver(answer).await;
            let told = told(url).await;
            assert!(!told.acknowledged);
            assert_eq!(requests.lock().unwrap().len(), 1);
            assert!(!format!("{told:?}").contains("planted"), "{told:?}");
        }
    }

    #[tokio::test]
    async fn an_address_without_protection_is_refused() {
        for url in ["http://10.0.0.1/hook", "ftp://127.0.0.1", "nonsense"] {
            assert!(!told(url.to_owned()).await.acknowledged, "{url}");
        }
        let refused = told("http://user:planted@127.0.0.1:1/?planted".to_owned()).await;
        assert!(!refused.acknowledged && !format!("{refused:?}").contains("planted"), "{refused:?}");
    }
}
