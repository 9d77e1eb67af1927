//! A Secret, in a stand-in for the API of Kubernetes: what that does with two who change at once cannot be had otherwise
//! without a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bootstrap::secrets::{self, ServiceAccount};
use bootstrap::{Host, Hosts, SecretConfig};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Authority, Certificate};

const TOKEN: &str = "t0ken";
const PATH: &str = "/api/v1/namespaces/chat/secrets/darda";

/// A Secret, and what is done to it behind everybody's back.
#[derive(Default)]
struct Secret {
    data: BTreeMap<String, String>,
    version: u64,
    /// Before the next change somebody else sets this.
    meanwhile: Option<(String, String)>,
    /// Requests that are refused before the first is answered.
    refusals: usize,
    patches: usize,
}

/// The API, the service account of a pod that may use it, and the Secret.
struct Kubernetes {
    addr: SocketAddr,
    folder: TempDir,
    secret: Arc<Mutex<Secret>>,
}

impl Kubernetes {
    fn start() -> Self {
        let authority = Authority::new().unwrap();
        let certificate = authority.certify(&["127.0.0.1"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("namespace", "chat\n"), ("token", TOKEN)] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::copy(authority.file(), folder.path().join("ca.crt")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let secret = Arc::<Mutex<Secret>>::default();
        let (config, shared) = (tls(&certificate), Arc::clone(&secret));
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
                // A client that does not trust it goes away.
                let _ = serve(StreamOwned::new(connection, socket.unwrap()), &shared);
            }
        });
        Self {
            addr,
            folder,
            secret,
        }
    }

    fn secret(&self) -> MutexGuard<'_, Secret> {
        self.secret.lock().unwrap()
    }

    fn value(&self, key: &str) -> String {
        let bytes = BASE64_STANDARD.decode(&self.secret().data[key]).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn fill(&self, wait: Duration) -> anyhow::Result<()> {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let config = SecretConfig {
            secret: "darda".to_owned(),
            wait,
            hosts: Hosts {
                redis: Some(host("r:6379")),
                rabbitmq: Some(host("b:5672")),
                mongodb: vec![host("m:27017")],
                replica_set: "rs0".to_owned(),
            },
        };
        let url = format!("https://{}", self.addr);
        let account = ServiceAccount::new(self.folder.path().to_owned(), url)?;
        secrets::run(&config, &account).await
    }
}

fn tls(certificate: &Certificate) -> Arc<ServerConfig> {
    let chain = CertificateDer::from_pem_file(certificate.chain()).unwrap();
    let key = PrivateKeyDer::from_pem_file(certificate.key()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key);
    Arc::new(config.unwrap())
}

/// One request and its answer.
fn serve(
    mut stream: StreamOwned<ServerConnection, std::net::TcpStream>,
    secret: &Mutex<Secret>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line)? > 2 {
        head.push_str(&line.to_ascii_lowercase());
        line.clear();
    }
    let mut headers = head.lines();
    let length = headers.find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (status, answer) = answer(&head, &body, &mut secret.lock().unwrap());
    let answer = answer.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn answer(head: &str, body: &Value, secret: &mut Secret) -> (u16, Value) {
    let message = |text: &str| json!({ "message": text });
    if !head.contains(&format!("authorization: bearer {TOKEN}")) {
        return (401, message("Unauthorized"));
    }
    if secret.refusals > 0 {
        secret.refusals -= 1;
        return (403, message("not yet"));
    }
    if head.starts_with(&format!("patch {PATH} ")) {
        assert!(head.contains("application/merge-patch+json"), "{head}");
        if let Some((key, value)) = secret.meanwhile.take() {
            secret.data.insert(key, BASE64_STANDARD.encode(value));
            secret.version += 1;
        }
        // Who names no version changes whatever there is.
        let seen = body["metadata"]["resourceVersion"].as_str();
        if seen.is_some_and(|seen| seen != format!("{}", secret.version)) {
            return (409, message("the object has been modified"));
        }
        for (key, value) in body["data"].as_object().unwrap() {
            secret
                .data
                .insert(key.clone(), value.as_str().unwrap().to_owned());
        }
        secret.version += 1;
        secret.patches += 1;
    } else if !head.starts_with(&format!("get {PATH} ")) {
        return (404, message("secrets not found"));
    }
    let version = secret.version.to_string();
    // One without anything has no data at all.
    match secret.data.is_empty() {
        true => (200, json!({ "metadata": { "resourceVersion": version } })),
        false => (
            200,
            json!({ "metadata": { "resourceVersion": version }, "data": secret.data }),
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_secret_is_filled_once() {
    let kubernetes = Kubernetes::start();
    kubernetes.fill(Duration::from_secs(10)).await.unwrap();
    let made = kubernetes.secret().data.clone();
    assert_eq!(made.len(), 10);
    let password = kubernetes.value("redis-password");
    assert_eq!(
        kubernetes.value("redis-url"),
        format!("redis://darda:{password}@r:6379")
    );
    kubernetes.fill(Duration::from_secs(10)).await.unwrap();
    assert_eq!(kubernetes.secret().data, made);
    assert_eq!(kubernetes.secret().patches, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_made_at_the_same_moment_stays() {
    let kubernetes = Kubernetes::start();
    kubernetes.secret().meanwhile = Some(("redis-password".to_owned(), "theirs".to_owned()));
    kubernetes.fill(Duration::from_secs(10)).await.unwrap();
    assert_eq!(kubernetes.value("redis-password"), "theirs");
    assert_eq!(kubernetes.value("redis-url"), "redis://darda:theirs@r:6379");
    assert_eq!(kubernetes.secret().patches, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_make_one_set_of_passwords() {
    let kubernetes = Kubernetes::start();
    let wait = Duration::from_secs(10);
    let (one, other) = tokio::join!(kubernetes.fill(wait), kubernetes.fill(wait));
    one.unwrap();
    other.unwrap();
    assert_eq!(kubernetes.secret().patches, 1);
    let password = kubernetes.value("rabbitmq-password");
    assert!(kubernetes.value("rabbitmq-url").contains(&password));
}

/// Rights and the Secret may be applied after the Job.
#[tokio::test(flavor = "multi_thread")]
async fn rights_are_waited_for_and_a_refusal_is_told() {
    let kubernetes = Kubernetes::start();
    kubernetes.secret().refusals = 3;
    kubernetes.fill(Duration::from_secs(10)).await.unwrap();
    kubernetes.secret().refusals = 1000;
    let refused = kubernetes
        .fill(Duration::from_millis(500))
        .await
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "kubernetes: 403, not yet; waited 0.5 s"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_the_token() {
    let kubernetes = Kubernetes::start();
    let other = Authority::new().unwrap();
    fs::copy(other.file(), kubernetes.folder.path().join("ca.crt")).unwrap();
    let refused = kubernetes
        .fill(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    assert_eq!(kubernetes.secret().version, 0);
}
