//! From an HTTP upgrade to a connection of our own.
//!
//! The handshake is checked by actix-http and the connection is then taken over from it: actix's own path keeps a read
//! and a write buffer per connection, copies each message once per recipient, and cannot end a connection whose client
//! has stopped reading.

use std::collections::HashMap;
use std::rc::Rc;

use actix_http::ws::{hash_key, verify_handshake};
use actix_http::{HttpMessage as _, Request, h1};
use actix_web::http::header;
use actix_web::web::Query;
use protocol::{ErrorCode, UserId};
use rest::{PROBLEM_JSON, Problem, REQUEST_ID_HEADER, Refusal};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::Process;
use crate::gateway::serve;
use crate::hub::Hub;

/// A request for an upgrade, as actix-http hands it over.
pub type Upgrade = (Request, actix_codec::Framed<TcpStream, h1::Codec>);

/// Answers an upgrade request and, if it is right, serves the connection on this thread.
///
/// # Errors
/// Never: actix wants a type that could be answered, but here nobody is left to answer.
pub async fn upgrade(hub: Rc<Hub>, upgrade: Upgrade) -> Result<(), actix_web::Error> {
    if let Err(error) = shake_hands(hub, upgrade).await {
        tracing::debug!(%error, "a client left during the handshake");
    }
    Ok(())
}

async fn shake_hands(hub: Rc<Hub>, (request, framed): Upgrade) -> std::io::Result<()> {
    let parts = framed.into_parts();
    let mut stream = parts.io;
    // Almost always empty; the buffer it came in is large and must not live as long as the connection.
    let first = parts.read_buf.to_vec();
    drop(parts.read_buf);
    match handshake(&hub.process, &request) {
        Ok((accept, user)) => {
            let head = format!(
                "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                 sec-websocket-accept: {accept}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            hub.start();
            // The future of the HTTP connection is large; it ends here.
            actix_rt::spawn(async move { serve(&hub, stream, first, user).await });
        }
        Err(refusal) => {
            hub.process.metrics.refused(refusal.code);
            let answer = refusal_over_http(&request, &refusal);
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await?;
        }
    }
    Ok(())
}

/// What an upgrade is refused with, in the form that every other refusal over HTTP has.
fn refusal_over_http(request: &Request, refusal: &Refusal) -> String {
    let problem = Problem::from(refusal);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let challenge = match refusal.code {
        ErrorCode::Unauthenticated => "www-authenticate: Darda realm=\"open\"\r\n",
        _ => "",
    };
    let id = rest::request_id(request.headers());
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\
         {}: {}\r\ncache-control: no-store\r\nconnection: close\r\n{challenge}\r\n{body}",
        problem.status,
        problem.title,
        body.len(),
        REQUEST_ID_HEADER,
        id.to_str().unwrap_or_default(),
    )
}

/// Other schemes are for a proxy in front of the server.
fn is_bearer(authorization: &header::HeaderValue) -> bool {
    let scheme = authorization.as_bytes().get(..7);
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

/// Checks path, origin, the WebSocket headers and, in open mode, a name on the URL.
fn handshake(process: &Process, request: &Request) -> Result<(String, Option<UserId>), Refusal> {
    if request.path() != "/v1/ws" {
        let text = "sockets are at /v1/ws";
        return Err(Refusal::new(ErrorCode::NotFound, text));
    }
    let headers = request.headers();
    if let Some(origin) = headers.get(header::ORIGIN) {
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        if !origin
            .to_str()
            .is_ok_and(|origin| process.origins.allow(origin, host))
        {
            let text = "pages of this origin may not open sockets here; see DARDA_ALLOWED_ORIGINS";
            return Err(Refusal::new(ErrorCode::Forbidden, text));
        }
    }
    if headers.get(header::AUTHORIZATION).is_some_and(is_bearer) {
        let text = "this server is in open mode and knows no tokens: say `user` in hello";
        return Err(Refusal::new(ErrorCode::Unauthenticated, text));
    }
    verify_handshake(request.head())
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(|key| hash_key(key.as_bytes()))
        .and_then(|hash| String::from_utf8(hash.to_vec()).ok())
        .ok_or_else(|| Refusal::new(ErrorCode::BadRequest, "sec-websocket-key: is missing"))?;
    let query = request.uri().query().unwrap_or_default();
    let query = Query::<HashMap<String, String>>::from_query(query)
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, error.to_string()))?;
    let user = query
        .get("id")
        .map(|id| UserId::parse(id))
        .transpose()
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, format!("id: {error}")))?;
    Ok((key, user))
}
