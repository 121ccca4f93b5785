//! Processes that use a log and its groups, step by step, with every promise noted as it is made.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use busline_log::storage::{MemStorage, Storage};
use busline_log::{
    ClaimId, ClaimRequest, DeleteIf, ErrorKind, Group, GroupOptions, GroupSpec, Lifetime, Log,
    Member, Now, Options, SeqRange, Settle, Settlement, SyncMode,
};

use super::known::{GroupKnown, Known, Rec, Standing, View, key_of, value_of};
use super::tape::Recorder;
use crate::support::DIR;

/// What was found to be wrong.
pub(crate) type Verdict<T = ()> = Result<T, String>;

const LEASE_US: u64 = 1_000_000;

/// One thing that a process does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Appends one frame of so many records of so many bytes.
    Append(usize, usize, usize),
    Commit(usize),
    Sync(usize),
    Roll(usize),
    /// Removes all but the last so many records.
    KeepLast(usize, usize),
    /// Declares a group that wants all keys which begin so.
    Declare(usize, &'static str, &'static str),
    Configure(usize, &'static str, &'static str),
    Join(usize, &'static str),
    Leave(usize, &'static str),
    Claim(usize, &'static str, usize),
    /// Settles the first so many records that it holds.
    Settle(usize, &'static str, usize, Settlement),
    GroupCommit(usize, &'static str),
    /// Goes back to the first record.
    Reset(usize, &'static str),
    Delete(usize, &'static str),
    /// A commit finds that what was written cannot be made durable.
    FailedCommit(usize),
    /// All close the log, it is repaired, and they open it again.
    Repair,
    /// Time passes.
    Pass(u64),
    /// Closes the log with all its groups, and opens it again.
    Reopen(usize),
    /// All close the log, and open it again.
    Shutdown,
    /// The process dies between two calls and is started again.
    Kill(usize),
    /// It dies in this step, after so many changes, and so many bytes of one more write.
    Die(u64, usize, Box<Self>),
    /// The power fails for all; a seed says what is kept.
    Power(u64),
}

/// How logs and groups are opened.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) options: Options,
    pub(crate) groups: GroupOptions,
}

impl Setting {
    pub(crate) fn new(segment_bytes: u64, sync: SyncMode) -> Self {
        let options = Options { segment_bytes, sync, ..Options::default() };
        let groups = GroupOptions { snapshot_bytes: 300, ..GroupOptions::default() };
        Self { options, groups }
    }
}

/// A process with what it has open.
#[derive(Debug)]
struct Process {
    held: Vec<(&'static str, ClaimId, u64)>,
    members: BTreeMap<&'static str, Member>,
    groups: BTreeMap<&'static str, Group>,
    log: Option<Log>,
    storage: Recorder,
}

/// All processes on one medium.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) recorder: Recorder,
    setting: Setting,
    processes: Vec<Process>,
    /// The number of the next record.
    number: u64,
}

impl Stage {
    /// So many processes, on a medium that may be in any state that was promised.
    pub(crate) fn new(recorder: &Recorder, setting: &Setting, processes: usize) -> Self {
        let process = |_| Process {
            held: Vec::new(),
            members: BTreeMap::new(),
            groups: BTreeMap::new(),
            log: None,
            storage: recorder.process(),
        };
        Self {
            recorder: recorder.clone(),
            setting: setting.clone(),
            processes: (0..processes).map(process).collect(),
            // Above the numbers of all records before.
            number: recorder.learn(|known| known.seen + known.version * 100),
        }
    }

    pub(crate) fn run(&mut self, steps: &[Step]) -> Verdict {
        for step in steps {
            self.step(step).map_err(|wrong| format!("{step:?}: {wrong}"))?;
        }
        Ok(())
    }

    pub(crate) fn medium(&self) -> &MemStorage {
        self.recorder.medium()
    }

    /// Opens the log after processes died or the power failed, and compares what is there with what
    /// was promised; from then on that is what is known.
    pub(crate) fn resume(&mut self, p: usize) -> Verdict {
        let log = self.open(p)?;
        let report = log.open_report();
        if let Some(damage) = &report.damage {
            return Err(format!("it is taken for damaged: {damage:?}"));
        }
        let known = self.recorder.learn(|known| known.clone());
        if known.clean && (!report.clean || report.jumped_to.is_some()) {
            return Err(format!("it was closed, and that is not known: {report:?}"));
        }
        let found = read(&log)?;
        let first = log.first_seq();
        known.judge(&found, first)?;
        self.learn(|known| {
            if known.unpowered || known.has_more(&found, first) {
                known.flights.clear();
            }
            let removed = known.records.iter().filter(|rec| rec.seq < first);
            known.records = Arc::new(removed.chain(&found).copied().collect());
            known.seen = known.seen.max(log.next_seq());
            if known.unpowered {
                // What is kept was synced, unless nothing may be written.
                if log.check_writable().is_ok() {
                    known.durable = log.next_seq();
                }
                known.first = (first, first);
                known.unpowered = false;
            }
        });
        for (name, before) in known.groups {
            self.resume_group(p, name, &before)?;
        }
        Ok(())
    }

    fn resume_group(&mut self, p: usize, name: &'static str, before: &GroupKnown) -> Verdict {
        let standing = self.standing(p, name)?;
        if !before.allows(&standing) {
            return Err(format!(
                "group {name} stands where it never was: {standing:?}; allowed is one of {:#?}, or \
                 {:?}",
                before.allowed().collect::<Vec<_>>(),
                before.flights
            ));
        }
        if standing.is_none() {
            self.forget_group(name);
        }
        let is_same = !before.unpowered && standing == *before.now();
        let unborn = (is_same && !before.flights.is_empty()).then(|| self.unborn(name));
        self.learn(|known| {
            let group = known.group(name);
            if before.unpowered {
                *group = GroupKnown::standing(standing);
            } else if !is_same {
                group.push(standing);
                group.flights.clear();
            } else if let Some(unborn) = unborn {
                // What a dead process wrote and did not show may come to light with the next boot.
                for flight in &group.flights {
                    let _ = flight.set(unborn.clone());
                }
            }
        });
        Ok(())
    }

    /// How a group stands if the power fails now and all is kept.
    fn unborn(&self, name: &'static str) -> Standing {
        let copy = self.medium().snapshot();
        copy.crash(&mut |count| count - 1);
        self.elsewhere(name, copy)
    }

    /// How a group stands on a copy of the medium.
    fn elsewhere(&self, name: &'static str, copy: MemStorage) -> Standing {
        let recorder = Recorder::silent(copy, self.recorder.learn(|known| known.clone()));
        let mut stage = Self::new(&recorder, &self.setting, 1);
        stage.standing(0, name).ok()?
    }

    /// Uses what is there as anybody would: appends, and takes everything that the groups owe.
    pub(crate) fn use_it(&mut self, p: usize) -> Verdict {
        let writable = self.open(p)?.check_writable();
        if writable.is_err_and(|error| error.kind() == ErrorKind::Poisoned) {
            self.step(&Step::Repair)?;
        }
        self.step(&Step::Append(p, 1, 20))?;
        self.step(&Step::Commit(p))?;
        let records = self.recorder.learn(|known| Arc::clone(&known.records));
        let first = self.open(p)?.first_seq();
        let there: Vec<Rec> = records.iter().filter(|rec| rec.seq >= first).copied().collect();
        let groups = self.recorder.learn(|known| known.groups.clone());
        for (name, group) in groups {
            let Some(view) = group.now() else { continue };
            let owed = view.owes(&there);
            let seen = self.drain(p, name)?;
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            if sorted != owed {
                return Err(format!(
                    "group {name} owed (record, attempt) {owed:?} and handed out {seen:?}; it \
                     stood at {view:?}"
                ));
            }
            let new = seen.iter().filter(|(_, attempts)| *attempts == 1);
            if !new.is_sorted() {
                return Err(format!("group {name} handed out in another order: {seen:?}"));
            }
            self.step(&Step::GroupCommit(p, name))?;
        }
        Ok(())
    }

    /// Takes and acknowledges all that a group owes.
    fn drain(&mut self, p: usize, name: &'static str) -> Verdict<Vec<(u64, u32)>> {
        self.step(&Step::Join(p, name))?;
        let mut seen = Vec::new();
        loop {
            let handed = self.claim(p, name, 64)?;
            if !handed.is_empty() {
                self.step(&Step::Settle(p, name, usize::MAX, Settlement::Ack))?;
                seen.extend(handed);
                continue;
            }
            let due = self.processes[p].members[name].next_due_us().map_err(text)?;
            let Some(due) = due else { return Ok(seen) };
            self.learn(|known| known.boot_us = known.boot_us.max(due));
        }
    }

    fn step(&mut self, step: &Step) -> Verdict {
        match *step {
            Step::Append(p, count, bytes) => self.append(p, count, bytes),
            Step::Commit(p) => {
                let log = self.open(p)?;
                log.commit(log.next_seq()).map_err(text)?;
                let next = log.next_seq();
                if self.setting.options.sync == SyncMode::Always {
                    self.learn(|known| known.durable = next);
                }
                Ok(())
            }
            Step::Sync(p) => {
                let next = self.open(p)?.sync().map_err(text)?;
                self.learn(|known| known.durable = known.durable.max(next));
                Ok(())
            }
            Step::Roll(p) => {
                let log = self.open(p)?;
                // The mark is of the segment that was the last then.
                self.learn(|known| known.clean = false);
                let mut guard = log.lock_append().map_err(text)?;
                guard.roll(self.now().wall_us).map(drop).map_err(text)
            }
            Step::KeepLast(p, count) => self.remove(p, count),
            Step::FailedCommit(p) => self.failed_commit(p),
            Step::Repair => self.repair(),
            Step::Pass(us) => {
                self.learn(|known| {
                    known.boot_us += us;
                    known.wall_us += us.cast_signed();
                });
                Ok(())
            }
            Step::Reopen(p) => {
                self.close(p)?;
                self.resume(p)
            }
            Step::Shutdown => {
                self.close_all()?;
                self.learn(|known| known.clean = true);
                (0..self.processes.len()).try_for_each(|p| self.resume(p))
            }
            Step::Kill(p) => {
                self.end(p);
                self.resume(p)
            }
            Step::Die(changes, bytes, ref step) => self.die(changes, bytes, step),
            Step::Power(seed) => {
                self.learn(Known::lose_power);
                self.medium().crash_seeded(seed);
                self.boot()
            }
            ref step => self.group_step(step),
        }
    }

    fn group_step(&mut self, step: &Step) -> Verdict {
        if self.is_pointless(step) {
            return Ok(());
        }
        match *step {
            Step::Declare(p, name, config) => {
                let start = self.open(p)?.first_seq();
                let before = self.recorder.learn(|known| known.group(name).history.len() - 1);
                let created = self.change(p, name, |stage, now| {
                    let (config, lifetime) = (config.as_bytes(), Lifetime::Durable);
                    let spec = GroupSpec { name, config, start, lifetime };
                    let log = stage.processes[p].log.clone().expect("it is open");
                    let declared = Group::declare(&log, &spec, &stage.setting.groups, now)?;
                    stage.processes[p].groups.insert(name, declared.group);
                    Ok(declared.created)
                })?;
                if created {
                    self.durable(name);
                } else if self.setting.options.sync == SyncMode::Always {
                    self.learn(|known| {
                        let group = known.group(name);
                        group.durable = group.durable.max(before);
                    });
                }
            }
            Step::Configure(p, name, config) => {
                self.change_group(p, name, |group, now| {
                    group.set_config(config.as_bytes(), None, now).map(drop)
                })?;
                self.durable(name);
            }
            Step::Join(p, name) => {
                let member = self.change_group(p, name, Group::join)?;
                self.processes[p].members.insert(name, member);
            }
            Step::Leave(p, name) => {
                self.processes[p].held.retain(|(of, ..)| *of != name);
                if let Some(member) = self.processes[p].members.remove(name) {
                    self.change(p, name, |_, now| member.leave(now))?;
                }
            }
            Step::Claim(p, name, max) => drop(self.claim(p, name, max)?),
            Step::Settle(p, name, count, how) => self.settle(p, name, count, how)?,
            Step::GroupCommit(p, name) => {
                self.group(p, name)?.commit().map_err(text)?;
                self.durable(name);
            }
            Step::Reset(p, name) => {
                let first = self.open(p)?.first_seq();
                self.change_group(p, name, |group, now| group.reset(first, now))?;
                self.durable(name);
            }
            Step::Delete(p, name) => {
                let log = self.open(p)?;
                self.change(p, name, |stage, now| {
                    Group::delete(&log, name, DeleteIf::default(), now)?;
                    stage.forget_group(name);
                    Ok(())
                })?;
                self.durable(name);
            }
            ref step => return Err(format!("{step:?} is no step of a group")),
        }
        Ok(())
    }

    /// Whether a step needs a group that is not there.
    fn is_pointless(&self, step: &Step) -> bool {
        let (Step::Configure(_, name, _)
        | Step::Join(_, name)
        | Step::Leave(_, name)
        | Step::Claim(_, name, _)
        | Step::Settle(_, name, ..)
        | Step::GroupCommit(_, name)
        | Step::Reset(_, name)
        | Step::Delete(_, name)) = *step
        else {
            return false;
        };
        self.recorder.learn(|known| known.group(name).now().is_none())
    }

    fn append(&mut self, p: usize, count: usize, bytes: usize) -> Verdict {
        let log = self.open(p)?;
        let next = log.next_seq();
        let mut appender = log.appender();
        let mut frame = Vec::new();
        for at in 0..count as u64 {
            let rec = Rec { seq: next + at, number: self.number, bytes };
            self.number += 1;
            appender.push(rec.key(), b"meta", &rec.value()).map_err(text)?;
            frame.push(rec);
        }
        let frame = Arc::new(frame);
        self.learn(|known| {
            known.flights.push(Arc::clone(&frame));
            known.clean = false;
        });
        let appended = appender.flush(self.now().wall_us).map_err(text)?.expect("it is not empty");
        let seen = self.recorder.learn(|known| known.seen);
        if appended.first < seen {
            return Err(format!("number {} came again; {seen} was next", appended.first));
        }
        self.learn(|known| {
            // Rolling may not move a number, recovery may: what is true is what was answered.
            let shift = appended.first - next;
            let moved = frame.iter().map(|rec| Rec { seq: rec.seq + shift, ..*rec });
            let mut records = known.records.to_vec();
            records.extend(moved);
            known.records = Arc::new(records);
            known.flights.clear();
            known.created = true;
            known.seen = appended.next;
        });
        Ok(())
    }

    fn remove(&mut self, p: usize, keep: usize) -> Verdict {
        let log = self.open(p)?;
        let records = self.recorder.learn(|known| Arc::clone(&known.records));
        let keep_from = records.len().checked_sub(keep).and_then(|at| records.get(at));
        let Some(keep_from) = keep_from.map(|rec| rec.seq) else { return Ok(()) };
        self.learn(|known| known.first.1 = known.first.1.max(keep_from));
        let removed = log.remove_before(keep_from).map_err(text)?;
        self.learn(|known| known.first = (removed.first_seq, removed.first_seq));
        Ok(())
    }

    fn claim(&mut self, p: usize, name: &'static str, max: usize) -> Verdict<Vec<(u64, u32)>> {
        if !self.processes[p].members.contains_key(name) {
            return Ok(Vec::new());
        }
        let config = self.change_member(p, name, |member, now| {
            member.take_over(now)?;
            member.accept_config()
        })?;
        let (claim, handed) = self.change_member(p, name, |member, now| {
            let mut handed = Vec::new();
            let request = ClaimRequest {
                records_max: max,
                bytes_max: 1 << 20,
                first_may_exceed: true,
                lease_us: LEASE_US,
                filter: &|key, _| key.starts_with(&config.bytes),
                keys: None,
                order_by: None,
            };
            let outcome = member.claim(&request, now, &mut |claimed, record| {
                let whole = rec_of(record.seq, record.key, record.value).is_ok();
                handed.push((claimed.seq, claimed.attempts, whole));
            })?;
            Ok((outcome.claim, handed))
        })?;
        if let Some((seq, ..)) = handed.iter().find(|(.., whole)| !whole) {
            return Err(format!("group {name} handed out {seq} with another content"));
        }
        let held = handed.iter().map(|&(seq, ..)| (name, claim, seq));
        self.processes[p].held.extend(held);
        Ok(handed.into_iter().map(|(seq, attempts, _)| (seq, attempts)).collect())
    }

    fn settle(&mut self, p: usize, name: &'static str, count: usize, how: Settlement) -> Verdict {
        let mut items = Vec::new();
        let renewed = matches!(how, Settlement::Renew { .. });
        self.processes[p].held.retain(|&(of, claim, seq)| {
            let wanted = of == name && items.len() < count;
            if wanted {
                items.push(Settle { claim, seqs: SeqRange::one(seq), how });
            }
            !wanted || renewed
        });
        if items.is_empty() {
            return Ok(());
        }
        self.change_group(p, name, |group, now| group.settle(&items, now, &mut Vec::new()))
    }

    fn failed_commit(&mut self, p: usize) -> Verdict {
        let log = self.open(p)?;
        self.processes[p].storage.fail_sync(&format!("{DIR}/0"));
        match log.commit(log.next_seq()) {
            Err(error) if error.kind() == ErrorKind::Poisoned => Ok(()),
            other => Err(format!("a failed sync came to {other:?}")),
        }
    }

    /// Repairs the log; nothing that is there is lost by it.
    fn repair(&mut self) -> Verdict {
        self.close_all()?;
        let storage: Arc<dyn Storage> = Arc::new(self.processes[0].storage.clone());
        let report = busline_log::repair(&storage, Path::new(DIR), false, self.now().wall_us);
        let report = report.map_err(text)?;
        if !report.poison_cleared || !report.dropped.is_empty() {
            return Err(format!("repairing came to {report:?}"));
        }
        self.resume(0)?;
        let next = self.open(0)?.next_seq();
        self.learn(|known| known.durable = next);
        (1..self.processes.len()).try_for_each(|p| self.resume(p))
    }

    fn close_all(&mut self) -> Verdict {
        (0..self.processes.len()).try_for_each(|p| self.close(p))
    }

    fn close(&mut self, p: usize) -> Verdict {
        let log = self.open(p)?;
        let process = &mut self.processes[p];
        process.held.clear();
        process.members.clear();
        // Closing a group's handle syncs it, as closing the log does.
        let groups: Vec<_> = std::mem::take(&mut process.groups).into_keys().collect();
        process.log = None;
        for name in groups {
            self.learn(|known| {
                let group = known.group(name);
                group.durable = group.history.len() - 1;
            });
        }
        let next = log.next_seq();
        let sound = log.check_writable().is_ok();
        log.close().map_err(text)?;
        if sound {
            self.learn(|known| known.durable = next);
        }
        Ok(())
    }

    fn die(&mut self, changes: u64, bytes: usize, step: &Step) -> Verdict {
        let p = step.process();
        self.processes[p].storage.medium().kill_after(changes, bytes);
        let stepped = self.step(step);
        if self.processes[p].storage.medium().is_alive() {
            // The step makes fewer changes: it dies after it.
            stepped?;
        }
        self.end(p);
        self.ask_the_dead();
        self.resume(p)
    }

    /// Learns what a change came to that did not return, where it is visible.
    fn ask_the_dead(&self) {
        for (name, group) in self.recorder.learn(|known| known.groups.clone()) {
            let standing = self.elsewhere(name, self.medium().snapshot());
            if standing != *group.now() {
                for flight in &group.flights {
                    let _ = flight.set(standing.clone());
                }
            }
        }
    }

    /// The machine starts: the first process recovers the log, the others come after.
    pub(crate) fn boot(&mut self) -> Verdict {
        for p in 0..self.processes.len() {
            self.forget(p);
        }
        self.learn(|known| {
            known.boot_us = 10;
            known.wall_us += 1_000;
        });
        if self.open(0)?.open_report().trusted {
            return Err("the control page of another boot is believed".to_owned());
        }
        (0..self.processes.len()).try_for_each(|p| self.resume(p))
    }

    fn end(&mut self, p: usize) {
        self.processes[p].storage.medium().kill();
        self.forget(p);
    }

    fn forget(&mut self, p: usize) {
        let process = &mut self.processes[p];
        process.held.clear();
        process.members.clear();
        process.groups.clear();
        process.log = None;
    }

    /// Drops all handles of a group that is gone.
    fn forget_group(&mut self, name: &str) {
        for process in &mut self.processes {
            process.held.retain(|(of, ..)| *of != name);
            process.members.remove(name);
            process.groups.remove(name);
        }
    }

    fn open(&mut self, p: usize) -> Verdict<Log> {
        if let Some(log) = &self.processes[p].log {
            return Ok(log.clone());
        }
        let storage: Arc<dyn Storage> = Arc::new(self.processes[p].storage.clone());
        let (dir, options) = (Path::new(DIR), &self.setting.options);
        let now_us = self.now().wall_us;
        let log = if self.recorder.learn(|known| known.created) {
            Log::open(storage, dir, options, now_us)
        } else {
            Log::open_or_create(storage, dir, b"", options, now_us)
        };
        let log = log.map_err(|error| format!("it does not open: {error}"))?;
        // Who opens what a dead creator left makes its name durable with the first append only.
        if log.open_report().created {
            self.learn(|known| known.created = true);
        }
        self.processes[p].log = Some(log.clone());
        Ok(log)
    }

    fn group(&mut self, p: usize, name: &'static str) -> Verdict<Group> {
        if let Some(group) = self.processes[p].groups.get(name) {
            return Ok(group.clone());
        }
        let log = self.open(p)?;
        let group = Group::open(&log, name, &self.setting.groups, self.now());
        let group = group.map_err(|error| format!("group {name}: {error}"))?;
        self.processes[p].groups.insert(name, group.clone());
        Ok(group)
    }

    /// How a group stands, seen by a process.
    fn standing(&mut self, p: usize, name: &'static str) -> Verdict<Standing> {
        let log = self.open(p)?;
        let now = self.now();
        let group = match self.processes[p].groups.get(name) {
            Some(group) => Ok(group.clone()),
            None => Group::open(&log, name, &self.setting.groups, now),
        };
        let view = group.and_then(|group| {
            let view = View::of(&group, now)?;
            self.processes[p].groups.insert(name, group);
            Ok(view)
        });
        match view {
            Ok(view) => Ok(Some(view)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("group {name}: {error}")),
        }
    }

    fn change_group<R>(
        &mut self,
        p: usize,
        name: &'static str,
        change: impl FnOnce(&Group, Now) -> busline_log::Result<R>,
    ) -> Verdict<R> {
        let group = self.group(p, name)?;
        self.change(p, name, |_, now| change(&group, now))
    }

    fn change_member<R>(
        &mut self,
        p: usize,
        name: &'static str,
        change: impl FnOnce(&mut Member, Now) -> busline_log::Result<R>,
    ) -> Verdict<R> {
        self.change(p, name, |stage, now| {
            let member = stage.processes[p].members.get_mut(name).expect("it joined");
            change(member, now)
        })
    }

    /// One change of a group: one transaction, or none.
    fn change<R>(
        &mut self,
        p: usize,
        name: &'static str,
        change: impl FnOnce(&mut Self, Now) -> busline_log::Result<R>,
    ) -> Verdict<R> {
        let cell = Arc::new(OnceLock::new());
        self.learn(|known| known.group(name).flights.push(Arc::clone(&cell)));
        let now = self.now();
        let result = change(self, now).map_err(|error| format!("group {name}: {error}"))?;
        let standing = self.standing(p, name)?;
        let _ = cell.set(standing.clone());
        self.learn(|known| {
            let group = known.group(name);
            if standing != *group.now() {
                group.push(standing);
                group.flights.clear();
            }
        });
        Ok(result)
    }

    /// What was done to a group is durable, if that is what is configured.
    fn durable(&mut self, name: &'static str) {
        if self.setting.options.sync == SyncMode::Always {
            self.learn(|known| {
                let group = known.group(name);
                group.durable = group.history.len() - 1;
            });
        }
    }

    fn learn(&self, note: impl FnOnce(&mut Known)) {
        // One counter for all stages, so that no two knowledges are taken for one.
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        self.recorder.learn(|known| {
            known.version = VERSIONS.fetch_add(1, Ordering::Relaxed);
            note(known);
        });
    }

    fn now(&self) -> Now {
        let boot_id = self.medium().boot_id().expect("the medium is there");
        let (boot_us, wall_us) = self.recorder.learn(|known| (known.boot_us, known.wall_us));
        Now { wall_us, boot_us, boot_id }
    }
}

impl Step {
    fn process(&self) -> usize {
        match *self {
            Self::Append(p, ..)
            | Self::Commit(p)
            | Self::FailedCommit(p)
            | Self::Sync(p)
            | Self::Roll(p)
            | Self::KeepLast(p, _)
            | Self::Declare(p, ..)
            | Self::Configure(p, ..)
            | Self::Join(p, _)
            | Self::Leave(p, _)
            | Self::Claim(p, ..)
            | Self::Settle(p, ..)
            | Self::GroupCommit(p, _)
            | Self::Reset(p, _)
            | Self::Delete(p, _)
            | Self::Reopen(p)
            | Self::Kill(p) => p,
            Self::Die(_, _, ref step) => step.process(),
            Self::Pass(_) | Self::Repair | Self::Shutdown | Self::Power(_) => 0,
        }
    }
}

/// All records, each checked to be whole.
fn read(log: &Log) -> Verdict<Vec<Rec>> {
    let mut found = Vec::new();
    let mut scanner = log.scanner();
    while let Some(record) = scanner.next().map_err(|error| format!("reading: {error}"))? {
        found.push(rec_of(record.seq, record.key, record.value)?);
    }
    Ok(found)
}

fn rec_of(seq: u64, key: &[u8], value: &[u8]) -> Verdict<Rec> {
    let number = value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let number = number.ok_or_else(|| format!("record {seq} is cut short"))?;
    if key != key_of(number) || value != value_of(number, value.len()) {
        return Err(format!("record {seq} holds what nobody published"));
    }
    Ok(Rec { seq, number, bytes: value.len() })
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn text(error: busline_log::Error) -> String {
    error.to_string()
}
