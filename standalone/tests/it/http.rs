//! One HTTP request per connection.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::PATIENCE;

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON; null when there is none.
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks and reads until the server closes. A body of null is none.
pub async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    user: Option<&str>,
    body: Value,
) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    if let Some(user) = user {
        head += &format!("x-darda-user: {user}\r\n");
    }
    let body = if body.is_null() {
        String::new()
    } else {
        head += "content-type: application/json\r\n";
        body.to_string()
    };
    head += &format!("content-length: {}\r\n\r\n{body}", body.len());
    let mut bytes = Vec::new();
    let talk = async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_end(&mut bytes).await
    };
    timeout(PATIENCE, talk).await??;
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    Ok(Answer {
        status: status.unwrap_or_else(|| panic!("{head}")),
        body: body.to_owned(),
    })
}
