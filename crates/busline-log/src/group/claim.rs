//! Claiming: handing out what is ready again, then what is new.

use std::collections::HashSet;
use std::sync::Arc;

use crate::{Error, ErrorKind, KeySet, Record, Result, Scanner};

use super::journal::Txn;
use super::member::Member;
use super::op::{Claim, Op};
use super::runs::SeqRange;
use super::settle::ClaimId;
use super::shared::Shared;
use super::state::GroupState;
use super::time::Now;

/// One call looks at no more new records than this, and bytes of them, so that the group's lock is
/// held for milliseconds however few records match.
const EXAMINED_MAX: usize = 1 << 16;
const EXAMINED_BYTES_MAX: usize = 8 << 20;
/// A claim that does not wait takes records out of one frame of this length at most.
const READY_BYTES_MAX: u64 = 64 << 10;

/// Says by key and meta which records a group wants.
pub type Filter<'a> = dyn Fn(&[u8], &[u8]) -> bool + 'a;

/// Says by key and meta what orders a record: a hash, or nothing.
pub type OrderBy<'a> = dyn Fn(&[u8], &[u8]) -> Option<u64> + 'a;

/// What a member asks for.
#[derive(Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// The most records to hand out.
    pub records_max: usize,
    /// The most bytes of key, meta and value to hand out.
    pub bytes_max: usize,
    /// Whether the first record may be larger than that, so that one which never fits comes alone.
    pub first_may_exceed: bool,
    /// How long the member may hold them without renewing, in microseconds.
    pub lease_us: u64,
    /// Which records the group wants; what it does not want counts as settled. Must follow from the
    /// group's configuration alone.
    pub filter: &'a Filter<'a>,
    /// All keys of records that the filter can take, when it takes few and they are known: frames that have
    /// none of them are then left unread.
    pub keys: Option<&'a KeySet>,
    /// With it, a record waits as long as an earlier one of the same order is unsettled. Two orders
    /// with one hash only wait for each other more than they need to.
    pub order_by: Option<&'a OrderBy<'a>>,
}

impl std::fmt::Debug for ClaimRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClaimRequest")
            .field("records_max", &self.records_max)
            .field("bytes_max", &self.bytes_max)
            .field("lease_us", &self.lease_us)
            .field("ordered", &self.order_by.is_some())
            .finish_non_exhaustive()
    }
}

/// A record that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimed {
    /// Its sequence number.
    pub seq: u64,
    /// How many times it was handed out, this time included.
    pub attempts: u32,
}

/// What a claim came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimOutcome {
    /// The claim, to settle by. Means nothing when no record was handed out.
    pub claim: ClaimId,
    /// How many records were handed out.
    pub records: usize,
    /// How many bytes of key, meta and value they have.
    pub bytes: usize,
    /// It stopped at a bound of the request or of one call: there may be more at once.
    pub more: bool,
    /// It stopped at a record that is larger than the room that was left: there is more only once
    /// a request has room for it.
    pub no_room: bool,
    /// Nothing was handed out, because the group's configuration is not the one that the member
    /// made its filter of: [`Member::accept_config`], then claim again.
    pub config_changed: bool,
    /// After a claim that found nothing: what [`Member::wake_at_us`] says.
    pub wake_at_us: Option<u64>,
}

type Visit<'a> = dyn FnMut(Claimed, &Record<'_>) + 'a;

impl Member {
    /// Claims records for this member: those that are ready again first, then new ones.
    ///
    /// `visit` gets each record while the group is locked: it copies what it needs and calls
    /// nothing of the group. After an error nothing was claimed, and what was visited is void.
    ///
    /// # Errors
    /// `Lost` when the others took this member for dead: join again. `NotFound` when the group was
    /// deleted. `Damaged` when the log is, at the place where the group stands.
    pub fn claim(
        &mut self,
        request: &ClaimRequest<'_>,
        now: Now,
        visit: &mut Visit<'_>,
    ) -> Result<ClaimOutcome> {
        let shared = Arc::clone(&self.group.shared);
        if self.probe_is_due(now) {
            self.take_over(now)?;
        }
        let mut core = shared.lock();
        shared.refresh(&mut core)?;
        if let Some(outcome) = self.nothing_to_do(&shared, &core.state, now)? {
            return Ok(outcome);
        }
        let guard = shared.journal.lock_append()?;
        let txn = shared.begin(&mut core, guard, now)?;
        self.claim_in(&shared, txn, request, None, visit)
    }

    /// As [`Member::claim`], as far as neither others nor the medium have to be waited for, so that a thread
    /// may do it that must not wait: it hands out new records that lie in memory, and what it writes goes
    /// into a segment that is open. `None` when there may be more to do than that, or somebody else changes
    /// the group at this moment.
    ///
    /// # Errors
    /// As [`Member::claim`], which says the same.
    pub fn try_claim(
        &mut self,
        request: &ClaimRequest<'_>,
        now: Now,
        visit: &mut Visit<'_>,
    ) -> Result<Option<ClaimOutcome>> {
        let shared = Arc::clone(&self.group.shared);
        let Some(mut core) = shared.try_lock() else { return Ok(None) };
        // What others hold may be that of the dead, which is found out before anything is handed out.
        if !core.is_current(&shared.journal) || core.state.others_hold_claims(self.id) {
            return Ok(None);
        }
        if let Some(outcome) = self.nothing_to_do(&shared, &core.state, now)? {
            return Ok((!outcome.config_changed).then_some(outcome));
        }
        let Some(end) = self.ready_until(&shared, &core.state, now) else { return Ok(None) };
        let Some(guard) = shared.journal.try_lock_append_ready()? else { return Ok(None) };
        if guard.next_seq() != core.applied {
            return Ok(None);
        }
        let mut txn = shared.begin(&mut core, guard, now)?;
        txn.leave_compacting();
        self.claim_in(&shared, txn, request, Some(end), visit).map(Some)
    }

    /// Up to where new records lie in memory, when there is nothing to do but to hand them out.
    fn ready_until(&mut self, shared: &Shared, state: &GroupState, now: Now) -> Option<u64> {
        let is_behind =
            state.cursor < shared.main.next_seq() && self.ahead_at == Some(state.cursor);
        if !is_behind || state.is_due(now) || state.runs.claimable_seqs() > 0 {
            return None;
        }
        self.ahead.ready_until(READY_BYTES_MAX).filter(|&end| end > state.cursor)
    }

    /// The outcome of a claim that needs no transaction: what idle members see at each wake-up.
    fn nothing_to_do(
        &self,
        shared: &Shared,
        state: &GroupState,
        now: Now,
    ) -> Result<Option<ClaimOutcome>> {
        shared.check_alive(state)?;
        self.check_member(state)?;
        if let Some(outcome) = self.other_config(state) {
            return Ok(Some(outcome));
        }
        let full = shared.options.is_full(state);
        let new = state.cursor != shared.main.next_seq() && !full;
        let idle = !state.is_due(now) && !new && state.runs.claimable_seqs() == 0;
        let wake_at_us = self.wake_at(state, now.boot_us);
        Ok(idle.then(|| ClaimOutcome { wake_at_us, ..nothing(state) }))
    }

    fn claim_in(
        &mut self,
        shared: &Shared,
        mut txn: Txn<'_>,
        request: &ClaimRequest<'_>,
        ready_end: Option<u64>,
        visit: &mut Visit<'_>,
    ) -> Result<ClaimOutcome> {
        shared.check_alive(txn.state())?;
        self.check_member(txn.state())?;
        if let Some(outcome) = self.other_config(txn.state()) {
            shared.finish(txn)?;
            return Ok(outcome);
        }
        // A log that lost its end takes the numbers of what it lost never again, yet nothing may
        // hinge on that: the group goes back with it.
        let tail = shared.main.next_seq();
        if txn.state().cursor > tail {
            txn.push(&Op::Cut { to: tail })?;
        }
        if txn.is_due() {
            txn.push(&Op::Advance)?;
        }
        let mut picked = Picked::new(request, visit);
        self.pick_again(txn.state(), &mut picked)?;
        if !picked.vanished.is_empty() {
            // Before new ones are looked at: one that vanished holds nothing of its order back.
            txn.push(&Op::Vanish { seqs: picked.vanished.clone() })?;
        }
        let to = self.pick_new(shared, txn.state(), ready_end, &mut picked)?;
        let Picked { room, again, fresh, ordered, more, no_room, .. } = picked;
        let claim = ClaimId(txn.state().next_claim);
        if room.records > 0 || to != txn.state().cursor {
            let (member, until_us) = (self.id, txn.after(request.lease_us));
            txn.push(&Op::Claim(Claim { member, until_us, to, fresh, ordered, again }))?;
        }
        let idle = room.records == 0 && !more;
        let wake_at_us = if idle { self.wake_at(txn.state(), txn.stamp().boot_us) } else { None };
        shared.finish(txn)?;
        let (records, bytes) = (room.records, room.bytes);
        Ok(ClaimOutcome { claim, records, bytes, more, no_room, config_changed: false, wake_at_us })
    }

    /// Hands out ready records below the cursor.
    fn pick_again(&mut self, state: &GroupState, picked: &mut Picked<'_, '_>) -> Result<()> {
        let mut from = 0;
        while let Some((seqs, attempts)) = state.runs.next_claimable(from) {
            let mut seq = seqs.first;
            loop {
                match self.back.read(seq) {
                    Ok(Some(record)) => {
                        if !picked.room.fits(&record) {
                            picked.more = true;
                            picked.no_room = true;
                            return Ok(());
                        }
                        picked.take(attempts.saturating_add(1), &record);
                        push(&mut picked.again, SeqRange::one(seq));
                    }
                    Ok(None) => push(&mut picked.vanished, SeqRange::one(seq)),
                    Err(error) => match error.kind() {
                        ErrorKind::Removed { first } => {
                            let last = seqs.last.min(first.saturating_sub(1)).max(seq);
                            push(&mut picked.vanished, SeqRange::new(seq, last));
                            seq = last;
                        }
                        ErrorKind::Beyond { .. } => {
                            push(&mut picked.vanished, SeqRange::new(seq, seqs.last));
                            seq = seqs.last;
                        }
                        _ => return picked.or_later(error),
                    },
                }
                if seq >= seqs.last {
                    break;
                }
                seq += 1;
            }
            let Some(next) = seqs.last.checked_add(1) else { return Ok(()) };
            from = next;
        }
        Ok(())
    }

    /// Hands out new records, below `ready_end` if it is given, and returns the new cursor.
    fn pick_new(
        &mut self,
        shared: &Shared,
        state: &GroupState,
        ready_end: Option<u64>,
        picked: &mut Picked<'_, '_>,
    ) -> Result<u64> {
        let cursor = state.cursor;
        if picked.more || shared.options.is_full(state) {
            return Ok(cursor);
        }
        if self.ahead_at != Some(cursor) {
            self.ahead_at = None;
            if let Err(error) = self.seek(cursor) {
                return picked.or_later(error).map(|()| cursor);
            }
        }
        self.ahead_at = None;
        let mut to = cursor;
        let mut examined = 0;
        let mut examined_bytes = 0;
        let (unsettled_max, blocked_max) = shared.options.room(state);
        // Whose filters exclude the keys is not looked at among frames that are in memory.
        let keys = picked.room.request.keys.filter(|_| ready_end.is_none());
        let examined_end = keys.map(|_| cursor.saturating_add(EXAMINED_MAX as u64));
        let pass_end = examined_end.or(ready_end).unwrap_or(u64::MAX);
        loop {
            let full = picked.new_seqs() >= unsettled_max || picked.blocked >= blocked_max;
            if full
                || picked.room.is_full()
                || examined >= EXAMINED_MAX
                || to >= pass_end
                || examined_bytes >= EXAMINED_BYTES_MAX
            {
                let is_all = ready_end == Some(to) && to == shared.main.next_seq();
                picked.more = !full && !is_all;
                break;
            }
            let record = match next_of(&mut self.ahead, keys, pass_end) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    to = to.max(self.ahead.position());
                    break;
                }
                Err(error) if matches!(error.kind(), ErrorKind::Removed { .. }) => {
                    // Retention took what the scanner stood before.
                    to = to.max(self.ahead.seek_first()?);
                    continue;
                }
                Err(error) if examined == 0 => return picked.or_later(error).map(|()| cursor),
                // What comes before the bad place is good; the next call will meet it first.
                Err(_) => {
                    picked.more = true;
                    return Ok(to);
                }
            };
            examined += 1;
            examined_bytes += size(&record);
            if (picked.room.request.filter)(record.key, record.meta) {
                if !picked.room.fits(&record) {
                    // The scanner is past it now: the next call will seek.
                    picked.more = true;
                    picked.no_room = true;
                    return Ok(record.seq);
                }
                picked.pick(state, &record);
            }
            to = record.seq + 1;
        }
        self.ahead_at = Some(to);
        Ok(to)
    }

    fn seek(&mut self, cursor: u64) -> Result<()> {
        match self.ahead.seek(cursor) {
            Err(error) if matches!(error.kind(), ErrorKind::Removed { .. }) => {
                self.ahead.seek_first().map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    fn check_member(&self, state: &GroupState) -> Result<()> {
        if state.members.contains_key(&self.id) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Lost,
            "claim",
            "the other members took this one for dead, and what it held went to them; join again",
        )
        .with("group", &state.name)
        .with("member", format_args!("{:016x}", self.id)))
    }

    fn other_config(&self, state: &GroupState) -> Option<ClaimOutcome> {
        (self.config_epoch != state.config_epoch)
            .then(|| ClaimOutcome { config_changed: true, ..nothing(state) })
    }
}

/// The next record, behind frames below `end` that have none of the keys.
fn next_of<'a>(
    scanner: &'a mut Scanner,
    keys: Option<&KeySet>,
    end: u64,
) -> Result<Option<Record<'a>>> {
    if let Some(keys) = keys {
        scanner.pass_without(keys, end)?;
        return scanner.next();
    }
    scanner.next_where(end, |_, _| true)
}

fn nothing(state: &GroupState) -> ClaimOutcome {
    let claim = ClaimId(state.next_claim);
    ClaimOutcome {
        claim,
        records: 0,
        bytes: 0,
        more: false,
        no_room: false,
        config_changed: false,
        wake_at_us: None,
    }
}

/// How much of a request is used up.
struct Room<'r> {
    request: &'r ClaimRequest<'r>,
    records: usize,
    bytes: usize,
}

impl Room<'_> {
    fn is_full(&self) -> bool {
        self.records >= self.request.records_max || self.bytes >= self.request.bytes_max
    }

    fn fits(&self, record: &Record<'_>) -> bool {
        let first =
            self.request.first_may_exceed && self.records == 0 && self.request.records_max > 0;
        first || (!self.is_full() && size(record) <= self.request.bytes_max - self.bytes)
    }
}

/// What a claim has picked so far.
struct Picked<'r, 'v> {
    room: Room<'r>,
    visit: &'v mut Visit<'v>,
    again: Vec<SeqRange>,
    fresh: Vec<SeqRange>,
    fresh_seqs: u64,
    ordered: Vec<(u64, u64)>,
    /// How many of `ordered` wait.
    blocked: u64,
    /// The orders of `ordered`.
    orders: HashSet<u64>,
    vanished: Vec<SeqRange>,
    more: bool,
    no_room: bool,
}

impl<'r, 'v> Picked<'r, 'v> {
    fn new(request: &'r ClaimRequest<'r>, visit: &'v mut Visit<'v>) -> Self {
        Self {
            room: Room { request, records: 0, bytes: 0 },
            visit,
            again: Vec::new(),
            fresh: Vec::new(),
            fresh_seqs: 0,
            ordered: Vec::new(),
            blocked: 0,
            orders: HashSet::new(),
            vanished: Vec::new(),
            more: false,
            no_room: false,
        }
    }

    fn new_seqs(&self) -> u64 {
        self.fresh_seqs + self.ordered.len() as u64
    }

    /// Takes a new record, unless it has to wait for an earlier one of its order.
    fn pick(&mut self, state: &GroupState, record: &Record<'_>) {
        let order = self.room.request.order_by.and_then(|of| of(record.key, record.meta));
        let Some(order) = order else {
            self.take(1, record);
            push(&mut self.fresh, SeqRange::one(record.seq));
            self.fresh_seqs += 1;
            return;
        };
        // 0 stands for no order in the records of the group.
        let order = order.max(1);
        let waits = state.runs.order_is_held(order) || !self.orders.insert(order);
        self.ordered.push((record.seq, order));
        if waits {
            self.blocked += 1;
        } else {
            self.take(1, record);
        }
    }

    fn take(&mut self, attempts: u32, record: &Record<'_>) {
        self.room.records += 1;
        self.room.bytes = self.room.bytes.saturating_add(size(record));
        (self.visit)(Claimed { seq: record.seq, attempts }, record);
    }

    /// An error after something was picked can wait for the next call, which will meet it again.
    fn or_later(&mut self, error: Error) -> Result<()> {
        if self.room.records == 0 && self.vanished.is_empty() {
            return Err(error);
        }
        self.more = true;
        Ok(())
    }
}

fn size(record: &Record<'_>) -> usize {
    record.key.len().saturating_add(record.meta.len()).saturating_add(record.value.len())
}

/// Adds a range that lies above all others, joined to the last one if it can be.
fn push(ranges: &mut Vec<SeqRange>, seqs: SeqRange) {
    match ranges.last_mut() {
        Some(last) if last.last.checked_add(1) == Some(seqs.first) => last.last = seqs.last,
        _ => ranges.push(seqs),
    }
}
