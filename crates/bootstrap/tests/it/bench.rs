//! Servers that nobody made anything in, and the program.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use serde_json::Value;
use testbed::{Mongo, MongoOptions, RabbitMq, RabbitMqOptions, Redis, RedisOptions};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
pub const KEY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

/// An installation of its own: a namespace, and variables that lead to the servers.
#[derive(Clone)]
pub struct Bench {
    pub namespace: String,
    pub variables: Vec<(String, String)>,
    pub management: SocketAddr,
    pub amqp: SocketAddr,
}

/// What the program said in the end.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub text: String,
}

/// Runs a test where all three servers are installed; those that tests share are of no use, since users are made in them.
pub async fn with_bench(test: impl AsyncFnOnce(Bench)) {
    let missing = [Redis::missing(), RabbitMq::missing(), Mongo::missing()];
    let missing: Vec<_> = missing.into_iter().flatten().collect();
    if !skipped(&missing.join(", ")) {
        test(Bench::new().await).await;
    }
}

/// Whether a test has to be left out; then it says why. In CI that is a failure.
pub fn skipped(missing: &str) -> bool {
    if missing.is_empty() {
        return false;
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "needs {missing}"
    );
    testbed::skipped(missing);
    true
}

/// For all tests of a run: a broker with its management API.
async fn rabbitmq() -> &'static RabbitMq {
    static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
    let start = async || {
        let options = RabbitMqOptions {
            management: true,
            ..RabbitMqOptions::default()
        };
        RabbitMq::start_with(options).await.expect("a broker")
    };
    SHARED.get_or_init(start).await
}

async fn redis() -> &'static Redis {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    let start = async || {
        Redis::start(RedisOptions::default())
            .await
            .expect("a Redis")
    };
    SHARED.get_or_init(start).await
}

/// A replica set that is somebody else's.
async fn mongo() -> &'static Mongo {
    static SHARED: OnceCell<Mongo> = OnceCell::const_new();
    let start = async || Mongo::start(1).await.expect("a replica set");
    SHARED.get_or_init(start).await
}

impl Bench {
    async fn new() -> Self {
        Self::over(rabbitmq().await).await
    }

    pub async fn over(rabbitmq: &RabbitMq) -> Self {
        let namespace = testbed::namespace();
        let management = rabbitmq.management_addr().expect("a management API");
        let amqp = rabbitmq.addr();
        let redis = redis().await.url();
        Self {
            variables: Vec::new(),
            management,
            amqp,
            namespace: namespace.clone(),
        }
        .with("DARDA_NAMESPACE", &namespace)
        .with("DARDA_SHARDS", "2")
        .with("DARDA_REDIS_URL", &redis)
        .with(
            "DARDA_RABBITMQ_URL",
            &format!("amqp://{namespace}:s3cret@{amqp}/{namespace}"),
        )
        .with(
            "DARDA_BOOTSTRAP_RABBITMQ_ADMIN_URL",
            &format!("http://guest:guest@{management}"),
        )
        .with("DARDA_MONGODB_URI", "mongodb://127.0.0.1:1/")
        .with("DARDA_BOOTSTRAP_WAIT_SECS", "60")
    }

    /// With another value of a variable; an empty one is not set.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.variables.retain(|(known, _)| known != name);
        other.variables.push((name.to_owned(), value.to_owned()));
        other
    }

    /// Over the shared replica set, which is somebody else's.
    pub async fn with_shared_mongodb(&self) -> Self {
        let uri = mongo().await.url();
        self.with(
            "DARDA_MONGODB_URI",
            &uri.replacen("/?", &format!("/{}?", self.namespace), 1),
        )
    }

    /// Over members that nobody made a set of: the first so many of them.
    pub fn with_members(&self, mongo: &Mongo, members: usize, password: &str) -> Self {
        let hosts: Vec<_> = (mongo.members().iter().take(members))
            .map(|member| member.addr().to_string())
            .collect();
        let hosts = hosts.join(",");
        let uri =
            format!("mongodb://darda:{password}@{hosts}/chat?replicaSet=rs0&authSource=admin");
        self.with("DARDA_MONGODB_URI", &uri)
            .with("DARDA_BOOTSTRAP_MONGODB_MEMBERS", &hosts)
            .with("DARDA_BOOTSTRAP_MONGODB_KEY", KEY)
    }

    pub fn command(&self, argument: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bootstrap"));
        command.arg(argument).env_clear().kill_on_drop(true);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// What the program says, and how it ends.
    pub async fn say(&self, argument: &str) -> Said {
        let output = self.command(argument).stdin(Stdio::null()).output();
        let output = timeout(PATIENCE, output).await.expect("an end").unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        println!("{argument}: {:?}\n{text}", output.status);
        // Whatever it says, no password.
        for secret in ["s3cret", "guest:guest", KEY] {
            assert!(!text.contains(secret), "{text}");
        }
        Said {
            code: output.status.code(),
            text,
        }
    }

    pub async fn run(&self) -> Said {
        self.say("run").await
    }

    pub async fn check(&self) -> Said {
        self.say("check").await
    }

    /// It begins, and what becomes of it is the test's concern.
    pub fn begin(&self) -> Child {
        let mut command = self.command("run");
        command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// What the management API says to the administrator.
    pub async fn ask_rabbitmq(
        &self,
        method: &'static str,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let url = format!("http://{}{path}", self.management);
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header(
                "authorization",
                format!("Basic {}", BASE64_STANDARD.encode("guest:guest")),
            )
            .header("content-type", "application/json");
        let asked = tokio::task::spawn_blocking(move || match body {
            Some(body) => ureq::run(request.body(body.to_string()).unwrap()),
            None => ureq::run(request.body(()).unwrap()),
        });
        let mut answer = asked.await.unwrap().unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }
}

impl Said {
    #[track_caller]
    pub fn well(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self
    }

    /// The exit code, and words of the last line.
    #[track_caller]
    pub fn badly(&self, code: i32, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        let last = self.text.lines().last().unwrap_or_default();
        for words in words {
            assert!(last.contains(words), "no {words} in: {last}");
        }
        self
    }

    #[track_caller]
    pub fn has(&self, words: &str) -> &Self {
        assert!(self.text.contains(words), "no {words} in:\n{}", self.text);
        self
    }

    #[track_caller]
    pub fn has_not(&self, words: &str) -> &Self {
        assert!(!self.text.contains(words), "{words} in:\n{}", self.text);
        self
    }

    /// Lines that tell of something that was made.
    #[track_caller]
    pub fn made_nothing(&self) -> &Self {
        for deed in [
            " made ",
            " took ",
            " gave ",
            " set the rights",
            " had ",
            "declared",
            "migrating",
            "could ",
        ] {
            self.has_not(deed);
        }
        self
    }
}

/// Members without a set, which know each other by [`KEY`].
pub async fn members(members: usize) -> Mongo {
    let options = MongoOptions {
        members,
        ..MongoOptions::default()
    };
    Mongo::start_bare(options, KEY).await.expect("members")
}

/// A member, asked by whoever these credentials are of.
pub async fn mongodb(addr: SocketAddr, credentials: &str, source: &str) -> Client {
    let uri = format!(
        "mongodb://{credentials}@{addr}/?directConnection=true&authSource={source}&serverSelectionTimeoutMS=5000"
    );
    Client::with_uri_str(uri).await.unwrap()
}

/// A member, asked as the others would.
pub async fn system(addr: SocketAddr) -> Client {
    mongodb(addr, &format!("__system:{KEY}"), "local").await
}

/// Hosts with their votes, as a member has them, and the version of that.
pub async fn configuration(addr: SocketAddr) -> (Vec<(String, i32)>, i32) {
    let admin = system(addr).await.database("admin");
    let answer = admin
        .run_command(doc! { "replSetGetConfig": 1 })
        .await
        .unwrap();
    let config = answer.get_document("config").unwrap();
    let members = config.get_array("members").unwrap().iter();
    let members = members.filter_map(Bson::as_document).map(|member| {
        let votes = member.get_i32("votes").unwrap();
        (member.get_str("host").unwrap().to_owned(), votes)
    });
    (members.collect(), config.get_i32("version").unwrap())
}

/// The roles of a user, as `role on database`.
pub async fn roles(addr: SocketAddr, user: &str) -> Vec<String> {
    let admin = system(addr).await.database("admin");
    let answer = admin.run_command(doc! { "usersInfo": user }).await.unwrap();
    let users = answer.get_array("users").unwrap();
    let [Bson::Document(user)] = &users[..] else {
        panic!("not one user: {users:?}");
    };
    let roles = user
        .get_array("roles")
        .unwrap()
        .iter()
        .filter_map(Bson::as_document);
    let text = |role: &Document, name| role.get_str(name).unwrap().to_owned();
    roles
        .map(|role| format!("{} on {}", text(role, "role"), text(role, "db")))
        .collect()
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// How a program ended that was begun.
pub async fn ended(mut child: Child) -> ExitStatus {
    timeout(PATIENCE, child.wait())
        .await
        .expect("an end")
        .unwrap()
}
