//! A log in memory with its groups, processes that can be killed, and a clock that stands still.

use std::path::Path;
use std::sync::Arc;

use crate::storage::{MemStorage, Storage};
use crate::{
    ClaimId, ClaimOutcome, ClaimRequest, Claimed, Group, GroupOptions, GroupSpec, Lifetime, Log,
    Lost, Member, Now, Options, Record, Result, SeqRange, Settle, Settlement,
};

pub(super) const LEASE_US: u64 = 30_000_000;

/// One process on the medium, with the log open.
pub(super) struct World {
    pub(super) storage: MemStorage,
    pub(super) log: Log,
    pub(super) now: Now,
    pub(super) options: GroupOptions,
}

/// What a member was handed: sequence number, attempts, the value as text.
pub(super) type Handed = Vec<(u64, u32, String)>;

impl World {
    pub(super) fn new() -> Self {
        Self::on(&MemStorage::new())
    }

    /// Opens the log, or creates it, as the process of this storage.
    pub(super) fn on(storage: &MemStorage) -> Self {
        Self::through(storage, Arc::new(storage.clone()))
    }

    /// The same through another storage, which stands before the medium.
    pub(super) fn through(storage: &MemStorage, seam: Arc<dyn Storage>) -> Self {
        let options = Options { segment_bytes: 4096, ..Options::default() };
        let boot_id = seam.boot_id().unwrap();
        let dir = Path::new("/log");
        let log = Log::open_or_create(seam, dir, b"test", &options, 1_000_000).unwrap();
        let now = Now { wall_us: 1_000_000, boot_us: 1_000, boot_id };
        Self { storage: storage.clone(), log, now, options: GroupOptions::default() }
    }

    /// The same log as another process sees it.
    pub(super) fn other(&self) -> Self {
        let other = Self::on(&self.storage.process());
        Self { now: self.now, options: self.options, ..other }
    }

    pub(super) fn pass(&mut self, us: u64) {
        self.now.boot_us += us;
        self.now.wall_us += us.cast_signed();
    }

    /// Appends one record a value, keyed by the value's first character; returns the next number.
    pub(super) fn publish(&self, values: &[&str]) -> u64 {
        let mut appender = self.log.appender();
        for value in values {
            appender.push(&value.as_bytes()[..1], b"m", value.as_bytes()).unwrap();
        }
        appender.flush(self.now.wall_us).unwrap().unwrap().next
    }

    pub(super) fn publish_count(&self, count: usize) {
        let values: Vec<String> = (0..count).map(|at| format!("v{at}")).collect();
        self.publish(&values.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub(super) fn spec(name: &str) -> GroupSpec<'_> {
        GroupSpec { name, config: b"all", start: 0, lifetime: Lifetime::Durable }
    }

    pub(super) fn declare(&self, name: &str) -> Group {
        Group::declare(&self.log, &Self::spec(name), &self.options, self.now).unwrap().group
    }

    pub(super) fn open(&self, name: &str) -> Group {
        Group::open(&self.log, name, &self.options, self.now).unwrap()
    }

    pub(super) fn join(&self, name: &str) -> Member {
        self.declare(name).join(self.now).unwrap()
    }

    /// Claims up to `max` records that match.
    pub(super) fn claim_where(
        &self,
        member: &mut Member,
        max: usize,
        filter: &dyn Fn(&[u8], &[u8]) -> bool,
    ) -> Result<(ClaimOutcome, Handed)> {
        let request = ClaimRequest {
            records_max: max,
            bytes_max: 1 << 20,
            first_may_exceed: true,
            lease_us: LEASE_US,
            filter,
            keys: None,
            order_by: None,
        };
        self.claim_with(member, &request)
    }

    pub(super) fn claim_with(
        &self,
        member: &mut Member,
        request: &ClaimRequest<'_>,
    ) -> Result<(ClaimOutcome, Handed)> {
        let mut handed = Vec::new();
        let outcome = member.claim(request, self.now, &mut note(&mut handed))?;
        assert_eq!(outcome.records, handed.len());
        Ok((outcome, handed))
    }

    /// The same, if neither others nor the medium have to be waited for.
    pub(super) fn try_claim(
        &self,
        member: &mut Member,
        max: usize,
    ) -> Result<Option<(ClaimOutcome, Handed)>> {
        let request = ClaimRequest {
            records_max: max,
            bytes_max: 1 << 20,
            first_may_exceed: true,
            lease_us: LEASE_US,
            filter: &|_, _| true,
            keys: None,
            order_by: None,
        };
        let mut handed = Vec::new();
        let Some(outcome) = member.try_claim(&request, self.now, &mut note(&mut handed))? else {
            assert_eq!(handed, []);
            return Ok(None);
        };
        assert_eq!(outcome.records, handed.len());
        Ok(Some((outcome, handed)))
    }

    pub(super) fn claim(&self, member: &mut Member, max: usize) -> (ClaimId, Handed) {
        let (outcome, handed) = self.claim_where(member, max, &|_, _| true).unwrap();
        (outcome.claim, handed)
    }

    /// What a claim hands out, as (number, attempts).
    pub(super) fn seqs(&self, member: &mut Member, max: usize) -> Vec<(u64, u32)> {
        self.claim(member, max).1.iter().map(|&(seq, attempts, _)| (seq, attempts)).collect()
    }

    pub(super) fn settle(
        &self,
        group: &Group,
        claim: ClaimId,
        seqs: SeqRange,
        how: Settlement,
    ) -> Vec<SeqRange> {
        let mut lost = Vec::new();
        group.settle(&[Settle { claim, seqs, how }], self.now, &mut lost).unwrap();
        lost.iter().map(|lost: &Lost| lost.seqs).collect()
    }

    /// Acknowledges everything that was handed out.
    pub(super) fn ack(&self, member: &Member, claim: ClaimId, handed: &Handed) {
        let how = Settlement::Ack;
        let settle =
            |&(seq, ..): &(u64, u32, String)| Settle { claim, seqs: SeqRange::one(seq), how };
        let items: Vec<Settle> = handed.iter().map(settle).collect();
        let mut lost = Vec::new();
        member.group().settle(&items, self.now, &mut lost).unwrap();
        assert_eq!(lost, []);
    }

    /// Whether somebody who waits since `since` is woken by what `act` does.
    pub(super) fn rings(&self, act: impl FnOnce()) -> bool {
        let mark = self.log.mark();
        act();
        self.log.wait(mark, Some(std::time::Duration::ZERO)).unwrap()
    }
}

fn note(handed: &mut Handed) -> impl FnMut(Claimed, &Record<'_>) {
    |claimed, record| {
        assert_eq!(claimed.seq, record.seq);
        let value = String::from_utf8(record.value.to_vec()).unwrap();
        handed.push((claimed.seq, claimed.attempts, value));
    }
}

pub(super) fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(first, last)
}
