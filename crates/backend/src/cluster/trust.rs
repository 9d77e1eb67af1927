//! Which certificates a server may show, and what to say when it shows another one.
//!
//! The public authorities are those of Mozilla's list, which is compiled in: what the machine trusts makes no difference.
//! Redis and MongoDB have their drivers' own ways to say the same; what is here is for RabbitMQ and for errors.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::settings::{Endpoint, Server};

/// The authorities in a PEM file.
///
/// # Errors
/// When it cannot be read, has none, or one that is no certificate.
pub(super) fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let shown = file.display();
    let text = std::fs::read(file).map_err(|why| format!("cannot read {shown}: {why}"))?;
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let added = certificate
            .map_err(|why| why.to_string())
            .and_then(|certificate| store.add(certificate).map_err(|why| why.to_string()));
        added.map_err(|why| format!("{shown} has a bad certificate: {why}"))?;
    }
    if store.is_empty() {
        return Err(format!("{shown} has no certificate in PEM"));
    }
    Ok(store)
}

/// How to greet a server over TLS.
///
/// # Errors
/// As [`authorities`].
pub(super) fn client(endpoint: &Endpoint) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = match &endpoint.ca_file {
        Some(file) => authorities(file)?,
        None => RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| why.to_string())?
        .with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    if !endpoint.verify {
        let anybody = Arc::new(Anybody(provider));
        config.dangerous().set_certificate_verifier(anybody);
    }
    Ok(config)
}

/// Takes every certificate. The server must still have the key to it.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Server {
    /// Why there is no connection, with what would be right where that is known. The drivers keep little more of a reason
    /// than its text.
    pub fn explain(&self, why: &str) -> String {
        let says = |parts: &[&str]| parts.iter().any(|part| why.contains(part));
        let Self { url, ca_file, .. } = self;
        let advice = if says(&["NotValidForName", "not valid for name"]) {
            format!("its certificate is for another name than {url} has; use a name that it is for")
        } else if says(&["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"]) {
            format!(
                "its certificate is of an authority that is not trusted; {ca_file} must name a file with the right one"
            )
        } else if says(&[
            "Expired",
            "certificate expired",
            "NotValidYet",
            "not valid yet",
        ]) {
            "its certificate is not good at this time; it needs another one, or the clock is wrong"
                .to_owned()
        } else if says(&["invalid peer certificate"]) {
            "its certificate is not good".to_owned()
        } else if says(&["InvalidContentType"]) {
            format!("it does not speak TLS at the address of {url}")
        } else if says(&[
            "WRONGPASS",
            "NOAUTH",
            "Password authentication failed",
            "ACCESS_REFUSED",
            "Authentication failed",
        ]) {
            format!("it refuses the user or the password of {url}")
        } else {
            return why.to_owned();
        };
        format!("{advice} ({why})")
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::REDIS;
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        assert!(authorities(&file).unwrap_err().contains("cannot read"));
        std::fs::write(&file, "nothing").unwrap();
        assert!(authorities(&file).unwrap_err().contains("no certificate"));
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, bad).unwrap();
        assert!(authorities(&file).unwrap_err().contains("bad certificate"));
    }

    #[test]
    fn what_is_not_known_is_left_as_it_is() {
        assert_eq!(REDIS.explain("Connection refused"), "Connection refused");
    }
}
