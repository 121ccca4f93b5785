//! Those of one process who use the same database: a commit of one wakes the others at once.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

/// Everybody in this process who has one database open.
#[derive(Default)]
pub(super) struct Hub {
    bells: Mutex<Vec<(u64, Bell)>>,
    next: AtomicU64,
}

/// Called after somebody else's commit; must not block.
type Bell = Arc<dyn Fn() + Send + Sync>;

static HUBS: LazyLock<Mutex<HashMap<PathBuf, Weak<Hub>>>> = LazyLock::new(Mutex::default);

/// A seat at a hub; leaves with its drop.
pub(super) struct Seat {
    hub: Arc<Hub>,
    id: u64,
}

impl Seat {
    /// A seat at the hub of this database, whose bell rings when others have written.
    pub(super) fn take(path: &Path, bell: impl Fn() + Send + Sync + 'static) -> Self {
        let mut hubs = HUBS.lock().unwrap_or_else(PoisonError::into_inner);
        hubs.retain(|_, hub| hub.strong_count() > 0);
        let hub = hubs.get(path).and_then(Weak::upgrade).unwrap_or_else(|| {
            let hub = Arc::<Hub>::default();
            hubs.insert(path.to_owned(), Arc::downgrade(&hub));
            hub
        });
        drop(hubs);
        let id = hub.next.fetch_add(1, Ordering::Relaxed);
        hub.bells.lock().unwrap_or_else(PoisonError::into_inner).push((id, Arc::new(bell)));
        Self { hub, id }
    }

    /// Wakes everybody else.
    pub(super) fn ring(&self) {
        let bells = self.hub.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.iter().filter(|(id, _)| *id != self.id).for_each(|(_, bell)| bell());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut bells = self.hub.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|(id, _)| *id != self.id);
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat").field("id", &self.id).finish_non_exhaustive()
    }
}
