//! Encrypted connections: whom they trust, and what they say where they do not.

use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use busline_core::ErrorKind;
use busline_core::transport::{Connect, Role};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::broker::Broker;
use super::faults::{PATIENCE, declare, join, link, message};

/// Speaks TLS as `localhost` before the broker, and writes whom to trust into a file; returns its port.
async fn terminate(broker: &Broker, trusted: &Path) -> u16 {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let lines = STANDARD.encode(cert.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n");
    std::fs::write(trusted, pem).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, address) = (listener.local_addr().unwrap().port(), broker.address());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (acceptor, address) = (acceptor.clone(), address.clone());
            tokio::spawn(async move {
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect(address).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_reached_by_tls_and_only_where_its_certificate_is_trusted() {
    let Some(broker) = Broker::shared() else { return };
    let vhost = broker.vhost();
    let ca = tempfile::NamedTempFile::new().unwrap();
    let port = terminate(&broker, ca.path()).await;
    let ca = format!("&ca={}", ca.path().display());
    let url = |host: &str, options: &str| {
        vhost.url(&format!("{host}:{port}"), options).replace("amqp://", "amqps://")
    };
    let link = link(&[url("localhost", &ca)]);
    declare(&link).await;
    for receipt in link.send(vec![message("hidden")].into()).await.unwrap() {
        tokio::time::timeout(PATIENCE, receipt).await.unwrap().unwrap();
    }
    let mut stream = join(&link).await;
    let came = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
    assert!(came.iter().all(|delivery| delivery.message.payload == "hidden"));
    // Nobody signed it that is trusted; and it is not of that name.
    for url in [url("localhost", ""), url("127.0.0.1", &ca)] {
        let connecting = busline_transports::open(&url).unwrap();
        let connected = connecting.connect(Connect::new(Role::Publish)).await;
        let error = connected.map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}
