//! One of Darda's programs, its log on this process's output behind its name.

use std::io::{BufRead, BufReader, PipeReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::{Folder, Process};

/// Longer than chat-service takes to move its clients away.
const STOP: Duration = Duration::from_secs(40);

pub(super) struct Program {
    process: Process,
    path: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Program {
    pub(super) fn start(
        name: String,
        path: PathBuf,
        variables: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        ensure!(path.is_file(), "there is no {}", path.display());
        let program = Self {
            process: Process::new(name, Folder::Private)?,
            path,
            variables,
        };
        program.spawn()?;
        Ok(program)
    }

    pub(super) fn name(&self) -> &str {
        self.process.name()
    }

    pub(super) fn exited(&self) -> Result<Option<ExitStatus>> {
        self.process.exited()
    }

    pub(super) async fn restart(&self) -> Result<()> {
        self.spawn()
    }

    pub(super) async fn terminate(&self) -> Result<()> {
        self.process.terminate(STOP).await
    }

    fn spawn(&self) -> Result<()> {
        let (reader, writer) = std::io::pipe()?;
        let mut command = Command::new(&self.path);
        // The programs warn about variables that they do not know.
        for (name, _) in std::env::vars_os()
            .filter(|(name, _)| name.as_encoded_bytes().starts_with(b"DARDA_TEST_"))
        {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
            .current_dir(self.process.folder())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        self.process.spawn_as(&mut command)?;
        let name = self.name().to_owned();
        thread::spawn(move || pass_on(&name, reader));
        Ok(())
    }
}

/// Until the program and all that have its output have ended.
fn pass_on(name: &str, output: PipeReader) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output
        .read_until(b'\n', &mut line)
        .is_ok_and(|read| read > 0)
    {
        println!("{name:<8} | {}", String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
