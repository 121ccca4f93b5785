//! A network that a test can cut: connections to the broker go through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Forwards to the broker until it is cut; cut, it takes nobody.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    forwarding: Mutex<Option<JoinHandle<()>>>,
}

impl Proxy {
    pub(crate) async fn start(broker: &str) -> std::io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let forwarding = Mutex::new(Some(forward(listener, broker)));
        Ok(Arc::new(Self { address, forwarding }))
    }

    /// Ends every connection at once, with nothing flushed, and refuses new ones.
    pub(crate) fn cut(&self) {
        let forwarding = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(forwarding) = &*forwarding {
            forwarding.abort();
        }
    }

    /// Lets connections through again.
    pub(crate) async fn mend(&self, broker: &str) -> std::io::Result<()> {
        let before = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = before {
            // Its listener has the address until it has ended.
            let _ = before.await;
        }
        let listener = TcpListener::bind(self.address).await?;
        let mut forwarding = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        *forwarding = Some(forward(listener, broker));
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn forward(listener: TcpListener, broker: &str) -> JoinHandle<()> {
    let broker = broker.to_owned();
    tokio::spawn(async move {
        // Dropped with this task, and all connections with it.
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            let broker = broker.clone();
            connections.spawn(async move {
                let Ok(mut far) = TcpStream::connect(broker).await else { return };
                let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
            while connections.try_join_next().is_some() {}
        }
    })
}
