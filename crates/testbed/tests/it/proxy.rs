use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use testbed::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Long enough for anything on one machine, short enough to wait for what shall not come.
const A_WHILE: Duration = Duration::from_millis(200);

/// A server whose connections the test holds.
async fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Both ends of a connection through a new proxy.
async fn connected() -> (Proxy, TcpListener, TcpStream, TcpStream) {
    let (listener, addr) = server().await;
    let proxy = Proxy::start(addr).await.unwrap();
    let client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (proxy, listener, client, server)
}

async fn arrives(text: &str, from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(text.as_bytes()).await.unwrap();
    expect(text, to).await;
}

async fn expect(text: &str, to: &mut TcpStream) {
    let mut got = vec![0; text.len()];
    timeout(Duration::from_secs(10), to.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, text.as_bytes());
}

async fn silent(socket: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(A_WHILE, socket.read(&mut byte)).await;
    assert!(read.is_err(), "{read:?}");
}

/// Waits for the end of a connection, in order or not.
async fn ended(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(10), socket.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(read.is_err() || rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn bytes_and_ends_go_through_in_both_directions() {
    let (_proxy, _listener, mut client, mut server) = connected().await;
    arrives("there", &mut client, &mut server).await;
    arrives("back", &mut server, &mut client).await;
    client.shutdown().await.unwrap();
    ended(&mut server).await;
    arrives(
        "after the end of the other direction",
        &mut server,
        &mut client,
    )
    .await;
    drop(server);
    ended(&mut client).await;
}

#[tokio::test]
async fn a_cut_closes_both_ends_and_refuses_until_it_is_healed() {
    let (proxy, listener, mut client, mut server) = connected().await;
    proxy.cut().await;
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    ended(&mut client).await;
    ended(&mut server).await;
    proxy.cut().await;

    proxy.heal().await.unwrap();
    proxy.heal().await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    arrives("again", &mut client, &mut server).await;
}

#[tokio::test]
async fn a_delay_makes_every_byte_late_but_not_slow() {
    let (proxy, _listener, mut client, mut server) = connected().await;
    let delay = Duration::from_millis(500);
    proxy.delay(delay);
    let sender = tokio::spawn(async move {
        let mut sent = Vec::new();
        for part in 0..10 {
            sent.push(Instant::now());
            client.write_all(&[part]).await.unwrap();
            tokio::time::sleep(delay / 10).await;
        }
        (client, sent)
    });
    let mut received = Vec::new();
    for part in 0..10 {
        assert_eq!(server.read_u8().await.unwrap(), part);
        received.push(Instant::now());
    }
    let (mut client, sent) = sender.await.unwrap();
    for (sent, received) in sent.into_iter().zip(received) {
        let late = received - sent;
        assert!(late >= delay && late < delay * 8 / 5, "{late:?}");
    }
    proxy.delay(Duration::ZERO);
    arrives("at once", &mut server, &mut client).await;
}

#[tokio::test]
async fn a_stall_holds_one_direction_and_closes_nothing() {
    let (proxy, listener, mut client, mut server) = connected().await;
    proxy.stall_to_server();
    client.write_all(b"held").await.unwrap();
    silent(&mut server).await;
    arrives("through", &mut server, &mut client).await;

    let mut late = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut late_server, _) = listener.accept().await.unwrap();
    late.write_all(b"held too").await.unwrap();
    silent(&mut late_server).await;

    proxy.heal().await.unwrap();
    expect("held", &mut server).await;
    expect("held too", &mut late_server).await;

    proxy.stall_to_client();
    server.write_all(b"answer").await.unwrap();
    silent(&mut client).await;
    arrives("question", &mut client, &mut server).await;
    proxy.heal().await.unwrap();
    expect("answer", &mut client).await;
}

#[tokio::test]
async fn a_stalled_direction_carries_no_end_and_no_reset() {
    let (proxy, _listener, client, mut server) = connected().await;
    proxy.stall_to_server();
    drop(client);
    for _ in 0..5 {
        server.write_all(b"to nobody").await.unwrap();
        silent(&mut server).await;
    }
    proxy.heal().await.unwrap();
    ended(&mut server).await;
}

#[tokio::test]
async fn what_waits_in_a_stall_is_bounded() {
    let (proxy, _listener, mut client, mut server) = connected().await;
    proxy.stall_to_server();
    let chunk = vec![7; 1 << 20];
    let mut sent = 0;
    while let Ok(written) = timeout(A_WHILE, client.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 64 << 20, "the proxy takes everything");
    }
    proxy.heal().await.unwrap();
    let mut received = vec![0; sent];
    timeout(Duration::from_secs(20), server.read_exact(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn nobody_listens_where_a_proxy_was() {
    let (proxy, _listener, mut client, mut server) = connected().await;
    let addr = proxy.addr();
    assert_eq!(
        proxy.through(&format!("redis://{}/1", _listener.local_addr().unwrap())),
        format!("redis://{addr}/1")
    );
    drop(proxy);
    ended(&mut client).await;
    ended(&mut server).await;
}

#[tokio::test]
async fn a_server_that_refuses_closes_the_client() {
    let (listener, addr) = server().await;
    drop(listener);
    let proxy = Proxy::start(addr).await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    ended(&mut client).await;
}

#[tokio::test]
async fn new_connections_lead_to_where_the_proxy_is_aimed() {
    let (proxy, _listener, mut client, mut server) = connected().await;
    let (other, addr) = self::server().await;
    proxy.aim(addr);
    arrives("still here", &mut client, &mut server).await;
    let mut moved = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut there, _) = other.accept().await.unwrap();
    arrives("moved", &mut moved, &mut there).await;
}
