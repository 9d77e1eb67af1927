//! A server that cannot serve says why and ends, instead of serving something else.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use crate::chat::Chat;
use crate::server::{Server, Setup};

/// A stopped server's setup, with something in its folder.
async fn used_folder() -> Setup {
    let server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    for _ in 0..200 {
        alice.send("general", &"words ".repeat(100)).await;
    }
    server.into_setup().await
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    let mut file = fs::File::options().write(true).open(file).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(bytes).unwrap();
}

/// The words that explain a refusal.
fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "'{word}' is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_database_that_is_damaged_is_not_served() {
    let setup = used_folder().await;
    let database = setup.data().join("darda.db");
    let mut whole = Vec::new();
    fs::File::open(&database)
        .unwrap()
        .read_to_end(&mut whole)
        .unwrap();

    let ruin = Setup::new().in_folder(setup.data());
    overwrite(&database, 0, b"not a database at all");
    says(
        &ruin.refuses().await,
        &["darda.db", "not a database", "backup"],
    );

    fs::write(&database, &whole).unwrap();
    let page = whole.len() as u64 / 4096 / 2 * 4096;
    overwrite(&database, page, &[0xa5; 8192]);
    let ruin = Setup::new().in_folder(setup.data());
    says(&ruin.refuses().await, &["darda.db", "backup"]);

    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    let ruin = Setup::new().in_folder(setup.data());
    says(&ruin.refuses().await, &["darda.db", "backup"]);

    // What was put back is served, and nothing was made worse.
    fs::write(&database, &whole).unwrap();
    let server = setup.start().await;
    let log = server.log_of("general", "alice").await;
    let messages = log.iter().filter(|event| event["kind"] == "message");
    assert_eq!(messages.count(), 200);
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_left_alone() {
    let setup = used_folder().await;
    let database = setup.data().join("darda.db");
    // Where SQLite keeps `user_version`, the schema version.
    overwrite(&database, 60, &1_000_u32.to_be_bytes());
    let before = fs::read(&database).unwrap();
    let said = Setup::new().in_folder(setup.data()).refuses().await;
    says(&said, &["version 1000", "newer"]);
    assert!(fs::read(&database).unwrap() == before, "it was changed");
}

#[tokio::test]
async fn another_programs_database_is_left_alone() {
    let setup = used_folder().await;
    let database = setup.data().join("darda.db");
    // Where SQLite keeps `application_id`.
    overwrite(&database, 68, &0x0102_0304_u32.to_be_bytes());
    let said = Setup::new().in_folder(setup.data()).refuses().await;
    says(&said, &["another program"]);
}

#[tokio::test]
async fn two_processes_do_not_share_a_folder() {
    let mut server = Server::start().await;
    let mut alice = Chat::open(&server, "alice").await;
    let said = Setup::new().in_folder(server.data()).refuses().await;
    says(
        &said,
        &["in use by another process", server.data().to_str().unwrap()],
    );
    alice.send("general", "not disturbed").await;
    // A crash does not leave the folder locked.
    server.kill_and_start_again().await;
    server
        .done("GET", "/v1/rooms/general", "alice", Value::Null)
        .await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    for folder in ["/proc", "/proc/none"] {
        let said = Setup::new().in_folder(Path::new(folder)).refuses().await;
        says(&said, &[folder, "cannot be"]);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let said = Setup::new().in_folder(file.path()).refuses().await;
    says(&said, &[file.path().to_str().unwrap()]);
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for variable in ["DARDA_HTTP_ADDR", "DARDA_ADMIN_ADDR"] {
        let said = Setup::new().with(variable, address).refuses().await;
        says(&said, &[variable, &address.to_string(), "in use"]);
    }
}

#[tokio::test]
async fn a_bad_variable_is_named() {
    for (variable, value) in [
        ("DARDA_HTTP_ADDR", "nowhere"),
        ("DARDA_ADMIN_ADDR", "127.0.0.1"),
        ("DARDA_BACKEND", "papyrus"),
        ("DARDA_AUTH_MODE", "magic"),
        ("DARDA_AUTH_OPEN_ANYWHERE", "perhaps"),
        ("DARDA_ALLOWED_ORIGINS", "*"),
        ("DARDA_HTTP_WORKERS", "0"),
        ("DARDA_DRAIN_SECS", "-1"),
        ("DARDA_HEARTBEAT_SECS", "0.5"),
        ("DARDA_LIMIT_SENDS_PER_SEC", "many"),
        ("DARDA_LIMIT_SENDS_BURST", "0"),
        ("DARDA_LIMIT_TEXT_BYTES", "65536"),
        ("DARDA_LIMIT_FRAME_BYTES", "-5"),
        ("DARDA_LIMIT_HELLO_SECS", "soon"),
        ("DARDA_LOG", "info,,=nonsense=="),
        ("DARDA_LOG_FORMAT", "xml"),
    ] {
        let said = Setup::new().with(variable, value).refuses().await;
        says(&said, &[variable]);
    }
}

#[tokio::test]
async fn open_mode_does_not_listen_to_strangers_unless_told_twice() {
    let open = || Setup::new().with("DARDA_HTTP_ADDR", "0.0.0.0:0");
    says(
        &open().refuses().await,
        &["DARDA_AUTH_MODE", "DARDA_AUTH_OPEN_ANYWHERE"],
    );
    let said = open().with("DARDA_AUTH_MODE", "open").refuses().await;
    says(&said, &["DARDA_AUTH_OPEN_ANYWHERE"]);
    let said = open()
        .with("DARDA_AUTH_OPEN_ANYWHERE", true)
        .refuses()
        .await;
    says(&said, &["DARDA_AUTH_MODE"]);
    let server = open()
        .with("DARDA_AUTH_MODE", "open")
        .with("DARDA_AUTH_OPEN_ANYWHERE", true)
        .start()
        .await;
    Chat::open(&server, "alice")
        .await
        .send("general", "hello")
        .await;
}
