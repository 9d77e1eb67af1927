//! A network that can be broken: a TCP proxy on 127.0.0.1 in front of one server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::ports;

/// More wait in the kernel.
const CONNECTIONS_MAX: usize = 1_024;
/// How long the server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(20);
const CHUNK_BYTES: usize = 16 * 1_024;
/// What a direction of a connection holds at most, in chunks; then its sender waits.
const CHUNKS_MAX: usize = 64;

/// A proxy in front of one server. It carries bytes as they come until it is told otherwise; what it is told holds for
/// open connections and new ones alike.
///
/// A MongoDB driver that looks for the replica set goes past it: give it [`crate::Member::url`], which names one member.
pub struct Proxy {
    addr: SocketAddr,
    /// Where new connections lead to.
    target: Arc<Mutex<SocketAddr>>,
    rules: watch::Sender<Rules>,
    /// None while it is cut.
    listening: Mutex<Option<Listening>>,
}

struct Listening {
    cut: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    delay: Duration,
    stalled_to_server: bool,
    stalled_to_client: bool,
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Listens on a free port for connections to carry to `target`.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let proxy = Self {
            addr: (Ipv4Addr::LOCALHOST, ports::free()?).into(),
            target: Arc::new(Mutex::new(target)),
            rules: watch::Sender::default(),
            listening: Mutex::default(),
        };
        proxy.listen().await?;
        Ok(proxy)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A URL of the server with the address of the proxy instead.
    pub fn through(&self, url: &str) -> String {
        url.replace(&target(&self.target).to_string(), &self.addr.to_string())
    }

    /// From now on new connections lead to another server; open ones stay until they are [`Proxy::cut`]. As when the
    /// address of a service moves.
    pub fn aim(&self, target: SocketAddr) {
        *self.target.lock().expect("nothing panics under this lock") = target;
    }

    /// Closes all connections and refuses new ones. When it returns, that is so.
    pub async fn cut(&self) {
        let listening = self
            .listening
            .lock()
            .expect("nothing panics under this lock")
            .take();
        if let Some(Listening { cut, task }) = listening {
            let _ = cut.send(());
            let _ = task.await;
        }
    }

    /// Takes connections again, and lets go what was stalled. A delay stays.
    ///
    /// # Errors
    /// If somebody else listens at the address by now.
    pub async fn heal(&self) -> Result<()> {
        self.rules.send_modify(|rules| {
            *rules = Rules {
                delay: rules.delay,
                ..Rules::default()
            }
        });
        self.listen().await
    }

    /// From now on every byte takes this much longer, in both directions. The rate does not suffer.
    pub fn delay(&self, delay: Duration) {
        self.rules.send_modify(|rules| rules.delay = delay);
    }

    /// Nothing reaches the server any more, not even the end of a connection; what it sends arrives. As with packets that
    /// are lost in one direction, nothing is closed, and what was held arrives after [`Proxy::heal`].
    pub fn stall_to_server(&self) {
        self.rules
            .send_modify(|rules| rules.stalled_to_server = true);
    }

    /// The same for what the server sends.
    pub fn stall_to_client(&self) {
        self.rules
            .send_modify(|rules| rules.stalled_to_client = true);
    }

    async fn listen(&self) -> Result<()> {
        if self.is_listening() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.addr).await;
        let listener =
            listener.with_context(|| format!("the proxy cannot listen on {}", self.addr))?;
        let (cut, is_cut) = oneshot::channel();
        let task = tokio::spawn(accept(
            listener,
            Arc::clone(&self.target),
            self.rules.subscribe(),
            is_cut,
        ));
        *self
            .listening
            .lock()
            .expect("nothing panics under this lock") = Some(Listening { cut, task });
        Ok(())
    }

    fn is_listening(&self) -> bool {
        self.listening
            .lock()
            .expect("nothing panics under this lock")
            .is_some()
    }
}

fn target(target: &Mutex<SocketAddr>) -> SocketAddr {
    *target.lock().expect("nothing panics under this lock")
}

/// Until it is cut or the proxy is dropped.
async fn accept(
    listener: TcpListener,
    aim: Arc<Mutex<SocketAddr>>,
    rules: watch::Receiver<Rules>,
    mut cut: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut cut => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                match accepted {
                    Ok((client, _)) => drop(connections.spawn(carry(client, target(&aim), rules.clone()))),
                    // Without a descriptor to spare, say: not again at once.
                    Err(_) => sleep(RETRY).await,
                }
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// One connection, until both directions have ended or one failed; then both sockets are closed.
async fn carry(mut client: TcpStream, target: SocketAddr, rules: watch::Receiver<Rules>) {
    let Ok(Ok(mut server)) = timeout(CONNECT, TcpStream::connect(target)).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    // A failure has been carried as far as it goes: by closing.
    let _ = tokio::try_join!(
        pump(from_client, to_server, Direction::ToServer, rules.clone()),
        pump(from_server, to_client, Direction::ToClient, rules),
    );
}

/// What goes over a direction.
enum Item {
    Bytes(Vec<u8>),
    /// Nothing more will be sent.
    End,
    /// The connection is broken.
    Reset(std::io::Error),
}

async fn pump(
    from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    direction: Direction,
    rules: watch::Receiver<Rules>,
) -> std::io::Result<()> {
    let (queue, items) = mpsc::channel(CHUNKS_MAX);
    let ((), given) = tokio::join!(
        take(from, queue, rules.clone()),
        give(items, to, direction, rules)
    );
    given
}

/// Ends after the end of the stream, or when nobody wants the items any more.
async fn take(
    mut from: impl AsyncRead + Unpin,
    queue: mpsc::Sender<(Instant, Item)>,
    rules: watch::Receiver<Rules>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read,
            () = queue.closed() => return,
        };
        let item = match read {
            Ok(0) => Item::End,
            Ok(n) => Item::Bytes(chunk[..n].to_vec()),
            Err(error) => Item::Reset(error),
        };
        let last = !matches!(item, Item::Bytes(_));
        let due = Instant::now() + rules.borrow().delay;
        if queue.send((due, item)).await.is_err() || last {
            return;
        }
    }
}

async fn give(
    mut items: mpsc::Receiver<(Instant, Item)>,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    mut rules: watch::Receiver<Rules>,
) -> std::io::Result<()> {
    while let Some((due, item)) = items.recv().await {
        sleep_until(due).await;
        flowing(&mut rules, direction).await;
        let given = match item {
            Item::Bytes(bytes) => to.write_all(&bytes).await,
            Item::End => return to.shutdown().await,
            Item::Reset(error) => return Err(error),
        };
        if let Err(error) = given {
            // That its peer is gone is news, which the sender gets by the other direction.
            flowing(&mut rules, direction.opposite()).await;
            return Err(error);
        }
    }
    Ok(())
}

/// Waits until the direction is not stalled.
async fn flowing(rules: &mut watch::Receiver<Rules>, direction: Direction) {
    let flows = |rules: &Rules| match direction {
        Direction::ToServer => !rules.stalled_to_server,
        Direction::ToClient => !rules.stalled_to_client,
    };
    // Without a proxy there are no connections: this one is about to be dropped.
    let _ = rules.wait_for(flows).await;
}

impl Direction {
    fn opposite(self) -> Self {
        match self {
            Direction::ToServer => Direction::ToClient,
            Direction::ToClient => Direction::ToServer,
        }
    }
}
