//! The process around the reads.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use backend::directory::RoomKind;

use crate::harness::{Service, ask, text};

#[actix_web::test]
async fn readiness_and_the_description_are_on_the_public_port() {
    let service = Service::start().await;
    for addr in [service.addr, service.admin] {
        assert_eq!(ask(addr, "GET", "/healthz", &[]).await.status, 200);
        let ready = ask(addr, "GET", "/readyz", &[]).await;
        assert_eq!(ready.status, 200, "{}", ready.text());
        assert_eq!(ready.json()["status"], "ready");
    }
    assert_eq!(ask(service.admin, "GET", "/metrics", &[]).await.status, 200);
    assert_eq!(ask(service.addr, "GET", "/metrics", &[]).await.status, 404);
    let description = ask(service.addr, "GET", "/openapi.json", &[]).await.json();
    assert!(description["paths"]["/v1/search"]["get"].is_object());
}

#[actix_web::test]
async fn it_ends_when_it_is_told_to() {
    let service = Service::start().await;
    assert_eq!(ask(service.addr, "GET", "/healthz", &[]).await.status, 200);
    service.shutdown.cancel();
    service.server.await.unwrap().unwrap();
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_history-service"));
    command.env_clear();
    command
}

/// Why a start was refused. One that is not is ended.
fn refusal(command: &mut Command) -> String {
    let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    let ended = loop {
        match process.try_wait().unwrap() {
            Some(ended) => break ended,
            None if begun.elapsed() > Duration::from_secs(20) => {
                process.kill().unwrap();
                process.wait().unwrap();
                panic!("it started");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    assert!(!ended.success());
    let mut text = String::new();
    process
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text
}

#[test]
fn help_names_every_variable() {
    let output = program().arg("--help").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for variable in history_service::VARIABLES
        .iter()
        .flat_map(|list| list.iter())
    {
        assert!(text.contains(variable.name), "{}", variable.name);
    }
}

#[test]
fn a_bad_variable_stops_the_start_by_name() {
    for (name, value) in [
        ("DARDA_HTTP_ADDR", "here"),
        ("DARDA_BACKEND", "paper"),
        ("DARDA_AUTH_MODE", "magic"),
        ("DARDA_LOG", "a=b=c"),
        ("DARDA_LOG_FORMAT", "xml"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let text = refusal(
            program()
                .env("DARDA_DATA_DIR", data.path())
                .env(name, value),
        );
        assert!(text.contains(&format!("{name}: ")), "{text}");
    }
}

#[actix_web::test]
async fn a_folder_in_use_is_refused_with_the_way_out() {
    let data = tempfile::tempdir().unwrap();
    let config = backend::Config::Embedded {
        data_dir: data.path().to_owned(),
    };
    let holder = backend::open(config).await.unwrap();
    let text = refusal(
        program()
            .env("DARDA_DATA_DIR", data.path())
            .env("DARDA_HTTP_ADDR", "127.0.0.1:0")
            .env("DARDA_ADMIN_ADDR", "127.0.0.1:0"),
    );
    assert!(text.contains("run standalone instead"), "{text}");
    holder.health.close().await;
}

/// The address in the line that says so.
fn listening(process: &mut Child) -> SocketAddr {
    let log = BufReader::new(process.stderr.take().unwrap());
    let line = log
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains("history-service is listening"))
        .expect("it listens");
    line.rsplit_once("addr=").unwrap().1.parse().unwrap()
}

fn start(data: &Path) -> (Child, SocketAddr) {
    let mut process = program()
        .env("DARDA_DATA_DIR", data)
        .env("DARDA_HTTP_ADDR", "127.0.0.1:0")
        .env("DARDA_ADMIN_ADDR", "127.0.0.1:0")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let addr = listening(&mut process);
    (process, addr)
}

fn terminate(process: &Child) {
    let id = process.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
    assert!(sent.success());
}

#[actix_web::test]
async fn a_signal_ends_the_process_in_order() {
    let data = tempfile::tempdir().unwrap();
    let (mut process, addr) = start(data.path());
    assert_eq!(ask(addr, "GET", "/healthz", &[]).await.status, 200);
    terminate(&process);
    assert!(process.wait().unwrap().success());
}

#[actix_web::test]
async fn a_second_signal_does_not_wait_for_a_slow_reader() {
    let service = Service::start().await;
    service.room("general", RoomKind::Public, "alice").await;
    let bodies = (0..2000).map(|_| text(&"x".repeat(8000)));
    service.append_all("general", "alice", bodies).await;
    service.shutdown.cancel();
    service.server.await.unwrap().unwrap();
    service.backends.health.close().await;

    let (mut process, addr) = start(service.data.path());
    let mut reader = TcpStream::connect(addr).unwrap();
    let request = "GET /v1/rooms/general/export HTTP/1.1\r\nhost: x\r\nx-darda-user: bob\r\n\r\n";
    reader.write_all(request.as_bytes()).unwrap();
    reader.read_exact(&mut [0; 1000]).unwrap();
    let begun = Instant::now();
    let ended = loop {
        match process.try_wait().unwrap() {
            Some(status) => break status,
            None => terminate(&process),
        }
    };
    assert_eq!(ended.code(), Some(128 + 15));
    let patience = Duration::from_secs(5);
    assert!(begun.elapsed() < patience, "{:?}", begun.elapsed());
}
