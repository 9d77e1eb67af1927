//! What stands before several pods elsewhere: takes a connection and hands it to any pod that accepts it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use client::Address;
use rand::RngExt;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::world::Pod;

const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A balancer on a port of its own; ends when it is dropped.
pub struct Balancer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Starts a balancer.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(pods: &[Pod]) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let pods: Arc<[String]> = pods
            .iter()
            .map(|pod| pod.address.authority().to_owned())
            .collect();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(hand_over(stream, pods.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::parse(&format!("http://{}", self.address)).expect("an address of this machine")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // With it end its connections.
        self.task.abort();
    }
}

/// Tries the pods one after the other, from a random one on.
async fn hand_over(mut client: TcpStream, pods: Arc<[String]>) {
    let first = rand::rng().random_range(0..pods.len());
    for index in 0..pods.len() {
        let pod = &pods[(first + index) % pods.len()];
        if let Ok(Ok(mut server)) = timeout(CONNECT_MAX, TcpStream::connect(pod)).await {
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // Either side may end it in any way.
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
