//! A client that may send any bytes at all.

use std::io;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::{PATIENCE, Server};

pub const FIN: u8 = 0x80;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A TCP connection on which a WebSocket upgrade was asked for.
pub struct Raw {
    stream: TcpStream,
    /// What the server answered to the upgrade: the status line and the headers.
    pub head: String,
    pub status: u16,
}

/// Something the server sent.
#[derive(Debug, PartialEq)]
pub enum Got {
    Frame(Value),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16),
    /// The connection ended without a close frame.
    End,
}

impl Raw {
    /// Asks for an upgrade with these headers besides the usual ones.
    pub async fn upgrade(server: &Server, path: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(server.http).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n",
            server.http
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.unwrap();
            head.push(byte.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let status = head[9..12].parse().unwrap();
        Self {
            stream,
            head,
            status,
        }
    }

    /// An upgraded connection on which nobody has signed in.
    pub async fn open(server: &Server) -> Self {
        let raw = Self::upgrade(server, "/v1/ws", "").await;
        assert_eq!(raw.status, 101, "{}", raw.head);
        raw
    }

    /// An upgraded connection of a user.
    pub async fn open_as(server: &Server, user: &str) -> Self {
        let mut raw = Self::open(server).await;
        raw.text(&json!({"type": "hello", "user": user}).to_string())
            .await;
        let welcome = raw.next().await;
        assert!(
            matches!(&welcome, Got::Frame(frame) if frame["type"] == "welcome"),
            "{welcome:?}"
        );
        raw
    }

    /// Writes bytes as they are. A server that has closed already is noticed when it is read.
    pub async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the server does not read")
    }

    /// Writes a masked frame. `first` is its first byte: flags and opcode.
    pub async fn frame(&mut self, first: u8, payload: &[u8]) {
        let _ = self.bytes(&frame(first, payload)).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.frame(FIN | TEXT, text.as_bytes()).await;
    }

    /// The next thing from the server.
    pub async fn next(&mut self) -> Got {
        timeout(PATIENCE, self.read())
            .await
            .expect("nothing comes from the server")
            .unwrap_or(Got::End)
    }

    async fn read(&mut self) -> io::Result<Got> {
        let first = self.stream.read_u8().await?;
        let len = match self.stream.read_u8().await? {
            126 => u64::from(self.stream.read_u16().await?),
            127 => self.stream.read_u64().await?,
            len => u64::from(len),
        };
        let mut payload = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut payload).await?;
        Ok(match first & 0x0f {
            TEXT => Got::Frame(serde_json::from_slice(&payload).unwrap()),
            CLOSE => Got::Close(u16::from_be_bytes([payload[0], payload[1]])),
            PING => Got::Ping(payload),
            PONG => Got::Pong(payload),
            other => panic!("an unexpected frame: {other:#x}"),
        })
    }

    /// The next frame of a type.
    pub async fn of_type(&mut self, kind: &str) -> Value {
        loop {
            match self.next().await {
                Got::Frame(frame) if frame["type"] == kind => return frame,
                Got::Frame(_) | Got::Ping(_) | Got::Pong(_) => {}
                end => panic!("instead of {kind}: {end:?}"),
            }
        }
    }

    /// The next thing, which must be a refusal: its code and text.
    pub async fn refusal(&mut self) -> (String, String) {
        match self.next().await {
            Got::Frame(frame) if frame["type"] == "error" => (
                frame["code"].as_str().unwrap().to_owned(),
                frame["message"].as_str().unwrap().to_owned(),
            ),
            other => panic!("no refusal: {other:?}"),
        }
    }

    /// Reads to the end; the close code.
    pub async fn end(&mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Got::Close(code) => return Some(code),
                Got::End => return None,
                Got::Frame(_) | Got::Ping(_) | Got::Pong(_) => {}
            }
        }
    }

    /// The body of an answer that is no upgrade.
    pub async fn body(&mut self) -> String {
        let mut body = String::new();
        timeout(PATIENCE, self.stream.read_to_string(&mut body))
            .await
            .unwrap()
            .unwrap();
        body
    }
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

/// The header of a masked frame that announces `len` bytes.
pub fn header(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(0x80 | len as u8),
        126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}
