//! The memory transport passes every case; the form of a transport's test file.

use std::sync::Arc;
use std::time::Duration;

use busline_core::conformance::{self, Harness, Rig};
use busline_core::memory::{MemoryOptions, MemoryTransport};
use busline_core::transport::Transport;
use busline_core::{Clock, ManualClock, Result, Timestamp};
use futures_util::future::{BoxFuture, ready};

pub(crate) struct Memory {
    pub(crate) deduplicate_max: usize,
}

struct MemoryRig {
    transport: MemoryTransport,
    clock: ManualClock,
}

impl Harness for Memory {
    fn name(&self) -> String {
        format!("memory, remembering {} message ids", self.deduplicate_max)
    }

    fn rig(&self) -> BoxFuture<'_, Result<Box<dyn Rig>>> {
        let clock = ManualClock::new(Timestamp::from_unix_ms(1_517_963_499_650));
        let transport = MemoryTransport::with_options(MemoryOptions {
            clock: Arc::new(clock.clone()),
            deduplicate_max: self.deduplicate_max,
            ..MemoryOptions::default()
        });
        let rig: Box<dyn Rig> = Box::new(MemoryRig { transport, clock });
        Box::pin(ready(Ok(rig)))
    }
}

impl Rig for MemoryRig {
    fn transport(&self) -> Arc<dyn Transport> {
        // Whoever holds this handle can end sessions, so the link is ready for it.
        let _ = self.transport.broker();
        Arc::new(self.transport.clone())
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.clock.clone())
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn stop_broker(&self) -> BoxFuture<'_, Result<()>> {
        self.transport.broker().refuse_connects(true);
        self.transport.broker().restart();
        Box::pin(ready(Ok(())))
    }

    fn start_broker(&self) -> BoxFuture<'_, Result<()>> {
        self.transport.broker().refuse_connects(false);
        Box::pin(ready(Ok(())))
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(3)
    }

    fn reopen(&mut self) -> BoxFuture<'_, Result<()>> {
        self.transport.broker().restart();
        Box::pin(ready(Ok(())))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    for deduplicate_max in [0, 1000] {
        let memory = Memory { deduplicate_max };
        let report = conformance::run(&memory, |case| println!("{case}")).await;
        println!("{report}");
        assert!(report.is_success(), "{report}");
    }
}
