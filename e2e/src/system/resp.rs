//! One command to one Redis, over a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(10);

/// Asks; the answer, where it is a line, a number or one text. Nothing is an empty text.
///
/// # Errors
/// When Redis is away, refuses, or answers with something else.
pub async fn command(redis: SocketAddr, words: &[&str]) -> Result<String> {
    let answer = timeout(WITHIN, exchange(redis, words)).await;
    let answer = answer.with_context(|| format!("{redis} does not answer"))?;
    answer.with_context(|| format!("{words:?} to {redis}"))
}

async fn exchange(redis: SocketAddr, words: &[&str]) -> Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(redis).await?);
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    match line.split_at_checked(1) {
        Some(("+" | ":", rest)) => Ok(rest.to_owned()),
        Some(("$", "-1")) => Ok(String::new()),
        Some(("$", length)) => {
            let mut text = vec![0; length.parse()?];
            stream.read_exact(&mut text).await?;
            Ok(String::from_utf8(text)?)
        }
        _ => bail!("it answers {line:?}"),
    }
}
