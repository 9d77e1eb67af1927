//! The admin port of a real process, over real sockets.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use runtime::health::Check;
use runtime::{Metrics, Readiness};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// The whole answer to one request.
async fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: darda\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_admin_port_serves_operators_until_it_is_told_to_end() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let readiness = Readiness::new();
    readiness.check("disk", || async { Ok(()) });
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(runtime::admin::serve(
        listener,
        Metrics::new("test", "0"),
        readiness.clone(),
        shutdown.clone(),
    ));

    assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200 "));
    let ready = get(addr, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    assert!(
        ready.ends_with(r#"{"status":"ready","checks":[{"name":"disk","ok":true}]}"#),
        "{ready}"
    );
    let metrics = get(addr, "/metrics").await;
    assert!(
        metrics.contains("application/openmetrics-text"),
        "{metrics}"
    );
    assert!(metrics.contains("process_open_fds"), "{metrics}");
    assert!(
        metrics.contains("chat_dependency_up{dependency=\"disk\"} 1"),
        "{metrics}"
    );

    let is_stuck = Arc::new(AtomicBool::new(true));
    let stuck = Arc::clone(&is_stuck);
    readiness.checks("servers", move || {
        let stuck = Arc::clone(&stuck);
        async move {
            if stuck.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            vec![Check::new("redis", None)]
        }
    });
    let metrics = get(addr, "/metrics").await;
    assert!(
        metrics.contains("chat_dependency_up{dependency=\"servers\"} 0"),
        "{metrics}"
    );
    is_stuck.store(false, Ordering::Relaxed);
    let metrics = get(addr, "/metrics").await;
    assert!(
        metrics.contains("chat_dependency_up{dependency=\"redis\"} 1"),
        "{metrics}"
    );
    assert!(!metrics.contains("dependency=\"servers\""), "{metrics}");

    readiness.set_draining();
    assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 503 "));
    assert!(get(addr, "/healthz").await.starts_with("HTTP/1.1 200 "));

    shutdown.cancel();
    server.await.unwrap().unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}
