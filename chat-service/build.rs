//! Makes the folder of the built web page exist, so that cargo works where Node never ran. The page itself is made by
//! `make web`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../web/dist");
    std::fs::create_dir_all(&dist)?;
    // A page built again is a page embedded again.
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed=build.rs");
    Ok(())
}
