//! The embedded family passes the suite.

use backend::{Backends, Config, open};

async fn run(test: impl AsyncFnOnce(&Backends)) {
    let dir = tempfile::tempdir().unwrap();
    let family = open(Config::Embedded {
        data_dir: dir.path().join("data"),
    })
    .await
    .unwrap();
    test(&family).await;
    family.health.close().await;
}

backend::conformance_suite!(run);
