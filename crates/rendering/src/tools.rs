//! The programs that make objects, looked for on `PATH`.

use std::env;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Where a program is.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Whether all of them are there; a test that lacks one says so and is left out.
///
/// # Panics
/// If one is not, and `CI=true`: there a test must not be skipped.
pub fn are_there(names: &[&str]) -> bool {
    let missing: Vec<_> = names
        .iter()
        .copied()
        .filter(|name| find(name).is_none())
        .collect();
    if !missing.is_empty() {
        lacking(&missing.join(", "));
    }
    missing.is_empty()
}

/// A test is left out for want of this.
///
/// # Panics
/// As [`are_there`].
pub fn lacking(what: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "needs {what}");
    testbed::skipped(what);
}

/// What a program says on its standard output.
///
/// # Errors
/// What it says on the other, if it fails.
pub fn run(
    program: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<String, String> {
    finish(program, Command::new(program).args(arguments))
}

/// As [`run`], of a command that is made already.
///
/// # Errors
/// As [`run`].
pub fn finish(program: &str, command: &mut Command) -> Result<String, String> {
    // A cluster that happens to be at hand is none of our business.
    let command = command.env("KUBECONFIG", "/nonexistent/kubeconfig");
    let output = command
        .current_dir(crate::root())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Does something for each, as many at once as there are processors, and keeps the order.
pub fn each<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let hands: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(item) = items.get(index) else { break };
                        done.push((index, work(item)));
                    }
                    done
                })
            })
            .collect();
        let joined = hands.into_iter().map(|hand| hand.join());
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}
