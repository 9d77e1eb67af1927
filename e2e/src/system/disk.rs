//! A small file system of its own, to be filled. Only root can make one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const BALLAST: &str = "ballast";

/// A file system in memory. It is gone when this is dropped, at the latest when the last process lets go of it.
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// What it takes to make one.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let is_root = rustix::process::geteuid().is_root();
        (!is_root).then_some("root for a small file system")
    }

    /// Makes one of so many MiB in an empty folder, which is made too.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn new(path: &Path, mib: u32) -> Result<Self> {
        fs::create_dir_all(path)?;
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mib}m"),
                "darda-checker",
            ])
            .arg(path)
            .output()
            .context("cannot run mount")?;
        let why = String::from_utf8_lossy(&mounted.stderr);
        ensure!(mounted.status.success(), "no small file system: {why}");
        let path = path.to_owned();
        Ok(Self { path })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no room on it.
    ///
    /// # Errors
    /// When it breaks otherwise.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.path.join(BALLAST))?;
        // Down to the last page.
        for chunk in [vec![0; 1 << 20], vec![0; 4096]] {
            loop {
                match ballast.write(&chunk) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("cannot fill the file system"),
                }
            }
        }
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn clear(&self) -> Result<()> {
        fs::remove_file(self.path.join(BALLAST)).context("it was not full")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process may hold on to it; it is gone with the last one.
        let unmounted = Command::new("umount")
            .arg("--lazy")
            .arg(&self.path)
            .status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_and_a_cleared_one_does() {
        if let Some(missing) = Disk::missing() {
            testbed::skipped(missing);
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(&folder.path().join("small"), 2).unwrap();
        let file = disk.path().join("file");
        fs::write(&file, "before").unwrap();
        disk.fill().unwrap();
        let refused = fs::write(disk.path().join("other"), "x").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageFull);
        disk.clear().unwrap();
        fs::write(disk.path().join("other"), "after").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    }
}
