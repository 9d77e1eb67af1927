//! `testbed run`: one set of servers for a command.

use std::process::{Command, Output};

use testbed::Redis;

use crate::{runs, skipped};

/// Runs a shell script with a Redis beside it, and with names for the servers that are not to be started.
fn run(script: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["run", "--", "sh", "-c", script])
        .env_remove("DARDA_TEST_REDIS_URL")
        .env("DARDA_TEST_RABBITMQ_URL", "amqp://elsewhere")
        .env("DARDA_TEST_MONGODB_URI", "mongodb://elsewhere")
        .output()
        .unwrap()
}

#[test]
fn a_command_finds_its_servers_named_and_they_end_with_it() {
    if skipped(Redis::missing()) {
        return;
    }
    let script = "echo $DARDA_TEST_REDIS_URL $DARDA_TEST_RABBITMQ_URL $DARDA_TEST_MONGODB_URI; \
                  redis-cli -u $DARDA_TEST_REDIS_URL info server | sed -n s/^process_id://p";
    let output = run(script);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (urls, pid) = text.trim().split_once('\n').unwrap();
    let (redis, others) = urls.split_once(' ').unwrap();
    assert!(redis.starts_with("redis://127.0.0.1:"), "{redis}");
    assert_eq!(others, "amqp://elsewhere mongodb://elsewhere");
    assert!(!runs(pid.parse().unwrap()));
}

#[test]
fn it_ends_as_the_command_does() {
    if skipped(Redis::missing()) {
        return;
    }
    assert_eq!(run("exit 7").status.code(), Some(7));
    assert_eq!(run("kill -9 $$").status.code(), Some(128 + 9));
}
