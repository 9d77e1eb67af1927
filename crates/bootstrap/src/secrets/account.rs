//! How a pod reaches Kubernetes.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::http::{Http, Trust};

/// Where Kubernetes puts it.
const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The service account of a pod, and where the API is.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    folder: PathBuf,
    server: String,
    namespace: String,
}

impl ServiceAccount {
    /// That of the pod in which this program runs.
    ///
    /// # Errors
    /// Where there is none.
    pub fn of_pod() -> Result<Self> {
        let variable = |name| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.with_context(|| format!("kubernetes: {name} is not set; this runs in a pod"))
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host
        };
        Self::new(FOLDER.into(), format!("https://{host}:{port}"))
    }

    /// With its files in a folder: `namespace`, `token`, `ca.crt`.
    ///
    /// # Errors
    /// When the folder does not tell the namespace.
    pub fn new(folder: PathBuf, server: String) -> Result<Self> {
        let file = folder.join("namespace");
        let namespace = fs::read_to_string(&file).with_context(|| {
            let shown = file.display();
            format!(
                "kubernetes: {shown} cannot be read; the pod needs the token of its service account"
            )
        })?;
        Ok(Self {
            namespace: namespace.trim().to_owned(),
            folder,
            server,
        })
    }

    pub(super) fn http(&self) -> Result<Http, String> {
        let file = self.folder.join("token");
        let token = fs::read_to_string(&file)
            .map_err(|why| format!("{} cannot be read: {why}", file.display()))?;
        let authority = self.folder.join("ca.crt");
        let authorization = format!("Bearer {}", token.trim());
        Http::new(
            self.server.clone(),
            authorization,
            &Trust::Authorities(&authority),
        )
    }

    pub(super) fn secret_path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{name}", self.namespace)
    }
}
