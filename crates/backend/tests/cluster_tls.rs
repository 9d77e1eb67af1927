//! Redis, RabbitMQ and MongoDB over TLS: whom they are taken for, and what is said when that is refused.
#![cfg(feature = "cluster")]

mod storing;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backend::cluster::{Mongo, Redis, Settings, migrations, topology};
use backend::{Backends, Error, Result};
use mongodb::bson::doc;
use testbed::{Authority, MongoOptions, RabbitMq, RabbitMqOptions, RedisOptions};
use tokio::sync::OnceCell;

const USER: &str = "darda";
const PASSWORD: &str = "correct-horse";

/// Servers with certificates for 127.0.0.1 and for no other name.
struct Servers {
    authority: Authority,
    other_authority: Authority,
    redis: testbed::Redis,
    rabbitmq: RabbitMq,
    mongo: testbed::Mongo,
}

/// The servers of all tests here, or `None` where they are not installed.
async fn servers() -> Option<&'static Servers> {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    if let Some(what) = testbed::missing() {
        testbed::skipped(&what);
        return None;
    }
    Some(SERVERS.get_or_init(start).await)
}

async fn start() -> Servers {
    let authority = Authority::new().unwrap();
    let certificate = authority.certify(&["127.0.0.1"]).unwrap();
    let user = format!("user {USER} on >{PASSWORD} ~* &* +@all");
    let redis = RedisOptions {
        certificate: Some(certificate.clone()),
        extra: vec![format!("--{user}")],
        ..RedisOptions::default()
    };
    let rabbitmq = RabbitMqOptions {
        certificate: Some(certificate.clone()),
        ..RabbitMqOptions::default()
    };
    let mongo = MongoOptions {
        certificate: Some(certificate),
        user: Some((USER.to_owned(), PASSWORD.to_owned())),
        ..MongoOptions::default()
    };
    let (redis, rabbitmq, mongo) = tokio::try_join!(
        testbed::Redis::start(redis),
        RabbitMq::start_with(rabbitmq),
        testbed::Mongo::start_with(mongo),
    )
    .unwrap();
    let servers = Servers {
        authority,
        other_authority: Authority::new().unwrap(),
        redis,
        rabbitmq,
        mongo,
    };
    let mongo = Mongo::new(&servers.settings(&[])).await.unwrap();
    // From here on it does not speak without TLS.
    works("mongodb", async || {
        let admin = mongo.client().database("admin");
        let require = admin.run_command(doc! { "setParameter": 1, "tlsMode": "requireTLS" });
        mongo.run(require).await.map(drop)
    })
    .await;
    servers
}

impl Servers {
    /// Settings that are right but for these variables. An empty one is not set.
    fn settings(&self, others: &[(&str, &str)]) -> Settings {
        let authority = self.authority.file().display().to_string();
        let namespace = testbed::namespace();
        let all = [
            ("DARDA_REDIS_URL", self.redis_url("127.0.0.1", PASSWORD)),
            (
                "DARDA_RABBITMQ_URL",
                self.rabbitmq_url("127.0.0.1", "guest"),
            ),
            ("DARDA_MONGODB_URI", self.mongodb_uri("127.0.0.1", PASSWORD)),
            ("DARDA_REDIS_CA_FILE", authority.clone()),
            ("DARDA_RABBITMQ_CA_FILE", authority.clone()),
            ("DARDA_MONGODB_CA_FILE", authority),
            ("DARDA_NAMESPACE", namespace),
            ("DARDA_SHARDS", "2".to_owned()),
        ];
        let mut all: Vec<(String, String)> = all
            .into_iter()
            .filter(|(name, _)| others.iter().all(|(other, _)| other != name))
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        all.extend(
            others
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into())),
        );
        let all = all
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()));
        Settings::from_variables(all).unwrap()
    }

    fn redis_url(&self, host: &str, password: &str) -> String {
        let port = self.redis.tls_addr().unwrap().port();
        format!("rediss://{USER}:{password}@{host}:{port}")
    }

    fn rabbitmq_url(&self, host: &str, password: &str) -> String {
        let port = self.rabbitmq.tls_addr().unwrap().port();
        format!("amqps://guest:{password}@{host}:{port}/%2f")
    }

    fn mongodb_uri(&self, host: &str, password: &str) -> String {
        let port = self.mongo.members()[0].addr().port();
        format!(
            "mongodb://{USER}:{password}@{host}:{port}/?replicaSet=rs0&tls=true&authSource=admin"
        )
    }

    /// For each server the variables of its address and its authority, and what makes an address of it.
    fn each(&self) -> [(&'static str, &'static str, &'static str); 3] {
        [
            ("redis", "DARDA_REDIS_URL", "DARDA_REDIS_CA_FILE"),
            ("rabbitmq", "DARDA_RABBITMQ_URL", "DARDA_RABBITMQ_CA_FILE"),
            ("mongodb", "DARDA_MONGODB_URI", "DARDA_MONGODB_CA_FILE"),
        ]
    }

    fn url(&self, server: &str, host: &str, password: &str) -> String {
        match server {
            "redis" => self.redis_url(host, password),
            "rabbitmq" => self.rabbitmq_url(host, password),
            _ => self.mongodb_uri(host, password),
        }
    }

    fn password(&self, server: &str) -> &'static str {
        if server == "rabbitmq" {
            "guest"
        } else {
            PASSWORD
        }
    }
}

/// Asks a server something that only users may ask.
async fn ask(server: &str, settings: &Settings) -> Result<()> {
    match server {
        "redis" => Redis::new(settings)?.session().await.map(drop),
        "rabbitmq" => {
            let connection = topology::connect(&settings.rabbitmq, "test").await?;
            let channel = connection.create_channel().await;
            channel.map(drop).map_err(|error| topology::trouble(&error))
        }
        _ => {
            let mongo = Mongo::new(settings).await?;
            let names = mongo.database().list_collection_names();
            mongo.run(names).await.map(drop)
        }
    }
}

/// Asks until there is an answer: the machine may be busy.
async fn works(what: &str, mut ask: impl AsyncFnMut() -> Result<()>) {
    let mut last = None;
    for _ in 0..40 {
        match ask().await {
            Ok(()) => return,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: {last:?}");
}

/// Asks until it is refused for this reason, and never gets an answer.
async fn refused(server: &str, settings: &Settings, reason: &[&str]) {
    let mut last = String::new();
    for _ in 0..40 {
        match ask(server, settings).await {
            Err(Error::Unavailable { message, .. }) => last = message,
            other => panic!("{server}: {other:?}"),
        }
        if last.starts_with(server) && reason.iter().all(|part| last.contains(part)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{server}: not {reason:?} but {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_right_authority_is_believed() {
    let Some(servers) = servers().await else {
        return;
    };
    let settings = servers.settings(&[]);
    for (server, ..) in servers.each() {
        works(server, async || ask(server, &settings).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_refused() {
    let Some(servers) = servers().await else {
        return;
    };
    let other = servers.other_authority.file().display().to_string();
    for (server, _, ca_file) in servers.each() {
        // The public authorities have not signed it either.
        for file in [other.as_str(), ""] {
            let settings = servers.settings(&[(ca_file, file)]);
            refused(server, &settings, &["not trusted", ca_file]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_refused() {
    let Some(servers) = servers().await else {
        return;
    };
    for (server, url, _) in servers.each() {
        let password = servers.password(server);
        let settings = servers.settings(&[(url, &servers.url(server, "localhost", password))]);
        refused(server, &settings, &["for another name", url]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_verify_off_any_certificate_will_do() {
    let Some(servers) = servers().await else {
        return;
    };
    for (server, url, ca_file) in servers.each() {
        let verify = ca_file.replace("_CA_FILE", "_TLS_VERIFY");
        let url_of = |host| servers.url(server, host, servers.password(server));
        for host in ["127.0.0.1", "localhost"] {
            let variables = [(ca_file, ""), (&verify, "off"), (url, &url_of(host))];
            let mut settings = None;
            let said = logged(|| settings = Some(servers.settings(&variables)));
            let settings = settings.unwrap();
            works(server, async || ask(server, &settings).await).await;
            let warning = format!("{verify}=off: certificates are not verified");
            assert!(said.contains("WARN") && said.contains(&warning), "{said}");
        }
    }
    assert_eq!(logged(|| drop(servers.settings(&[]))), "");
}

/// What is logged meanwhile.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, act);
    let lines = lines.0.lock().unwrap();
    String::from_utf8_lossy(&lines).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_said_to_be_one() {
    let Some(servers) = servers().await else {
        return;
    };
    for (server, url, _) in servers.each() {
        let settings = servers.settings(&[(url, &servers.url(server, "127.0.0.1", "wrong-horse"))]);
        refused(
            server,
            &settings,
            &["refuses the user or the password", url],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_is_said_to_be_one() {
    let Some(servers) = servers().await else {
        return;
    };
    let url = format!("amqps://guest:guest@{}/%2f", servers.rabbitmq.addr());
    let settings = servers.settings(&[("DARDA_RABBITMQ_URL", &url)]);
    refused(
        "rabbitmq",
        &settings,
        &["does not speak TLS", "DARDA_RABBITMQ_URL"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_with_their_passwords_may_stand_in_files() {
    let Some(servers) = servers().await else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut variables = Vec::new();
    for (server, url, _) in servers.each() {
        let file = folder.path().join(server);
        let text = servers.url(server, "127.0.0.1", servers.password(server));
        std::fs::write(&file, format!("{text}\n")).unwrap();
        variables.push((url, String::new()));
        variables.push((url, file.display().to_string()));
    }
    let by_file = variables.chunks(2).map(|pair| {
        let (url, file) = (pair[0].0, pair[1].1.clone());
        (format!("{url}_FILE"), file)
    });
    let by_file: Vec<(String, String)> = by_file.collect();
    let mut others: Vec<(&str, &str)> = servers.each().map(|(_, url, _)| (url, "")).to_vec();
    others.extend(
        by_file
            .iter()
            .map(|(name, file)| (name.as_str(), file.as_str())),
    );
    let settings = servers.settings(&others);
    for (server, ..) in servers.each() {
        works(server, async || ask(server, &settings).await).await;
    }
}

/// The whole family over TLS.
async fn run(promise: impl AsyncFnOnce(&Backends)) {
    let Some(servers) = servers().await else {
        return;
    };
    let settings = servers.settings(&[]);
    let mongo = Mongo::new(&settings).await.expect("a database");
    migrations::migrate(&mongo).await.expect("migrations");
    let worker = tokio::spawn(storing::store(settings.clone()));
    let family = backend::cluster::open(settings).await.expect("a family");
    promise(&family).await;
    family.health.close().await;
    worker.abort();
}

backend::conformance_suite! { @tests run
    log: relay_follows_the_chain;
    directory: members_come_and_go;
}
