//! What goes wrong, and when: a list that tests share with the storage and change while it runs.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The kinds of calls that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `open`, whatever the mode.
    Open,
    /// `read_at`.
    Read,
    /// `write_all_at` and `write_reserved`.
    Write,
    /// `truncate` and `reserve`.
    Truncate,
    /// `sync_data` and `sync_all` of files.
    Sync,
    /// `sync_dir`.
    SyncDir,
    /// `rename`.
    Rename,
    /// `remove` and `remove_dir_all`.
    Remove,
    /// `create_dir_all`.
    CreateDir,
    /// `list` and `exists`.
    List,
    /// `lock_file` and taking a lock.
    Lock,
    /// `shared_page`.
    Page,
    /// `sync` of a shared page.
    PageSync,
    /// `bell` and `rope`.
    Bell,
    /// Every one of the above.
    Any,
}

/// One thing that goes wrong.
///
/// ```
/// use busline_log::storage::{Call, Fault};
/// use std::io::ErrorKind;
///
/// // The third write into a segment stores 100 bytes and reports that the disk is full; once.
/// let fault = Fault::new(Call::Write, ErrorKind::StorageFull).on(".seg").after(2).storing(100);
/// # let _ = fault;
/// ```
#[derive(Debug, Clone)]
pub struct Fault {
    call: Call,
    error: io::ErrorKind,
    part_of_path: String,
    skip: u64,
    times: u64,
    stored: usize,
    gate: Option<Gate>,
}

impl Fault {
    /// The next call of this kind fails, once. `ErrorKind::Other` stands for EIO.
    pub fn new(call: Call, error: io::ErrorKind) -> Self {
        let part_of_path = String::new();
        Self { call, error, part_of_path, skip: 0, times: 1, stored: 0, gate: None }
    }

    /// The next call of this kind stops at a gate until the test opens it, and then succeeds.
    pub fn hold(call: Call, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..Self::new(call, io::ErrorKind::Other) }
    }

    /// Only on paths that contain this text.
    #[must_use]
    pub fn on(self, part_of_path: impl Into<String>) -> Self {
        Self { part_of_path: part_of_path.into(), ..self }
    }

    /// So many of these calls succeed first.
    #[must_use]
    pub fn after(self, calls: u64) -> Self {
        Self { skip: calls, ..self }
    }

    /// So many of these calls fail, one after the other.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    /// All of these calls fail, until [`FaultPlan::clear`].
    #[must_use]
    pub fn always(self) -> Self {
        self.times(u64::MAX)
    }

    /// Of a write that fails, the first so many bytes are stored: a short write.
    #[must_use]
    pub fn storing(self, bytes: usize) -> Self {
        Self { stored: bytes, ..self }
    }

    fn matches(&self, call: Call, path: &Path) -> bool {
        (self.call == call || self.call == Call::Any)
            && (self.part_of_path.is_empty() || path.to_string_lossy().contains(&self.part_of_path))
    }
}

/// Stops a call in the middle of what a thread does, so that a test can arrange who comes first.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    shared: Arc<(Mutex<GateState>, Condvar)>,
}

#[derive(Debug, Default)]
struct GateState {
    arrived: bool,
    open: bool,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits until a call has arrived at the gate.
    pub fn wait_for_arrival(&self) {
        drop(self.wait_while(|state| !state.arrived));
    }

    /// Whether a call has arrived at the gate.
    pub fn has_arrived(&self) -> bool {
        self.state().arrived
    }

    /// Lets the call go on, and all that come later.
    pub fn open(&self) {
        self.state().open = true;
        self.shared.1.notify_all();
    }

    fn pass(&self) {
        self.state().arrived = true;
        self.shared.1.notify_all();
        drop(self.wait_while(|state| !state.open));
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, waiting: impl Fn(&GateState) -> bool) -> MutexGuard<'_, GateState> {
        let waited = self.shared.1.wait_while(self.state(), |state| waiting(state));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The faults to come, shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<Fault>,
    calls: BTreeMap<Call, u64>,
    hits: u64,
    space: Option<u64>,
}

/// How a call fails.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: io::Error,
    /// The bytes of a write that are stored all the same.
    pub(super) stored: usize,
}

impl FaultPlan {
    /// Adds a fault. Of several that match a call, the one added first decides.
    pub fn add(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Forgets all faults, and the bound of the space.
    pub fn clear(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.space = None;
    }

    /// How many bytes files may still grow by, all together, before writes fail with `StorageFull` after
    /// having stored what fits; none: as many as they like. Cutting and removing files gives space back.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// The space that is left, where it is bounded.
    pub fn space(&self) -> Option<u64> {
        self.state().space
    }

    /// How many calls of a kind there were, those that failed included; `Call::Any`: of all kinds.
    pub fn calls(&self, call: Call) -> u64 {
        let state = self.state();
        match call {
            Call::Any => state.calls.values().sum(),
            call => state.calls.get(&call).copied().unwrap_or(0),
        }
    }

    /// How many calls failed by a fault or for want of space.
    pub fn hits(&self) -> u64 {
        self.state().hits
    }

    /// Counts a call, and says whether it fails.
    pub(super) fn strike(&self, call: Call, path: &Path) -> Option<Failure> {
        let fault = self.next_fault(call, path)?;
        if let Some(gate) = fault.gate {
            gate.pass();
            return None;
        }
        let text = format!("injected fault ({:?}) in {call:?} of {}", fault.error, path.display());
        Some(Failure { error: io::Error::new(fault.error, text), stored: fault.stored })
    }

    fn next_fault(&self, call: Call, path: &Path) -> Option<Fault> {
        let mut state = self.state();
        *state.calls.entry(call).or_insert(0) += 1;
        let fault = state.faults.iter_mut().find(|fault| fault.matches(call, path))?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        if fault.times != u64::MAX {
            fault.times -= 1;
        }
        let found = fault.clone();
        state.faults.retain(|fault| fault.times > 0);
        state.hits += u64::from(found.gate.is_none());
        Some(found)
    }

    /// As [`FaultPlan::strike`], for calls that are done or not done.
    pub(super) fn check(&self, call: Call, path: &Path) -> io::Result<()> {
        self.strike(call, path).map_or(Ok(()), |failure| Err(failure.error))
    }

    /// Takes space for a file to grow; the bytes that are missing.
    pub(super) fn take_space(&self, bytes: u64) -> u64 {
        let mut state = self.state();
        let Some(space) = &mut state.space else { return 0 };
        let missing = bytes.saturating_sub(*space);
        *space = space.saturating_sub(bytes);
        state.hits += u64::from(missing > 0);
        missing
    }

    pub(super) fn give_space(&self, bytes: u64) {
        if let Some(space) = &mut self.state().space {
            *space = space.saturating_add(bytes);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
