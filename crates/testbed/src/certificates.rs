//! Certificates that only a test trusts.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

/// An authority that signs certificates. Its files go with the last value that uses them.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: Arc<TempDir>,
}

/// What a server shows and proves, as the files that it is started with.
#[derive(Debug, Clone)]
pub struct Certificate {
    authority: PathBuf,
    chain: PathBuf,
    key: PathBuf,
    /// Certificate and key in one.
    both: PathBuf,
    _folder: Arc<TempDir>,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let folder = Arc::new(tempfile::Builder::new().prefix("darda-ca-").tempdir()?);
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority of a test");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        fs::write(folder.path().join("ca.pem"), certificate.pem())?;
        let issuer = Issuer::new(params, key);
        Ok(Self { issuer, folder })
    }

    /// Its own certificate in PEM: who trusts it trusts all that it has signed.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for a server with these names or addresses.
    pub fn certify(&self, names: &[&str]) -> Result<Certificate> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let name = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let folder = tempfile::Builder::new()
            .prefix("server-")
            .tempdir_in(self.folder.path())?;
        let folder = folder.keep();
        let (chain, secret) = (certificate.pem(), key.serialize_pem());
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            write_secret(&path, text)?;
            Ok(path)
        };
        Ok(Certificate {
            authority: self.file(),
            chain: file("chain.pem", &chain)?,
            key: file("key.pem", &secret)?,
            both: file("both.pem", &format!("{chain}{secret}"))?,
            _folder: Arc::clone(&self.folder),
        })
    }
}

impl Certificate {
    /// The certificate of the authority.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }

    /// The certificate in PEM, for who serves something else than what is here.
    pub fn chain(&self) -> &Path {
        &self.chain
    }

    /// The key to it in PEM.
    pub fn key(&self) -> &Path {
        &self.key
    }

    pub(crate) fn both(&self) -> &Path {
        &self.both
    }
}

/// Writes a file that nobody else may read.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
