//! Encrypted connections and users: whom they trust, and what they say where they do not.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busline_core::transport::{Connect, Role};
use busline_core::{Error, ErrorKind};

use super::broker::{Broker, directory};

/// The ports of TLS and of users over it, and whom to trust; `None`, said aloud, where it cannot be shown.
fn secure() -> Option<(String, String, String)> {
    let broker = Broker::shared()?;
    let ca = directory("BUSLINE_TEST_KAFKA_DIR", "busline-kafka")?.join("ca.pem");
    if !busline_transports::schemes().any(|scheme| scheme == "kafkas") {
        println!("skip: this build has no TLS for Kafka, its feature is kafka-tls");
        return None;
    }
    let (_, port) = broker.address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let at = |port: u16| format!("localhost:{port}");
    Some((at(port + 2), at(port + 3), ca.display().to_string()))
}

async fn connect(url: &str) -> Result<(), Error> {
    let transport = busline_transports::open(url)?;
    transport.connect(Connect::new(Role::Publish)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_reached_by_tls_and_only_where_its_certificate_is_trusted() {
    let Some((tls, _, ca)) = secure() else { return };
    connect(&format!("kafkas://{tls}?ca={ca}")).await.unwrap();
    let error = connect(&format!("kafkas://{tls}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("?ca="), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_told_apart_and_no_secret_is_told() {
    let Some((_, sasl, ca)) = secure() else { return };
    connect(&format!("kafkas://tester:busline-secret@{sasl}?ca={ca}")).await.unwrap();
    let error = connect(&format!("kafkas://tester:hush@{sasl}?ca={ca}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
}

/// Speaks TLS with a certificate that was good until some years ago; returns its port and whom to trust.
async fn expired(trusted: &std::path::Path) -> u16 {
    use std::sync::Arc;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::PrivateKeyDer;

    let key = rcgen::KeyPair::generate().unwrap();
    let mut of = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    of.not_before = rcgen::date_time_ymd(2019, 1, 1);
    of.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let cert = of.self_signed(&key).unwrap();
    let lines = STANDARD.encode(cert.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n");
    std::fs::write(trusted, pem).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            drop(acceptor.accept(near).await);
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_told() {
    if secure().is_none() {
        return;
    }
    let ca = tempfile::NamedTempFile::new().unwrap();
    let port = expired(ca.path()).await;
    let url = format!("kafkas://localhost:{port}?ca={}", ca.path().display());
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    // The library says that it cannot be verified, not why.
    assert!(error.to_string().contains("certificate could not be verified"), "{error}");
    assert!(error.to_string().contains("when it expires"), "{error}");
}
