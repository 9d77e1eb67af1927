//! The task of one socket: reads and writes at the same time.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use protocol::CloseCode;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::engine::Conn;
use crate::socket::{self, Incoming, SocketError, Stream};

const FRAMES_OUT_MAX: usize = 1024;
/// How long a server may take to accept a frame.
const SEND_MAX: Duration = Duration::from_secs(30);
/// How long saying good-bye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// The driver's end of a socket. Dropping `frames` closes it.
pub(super) struct Port {
    pub(super) frames: mpsc::Sender<String>,
    task: JoinHandle<()>,
}

/// What a socket's task says.
#[derive(Debug)]
pub(super) enum Report {
    Opened,
    Incoming(Incoming),
}

impl Port {
    pub(super) fn open(conn: Conn, url: Arc<str>, reports: mpsc::Sender<(Conn, Report)>) -> Self {
        let (frames, queue) = mpsc::channel(FRAMES_OUT_MAX);
        let task = tokio::spawn(serve(conn, url, queue, reports));
        Self { frames, task }
    }

    pub(super) async fn goodbye(self) {
        drop(self.frames);
        let abort = self.task.abort_handle();
        if timeout(GOODBYE, self.task).await.is_err() {
            abort.abort();
        }
    }
}

/// The life of one socket. Ends when the server does, or when the driver drops its end.
async fn serve(
    conn: Conn,
    url: Arc<str>,
    mut frames: mpsc::Receiver<String>,
    reports: mpsc::Sender<(Conn, Report)>,
) {
    let stream = tokio::select! {
        stream = socket::open(&url) => stream,
        // Nothing is sent before the socket is open, so this is the end of the driver's interest.
        _ = frames.recv() => return,
    };
    let last = match stream {
        Ok(stream) => {
            if reports.send((conn, Report::Opened)).await.is_err() {
                return;
            }
            let (sink, stream) = stream.split();
            tokio::select! {
                last = read(conn, stream, &reports) => last,
                last = write(sink, frames) => match last {
                    Some(last) => last,
                    None => return,
                },
            }
        }
        Err(error) => Incoming::Closed {
            code: match error {
                SocketError::Refused(401) => Some(CloseCode::Unauthenticated.as_u16()),
                _ => None,
            },
            reason: error.to_string(),
        },
    };
    // The driver may have ended meanwhile.
    let _ = reports.send((conn, Report::Incoming(last))).await;
}

/// Reports what comes in until the end, which is returned.
async fn read(
    conn: Conn,
    mut stream: SplitStream<Stream>,
    reports: &mpsc::Sender<(Conn, Report)>,
) -> Incoming {
    loop {
        let incoming = socket::incoming(stream.next().await);
        if matches!(incoming, Incoming::Closed { .. }) {
            return incoming;
        }
        if reports
            .send((conn, Report::Incoming(incoming)))
            .await
            .is_err()
        {
            // Nobody listens any more; the writer will notice and say good-bye.
            pending::<()>().await;
        }
    }
}

/// Sends frames until the driver drops its end, then says good-bye. Returns something when the server takes no more.
async fn write(
    mut sink: SplitSink<Stream, Message>,
    mut frames: mpsc::Receiver<String>,
) -> Option<Incoming> {
    while let Some(text) = frames.recv().await {
        match timeout(SEND_MAX, sink.send(Message::text(text))).await {
            Ok(Ok(())) => {}
            // The reader finds out why.
            Ok(Err(_)) => pending::<()>().await,
            Err(_) => {
                return Some(Incoming::Closed {
                    code: None,
                    reason: "the server takes nothing any more".to_owned(),
                });
            }
        }
    }
    // A server that is gone already needs no good-bye.
    let _ = timeout(GOODBYE, sink.close()).await;
    None
}
