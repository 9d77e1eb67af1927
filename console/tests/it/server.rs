//! A server process of one test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running `standalone`. Killed when dropped, without a chance to clean up.
pub struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Starts on a free port, over the data in `data`.
    pub fn start(data: &Path) -> Self {
        Self::start_on("127.0.0.1:0", data)
    }

    fn start_on(address: &str, data: &Path) -> Self {
        let mut process = Command::new(program())
            .env("DARDA_HTTP_ADDR", address)
            .env("DARDA_ADMIN_ADDR", "127.0.0.1:0")
            .env("DARDA_DATA_DIR", data)
            .env("DARDA_DRAIN_SECS", "2")
            .env("DARDA_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("listening on http://")?.1.to_owned()))
            .expect("the server ended before it listened");
        Self { process, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills the process and returns where it was.
    pub fn kill(mut self) -> Stopped {
        let address = self.address.clone();
        self.end();
        Stopped { address }
    }

    /// Asks the process to end and waits until it has.
    #[cfg(unix)]
    pub fn terminate(mut self) -> Stopped {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(status.success());
        assert!(self.process.wait().unwrap().success());
        let address = self.address.clone();
        Stopped { address }
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            self.end();
        }
    }
}

/// A server that is away.
pub struct Stopped {
    address: String,
}

impl Stopped {
    /// Starts again where it was.
    pub fn start(self, data: &Path) -> Server {
        Server::start_on(&self.address, data)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// `target/<profile>/standalone`; this test is `target/<profile>/deps/it-…`.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let program = folder.join(format!("standalone{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is missing: build it with `cargo build --package standalone`, as `make test` does",
        program.display()
    );
    program
}
