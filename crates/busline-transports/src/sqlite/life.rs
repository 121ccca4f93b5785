//! Who is alive: the session's own sign of life, and what those held who gave none.

use std::collections::HashMap;
use std::time::Duration;

use busline_core::Result;

use super::database::Durable;
use super::error::of_sqlite;
use super::groups::{self, GroupRow};
use super::member::SettleJob;
use super::presence::Presence;
use super::settle::{Decision, take_over};
use super::worker::Worker;

/// How often it is looked who has died, and the own sign of life renewed if it is time.
const LOOK_AFTER: Duration = Duration::from_millis(250);

/// When what was done last that is done now and then, and what was seen of others then.
#[derive(Debug, Default)]
pub(super) struct After {
    looked: Duration,
    beaten: Duration,
    /// The beat of others, and since when it stands there.
    beats: HashMap<i64, (i64, Duration)>,
}

impl After {
    /// A lease is counted from now on.
    pub(super) fn beaten_at(&mut self, now: Duration) {
        self.beaten = now;
    }
}

/// A member of another session: its id, group, session, beat and lease.
type Other = (i64, i64, String, i64, i64);

impl Worker {
    /// Does now and then what keeps members alive and lets the dead go.
    pub(super) fn look_after(&mut self) {
        self.expire_held();
        let now = self.clock.monotonic();
        if self.members.is_empty() || now.saturating_sub(self.after.looked) < LOOK_AFTER {
            return;
        }
        self.after.looked = now;
        self.check_held();
        let looked = self.beat(now).and_then(|()| self.clear_away());
        if let Err(error) = looked {
            tracing::warn!(%error, "it cannot be looked after members that may be dead");
        }
    }

    /// Lets members go that have died, and groups whose time is over.
    pub(super) fn clear_away(&mut self) -> Result<()> {
        self.look_at_others(self.clock.monotonic())?;
        let now = self.now();
        if groups::expired(self.database.connection(), now)?.is_empty() {
            return Ok(());
        }
        self.change(|connection, now| {
            groups::expired(connection, now)?
                .into_iter()
                .try_for_each(|id| GroupRow::delete(connection, id))
        })
    }

    /// Finds out whether what is held was taken away: by a reset, or because this process stood still.
    fn check_held(&mut self) {
        let connection = self.database.connection();
        for (id, member) in &self.members {
            if !member.state.is_holding() {
                continue;
            }
            if let Err(error) = member.state.check_held(connection, *id, member.epoch) {
                tracing::warn!(%error, "it cannot be seen whether deliveries are lost");
            }
        }
    }

    /// Gives up what was held for longer than it may be.
    fn expire_held(&mut self) {
        let now = self.clock.monotonic();
        for member in self.members.values() {
            for held in member.state.expired(now) {
                self.settles.push(SettleJob::new(&member.state, held, Decision::Expired, None));
            }
        }
        if !self.settles.is_empty() {
            self.write();
        }
    }

    /// Lets the members of dead sessions go, and those lose what they hold whose sign of life stands still.
    fn look_at_others(&mut self, now: Duration) -> Result<()> {
        let sql = "SELECT m.id, m.grp, m.session, m.beat, m.lease_us FROM members m WHERE m.session <> ?1";
        let others: Vec<Other> = {
            let mut select = self.database.connection().prepare_cached(sql).map_err(of_sqlite)?;
            let other = |row: &rusqlite::Row<'_>| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
            };
            let others = select.query_map([&self.name], other).map_err(of_sqlite)?;
            others.collect::<rusqlite::Result<_>>().map_err(of_sqlite)?
        };
        self.after.beats.retain(|id, _| others.iter().any(|other| other.0 == *id));
        let mut gone = Vec::new();
        for (id, group, session, beat, lease_us) in others {
            if Presence::is_dead(&self.database.folder, &session) {
                gone.push((id, group, Some(session)));
                continue;
            }
            let (seen, since) = *self.after.beats.entry(id).or_insert((beat, now));
            let lease = Duration::from_micros(lease_us.unsigned_abs());
            if seen != beat {
                self.after.beats.insert(id, (beat, now));
            } else if now.saturating_sub(since) >= lease && self.holds(id, group)? {
                gone.push((id, group, None));
            }
        }
        if !gone.is_empty() {
            self.change(|connection, now| {
                gone.iter().try_for_each(|(id, group, session)| {
                    take_over(connection, *group, *id, session.is_some(), now)
                })
            })?;
            let dead = gone.iter().filter_map(|(_, _, session)| session.as_ref());
            dead.for_each(|session| Presence::bury(&self.database.folder, session));
        }
        Ok(())
    }

    fn holds(&self, member: i64, group: i64) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM entries WHERE grp = ?1 AND owner = ?2)";
        let held = self.database.connection().query_row(sql, [group, member], |row| row.get(0));
        held.map_err(of_sqlite)
    }

    /// Says that this session runs, three times a lease, while it holds something.
    fn beat(&mut self, now: Duration) -> Result<()> {
        let holding = self.members.values().filter(|member| member.state.is_holding());
        let Some(lease) = holding.map(|member| member.state.lease).min() else { return Ok(()) };
        if now.saturating_sub(self.after.beaten) < lease / 3 {
            return Ok(());
        }
        self.after.beaten = now;
        let name = &self.name;
        self.database.write(Durable::No, |connection| {
            let sql = "UPDATE members SET beat = beat + 1 WHERE session = ?1";
            connection.execute(sql, [name]).map_err(of_sqlite)
        })?;
        Ok(())
    }
}
