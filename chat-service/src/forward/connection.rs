//! Connections to history-service: HTTP/1.1, one request at a time on each, kept for the next.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_codec::Framed;
use actix_http::body::BodySize;
use actix_http::h1::{ClientCodec, ClientPayloadCodec, Message, MessageType};
use actix_http::{RequestHead, RequestHeadType, ResponseHead, ServiceConfig, StatusCode};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// Silence in the middle of a body for this long means that the rest does not come.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Connections kept, and for how long: less than history-service keeps them.
const IDLE_MAX: usize = 16;
const IDLE_FOR: Duration = Duration::from_secs(30);

/// The connections of one thread.
pub struct Pool {
    address: String,
    config: ServiceConfig,
    idle: RefCell<Vec<Idle>>,
}

type Connection = Framed<TcpStream, ClientCodec>;

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub fn new(address: String) -> Self {
        Self {
            address,
            config: ServiceConfig::default(),
            idle: RefCell::default(),
        }
    }

    /// Sends a request without a body and waits for the head of the answer. The request is sent once more, on a new
    /// connection, when a kept one ends before it has answered, or says that it does.
    ///
    /// # Errors
    /// When there is no connection within a second or what comes over it is no answer.
    pub async fn ask(
        self: &Rc<Self>,
        head: Rc<RequestHead>,
    ) -> io::Result<(ResponseHead, Option<Body>)> {
        let kept = self.take();
        if let Some(connection) = kept {
            match self.exchange(connection, Rc::clone(&head)).await {
                Ok(answer) => return Ok(answer),
                // The others are probably as stale as this one.
                Err(_) => self.clear(),
            }
        }
        let connection = self.connect().await?;
        self.exchange(connection, head).await
    }

    /// Gives up all connections that are not in use.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }

    async fn exchange(
        self: &Rc<Self>,
        mut connection: Connection,
        head: Rc<RequestHead>,
    ) -> io::Result<(ResponseHead, Option<Body>)> {
        let head = RequestHeadType::Rc(head, None);
        connection
            .send(Message::Item((head, BodySize::None)))
            .await?;
        let head = match connection.next().await {
            Some(Ok(head)) => head,
            Some(Err(error)) => return Err(io::Error::other(error)),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        // It was about to give up the connection when the request came, or was stopped for a while and has counted that.
        // The request may be repeated on another one (RFC 9110, 15.5.9).
        if head.status == StatusCode::REQUEST_TIMEOUT {
            let why = "it gave up the connection before the request";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        if let MessageType::None = connection.codec_ref().message_type() {
            self.keep(connection);
            return Ok((head, None));
        }
        let body = Body {
            connection: Some(connection.into_map_codec(ClientCodec::into_payload_codec)),
            pool: Rc::clone(self),
        };
        Ok((head, Some(body)))
    }

    async fn connect(&self) -> io::Result<Connection> {
        let connecting = TcpStream::connect(&self.address);
        let stream = timeout(CONNECT_WITHIN, connecting)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))??;
        stream.set_nodelay(true)?;
        let codec = ClientCodec::new(self.config.clone());
        Ok(Framed::new(stream, codec))
    }

    /// The connection used last that is still open.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(last) = idle.pop() {
            if last.since.elapsed() > IDLE_FOR {
                // The others have waited longer.
                idle.clear();
            } else if is_quiet(last.connection.io_ref()) {
                return Some(last.connection);
            }
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        let is_whole = connection.codec_ref().keep_alive() && connection.is_read_buf_empty();
        if is_whole && idle.len() < IDLE_MAX {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}

/// Whether nothing has come, not even the end.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A body that still comes. Dropped before its end, it ends its connection.
pub struct Body {
    /// Not there after the end.
    connection: Option<Framed<TcpStream, ClientPayloadCodec>>,
    pool: Rc<Pool>,
}

impl Body {
    /// The next piece, or the end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(connection) = &mut self.connection else {
            return Ok(None);
        };
        let chunk = timeout(SILENCE_MAX, connection.next())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no more came in time"))?;
        match chunk {
            Some(Ok(Some(chunk))) => Ok(Some(chunk)),
            Some(Ok(None)) => {
                if let Some(connection) = self.connection.take() {
                    let message = ClientPayloadCodec::into_message_codec;
                    self.pool.keep(connection.into_map_codec(message));
                }
                Ok(None)
            }
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
