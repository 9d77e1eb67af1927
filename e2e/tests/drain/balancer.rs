//! A balancer of TCP connections as it stands before pods: it asks each of them whether it is ready and gives each new
//! connection to one of those that are.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::Address;
use e2e::http::Http;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const CONNECTIONS_MAX: usize = 4096;
const ASKED_EVERY: Duration = Duration::from_millis(100);
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// Ends when it is dropped, with its connections.
pub struct Balancer {
    address: SocketAddr,
    pods: Arc<[Pod]>,
    _tasks: JoinSet<()>,
}

struct Pod {
    address: Address,
    is_ready: Mutex<bool>,
    given: AtomicUsize,
    /// Connections that were given to it when it was known to leave.
    refused: AtomicUsize,
}

impl Balancer {
    pub async fn start(addresses: &[Address]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pods: Arc<[Pod]> = addresses
            .iter()
            .map(|address| Pod {
                address: address.clone(),
                is_ready: Mutex::new(false),
                given: AtomicUsize::new(0),
                refused: AtomicUsize::new(0),
            })
            .collect();
        let mut tasks = JoinSet::new();
        for n in 0..pods.len() {
            tasks.spawn(ask(Arc::clone(&pods), n));
        }
        tasks.spawn(accept(listener, Arc::clone(&pods)));
        Self {
            address,
            pods,
            _tasks: tasks,
        }
    }

    pub fn address(&self) -> Address {
        Address::parse(&format!("http://{}", self.address)).unwrap()
    }

    /// Whether a pod gets new connections.
    pub fn is_ready(&self, n: usize) -> bool {
        self.pods[n].is_ready()
    }

    /// Connections that a pod was given so far, and those that it did not take.
    pub fn given(&self, n: usize) -> (usize, usize) {
        let pod = &self.pods[n];
        (
            pod.given.load(Ordering::Relaxed),
            pod.refused.load(Ordering::Relaxed),
        )
    }
}

impl Pod {
    fn is_ready(&self) -> bool {
        *self.is_ready.lock().unwrap()
    }
}

async fn ask(pods: Arc<[Pod]>, n: usize) {
    let (http, pod) = (Http::default(), &pods[n]);
    loop {
        let answer = timeout(ANSWERS_WITHIN, http.ready(&pod.address)).await;
        *pod.is_ready.lock().unwrap() = matches!(answer, Ok(Ok(())));
        sleep(ASKED_EVERY).await;
    }
}

async fn accept(listener: TcpListener, pods: Arc<[Pod]>) {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let pods = Arc::clone(&pods);
        connections.spawn(async move {
            hand_over(stream, &pods).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn hand_over(mut stream: TcpStream, pods: &[Pod]) {
    // At random, because clients of one kind may come in turn too.
    let first: usize = rand::random_range(0..pods.len());
    for n in 0..pods.len() {
        let pod = &pods[(first + n) % pods.len()];
        if !pod.is_ready() {
            continue;
        }
        let connecting = TcpStream::connect(pod.address.authority());
        match timeout(CONNECTS_WITHIN, connecting).await {
            Ok(Ok(mut server)) => {
                pod.given.fetch_add(1, Ordering::Relaxed);
                // Either side may end it as it likes.
                let _ = copy_bidirectional(&mut stream, &mut server).await;
                return;
            }
            _ => {
                pod.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
