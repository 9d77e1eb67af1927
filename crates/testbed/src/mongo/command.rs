//! One command to one member, over a connection of its own.
//!
//! A driver looks for the primary, keeps connections and retries; what starts and breaks the members wants none of that.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::Document;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(10);
const OP_MSG: i32 = 2013;
/// Length, request id, the id answered to and the code, four bytes each.
const HEADER: usize = 16;
/// Flags and the kind of the only section: a document.
const PRELUDE: usize = 5;
const ANSWER_MAX: usize = 16 << 20;

pub(crate) async fn run(
    addr: SocketAddr,
    database: &str,
    mut command: Document,
) -> Result<Document> {
    command.insert("$db", database);
    let answer = timeout(WITHIN, exchange(addr, &command))
        .await
        .with_context(|| format!("no answer from {addr} within {WITHIN:?}"))?
        .with_context(|| format!("cannot ask {addr}"))?;
    match answer.get("ok").and_then(bson::Bson::as_f64) {
        Some(1.0) => Ok(answer),
        _ => bail!("{addr} says: {answer}"),
    }
}

async fn exchange(addr: SocketAddr, command: &Document) -> Result<Document> {
    let body = command.to_vec()?;
    let len = i32::try_from(HEADER + PRELUDE + body.len())?;
    let mut request = Vec::new();
    for word in [len, 1, 0, OP_MSG, 0] {
        request.extend(word.to_le_bytes());
    }
    request.push(0);
    request.extend(body);

    let mut socket = TcpStream::connect(addr).await?;
    socket.write_all(&request).await?;
    let mut header = [0; HEADER];
    socket.read_exact(&mut header).await?;
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    ensure!(
        (HEADER + PRELUDE..ANSWER_MAX).contains(&len),
        "an answer of {len} bytes"
    );
    let mut answer = vec![0; len - HEADER];
    socket.read_exact(&mut answer).await?;
    Ok(Document::from_reader(&answer[PRELUDE..])?)
}
