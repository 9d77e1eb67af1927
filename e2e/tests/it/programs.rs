//! The programs under test.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use e2e::system::Programs;

/// The programs of this build, brought up to date first: `cargo test` of one package builds no programs of others. All
/// of the workspace at once, so that nothing is compiled again that was compiled for the tests.
pub fn programs() -> Programs {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--workspace", "--bins"])
            .status();
        assert!(built.unwrap().success(), "the programs cannot be built");
    });
    let folder = Path::new(env!("CARGO_BIN_EXE_checker")).parent().unwrap();
    Programs::of(folder)
}
