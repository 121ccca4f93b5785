//! A network that a test can cut: connections to the broker go through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// Forwards to the broker until it is cut; cut, it takes nobody.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    forwarding: Mutex<Option<Forwarding>>,
}

/// What becomes of a connection after its frames.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    Cut,
    /// Nothing comes any more, and what is sent is taken.
    Stall,
}

/// Ends, with all connections, when `stop` is dropped.
#[derive(Debug)]
struct Forwarding {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(broker: &str) -> std::io::Result<Arc<Self>> {
        Self::start_with(broker, u64::MAX, Then::Cut).await
    }

    /// Lets so many frames of the broker through on each connection.
    pub(crate) async fn start_with(
        broker: &str,
        frames_max: u64,
        then: Then,
    ) -> std::io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let forwarding = Mutex::new(Some(forward(listener, broker, frames_max, then)));
        Ok(Arc::new(Self { address, forwarding }))
    }

    /// Ends every connection at once, with nothing flushed, and refuses new ones; when it returns, nothing
    /// gets through any more.
    pub(crate) async fn cut(&self) {
        let forwarding = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Forwarding { stop, task }) = forwarding {
            drop(stop);
            task.await.unwrap();
        }
    }

    /// Lets connections through again.
    pub(crate) async fn mend(&self, broker: &str) -> std::io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        let mut forwarding = self.forwarding.lock().unwrap_or_else(PoisonError::into_inner);
        *forwarding = Some(forward(listener, broker, u64::MAX, Then::Cut));
        Ok(())
    }
}

fn forward(listener: TcpListener, broker: &str, frames_max: u64, then: Then) -> Forwarding {
    let broker = broker.to_owned();
    let (stop, mut stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    let Ok((near, _)) = accepted else { break };
                    connections.spawn(connection(near, broker.clone(), frames_max, then));
                }
            }
        }
        drop(listener);
        // Waits for their ends: what was read before may still be on its way in another thread.
        connections.shutdown().await;
    });
    Forwarding { stop, task }
}

async fn connection(mut near: TcpStream, broker: String, frames_max: u64, then: Then) {
    let Ok(mut far) = TcpStream::connect(broker).await else { return };
    let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    tokio::select! {
        _ = tokio::io::copy(&mut near_in, &mut far_out) => {}
        () = async {
            let copied = frames(&mut far_in, &mut near_out, frames_max).await;
            if copied.is_ok() && matches!(then, Then::Stall) {
                std::future::pending::<()>().await;
            }
        } => {}
    }
}

/// Copies whole frames: type, channel, length, payload, end; section 4.2.3 of AMQP 0-9-1.
async fn frames(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    max: u64,
) -> std::io::Result<()> {
    for _ in 0..max {
        let mut head = [0; 7];
        from.read_exact(&mut head).await?;
        let [.., a, b, c, d] = head;
        let mut rest = vec![0; u32::from_be_bytes([a, b, c, d]) as usize + 1];
        from.read_exact(&mut rest).await?;
        to.write_all(&[&head[..], &rest].concat()).await?;
    }
    Ok(())
}
