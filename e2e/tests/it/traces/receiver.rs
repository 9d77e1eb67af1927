//! A receiver of OTLP over gRPC that keeps what it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use testbed::Certificate;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// A span, and the program that it is of.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub span: Span,
}

impl Seen {
    /// An attribute, as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }

    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(is) => Some(is.to_string()),
        other => Some(format!("{other:?}")),
    }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Seen>>>);

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let service = attribute(&resource.attributes, "service.name").unwrap_or_default();
            for span in of_resource
                .scope_spans
                .into_iter()
                .flat_map(|of_scope| of_scope.spans)
            {
                let service = service.clone();
                kept.push(Seen { service, span });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Ended when dropped.
pub struct Receiver {
    kept: Kept,
    address: SocketAddr,
    scheme: &'static str,
    over: CancellationToken,
}

impl Receiver {
    /// On a port of this machine.
    pub async fn start(address: SocketAddr) -> Self {
        Self::start_with(address, None).await
    }

    /// The same, with TLS where there is a certificate.
    pub async fn start_with(address: SocketAddr, certificate: Option<&Certificate>) -> Self {
        let (kept, over) = (Kept::default(), CancellationToken::new());
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = futures_util::stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let mut server = Server::builder();
        if let Some(certificate) = certificate {
            let [chain, key] =
                [certificate.chain(), certificate.key()].map(|path| std::fs::read(path).unwrap());
            let shown = ServerTlsConfig::new().identity(Identity::from_pem(chain, key));
            server = server.tls_config(shown).unwrap();
        }
        let serving = server
            .add_service(TraceServiceServer::new(kept.clone()))
            .serve_with_incoming_shutdown(incoming, over.clone().cancelled_owned());
        tokio::spawn(serving);
        Self {
            kept,
            address,
            scheme: certificate.map_or("http", |_| "https"),
            over,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Everything so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.kept.0.lock().unwrap().clone()
    }

    /// The spans of a trace so far.
    pub fn trace(&self, id: &str) -> Vec<Seen> {
        let seen = self.seen().into_iter();
        seen.filter(|seen| seen.trace() == id).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.over.cancel();
    }
}
