//! What happens to a group, as the bytes of its records.
//!
//! One record of a group's own log is one transaction: a stamp (when it was decided) and the
//! operations decided together. Operations say effects, not requests: what was lost or refused
//! never gets here, so replaying them needs no decision.

use super::runs::SeqRange;
use super::wire::{Input, Malformed, put_bytes, put_i64, put_u64};

/// When a transaction was decided.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Microseconds since the machine started, sleep included.
    pub(super) boot_us: u64,
    /// Microseconds since 1970, as the machine's clock said.
    pub(super) wall_us: i64,
}

/// What a settled claim comes to. Times are boot times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Ack,
    Reject,
    Park { due_us: u64 },
    Release { counted: bool },
    Renew { until_us: u64 },
}

/// Why a member is no longer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    Left,
    Died,
}

/// How long a group stays when nobody uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until it is deleted.
    Durable,
    /// Until it had no living member and no activity for this many microseconds.
    Idle {
        /// How long it may be idle, in microseconds.
        us: u64,
    },
    /// As long as it has a living member.
    Ephemeral,
}

/// How a group begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Create {
    pub(super) name: String,
    pub(super) config: Vec<u8>,
    pub(super) start: u64,
    pub(super) lifetime: Lifetime,
}

/// A claim of records by a member.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) member: u64,
    /// When its lease ends.
    pub(super) until_us: u64,
    /// The cursor afterwards: every record below it was examined.
    pub(super) to: u64,
    /// Records at or above the old cursor, claimed for the first time.
    pub(super) fresh: Vec<SeqRange>,
    /// The same, each with what orders it: claimed unless an earlier one of its order is unsettled.
    pub(super) ordered: Vec<(u64, u64)>,
    /// Ready records below the old cursor.
    pub(super) again: Vec<SeqRange>,
}

/// One effect on a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Create(Create),
    Configure {
        config: Vec<u8>,
    },
    Delete,
    Join {
        member: u64,
    },
    /// Its claims become ready, counted.
    Depart {
        member: u64,
        why: Departure,
    },
    /// The machine was started again: nobody of before is alive, and boot times begin anew.
    Boot {
        boot_id: u128,
    },
    /// Leases and delays that ended by the time of the stamp are over.
    Advance,
    Claim(Claim),
    Settle {
        claim: u64,
        fate: Fate,
        seqs: Vec<SeqRange>,
    },
    /// Ready records that the log no longer has.
    Vanish {
        seqs: Vec<SeqRange>,
    },
    /// Everything unsettled is forgotten and the group goes on at `to`.
    Reset {
        to: u64,
    },
    /// The log lost everything from `to` on.
    Cut {
        to: u64,
    },
}

const CREATE: u8 = 1;
const CONFIGURE: u8 = 2;
const DELETE: u8 = 3;
const JOIN: u8 = 4;
const DEPART: u8 = 5;
const BOOT: u8 = 6;
const ADVANCE: u8 = 7;
const CLAIM: u8 = 8;
const SETTLE: u8 = 9;
const VANISH: u8 = 10;
const RESET: u8 = 11;
const CUT: u8 = 12;

impl Stamp {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.boot_us);
        put_i64(out, self.wall_us);
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(Self { boot_us: input.u64()?, wall_us: input.i64()? })
    }
}

impl Op {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Create(create) => {
                out.push(CREATE);
                create.encode(out);
            }
            Self::Configure { config } => {
                out.push(CONFIGURE);
                put_bytes(out, config);
            }
            Self::Delete => out.push(DELETE),
            Self::Join { member } => {
                out.push(JOIN);
                out.extend_from_slice(&member.to_le_bytes());
            }
            Self::Depart { member, why } => {
                out.push(DEPART);
                out.extend_from_slice(&member.to_le_bytes());
                out.push(match why {
                    Departure::Left => 0,
                    Departure::Died => 1,
                });
            }
            Self::Boot { boot_id } => {
                out.push(BOOT);
                out.extend_from_slice(&boot_id.to_le_bytes());
            }
            Self::Advance => out.push(ADVANCE),
            Self::Claim(claim) => {
                out.push(CLAIM);
                claim.encode(out);
            }
            Self::Settle { claim, fate, seqs } => {
                out.push(SETTLE);
                put_u64(out, *claim);
                fate.encode(out);
                put_ranges(out, seqs);
            }
            Self::Vanish { seqs } => {
                out.push(VANISH);
                put_ranges(out, seqs);
            }
            Self::Reset { to } => {
                out.push(RESET);
                put_u64(out, *to);
            }
            Self::Cut { to } => {
                out.push(CUT);
                put_u64(out, *to);
            }
        }
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(match input.u8()? {
            CREATE => Self::Create(Create::decode(input)?),
            CONFIGURE => Self::Configure { config: input.bytes()?.to_vec() },
            DELETE => Self::Delete,
            JOIN => Self::Join { member: u64::from_le_bytes(input.fixed()?) },
            DEPART => Self::Depart {
                member: u64::from_le_bytes(input.fixed()?),
                why: match input.u8()? {
                    0 => Departure::Left,
                    1 => Departure::Died,
                    _ => return Err(Malformed::newer("an unknown kind of departure")),
                },
            },
            BOOT => Self::Boot { boot_id: u128::from_le_bytes(input.fixed()?) },
            ADVANCE => Self::Advance,
            CLAIM => Self::Claim(Claim::decode(input)?),
            SETTLE => Self::Settle {
                claim: input.u64()?,
                fate: Fate::decode(input)?,
                seqs: ranges(input)?,
            },
            VANISH => Self::Vanish { seqs: ranges(input)? },
            RESET => Self::Reset { to: input.u64()? },
            CUT => Self::Cut { to: input.u64()? },
            _ => return Err(Malformed::newer("an operation that this version does not know")),
        })
    }
}

impl Lifetime {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Durable => out.push(0),
            Self::Idle { us } => {
                out.push(1);
                put_u64(out, us);
            }
            Self::Ephemeral => out.push(2),
        }
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(match input.u8()? {
            0 => Self::Durable,
            1 => Self::Idle { us: input.u64()? },
            2 => Self::Ephemeral,
            _ => return Err(Malformed::newer("an unknown lifetime")),
        })
    }
}

impl Create {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        put_bytes(out, &self.config);
        put_u64(out, self.start);
        self.lifetime.encode(out);
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let name = std::str::from_utf8(input.bytes()?)
            .map_err(|_| Malformed::new("the group's name is not UTF-8"))?;
        Ok(Self {
            name: name.to_owned(),
            config: input.bytes()?.to_vec(),
            start: input.u64()?,
            lifetime: Lifetime::decode(input)?,
        })
    }
}

impl Claim {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.member.to_le_bytes());
        put_u64(out, self.until_us);
        put_u64(out, self.to);
        put_ranges(out, &self.fresh);
        put_u64(out, self.ordered.len() as u64);
        let mut at = 0;
        for &(seq, order) in &self.ordered {
            put_u64(out, seq - at);
            out.extend_from_slice(&order.to_le_bytes());
            at = seq;
        }
        put_ranges(out, &self.again);
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let member = u64::from_le_bytes(input.fixed()?);
        let until_us = input.u64()?;
        let to = input.u64()?;
        let fresh = ranges(input)?;
        let count = input.count(9)?;
        let mut ordered = Vec::with_capacity(count);
        let mut at = 0_u64;
        for index in 0..count {
            let step = input.u64()?;
            if step == 0 && index != 0 {
                return Err(Malformed::new("sequence numbers do not rise"));
            }
            at =
                at.checked_add(step).ok_or(Malformed::new("a sequence number has over 64 bits"))?;
            let order = u64::from_le_bytes(input.fixed()?);
            if order == 0 {
                return Err(Malformed::new("an ordered record without an order"));
            }
            ordered.push((at, order));
        }
        Ok(Self { member, until_us, to, fresh, ordered, again: ranges(input)? })
    }
}

impl Fate {
    fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Ack => out.push(0),
            Self::Reject => out.push(1),
            Self::Park { due_us } => {
                out.push(2);
                put_u64(out, due_us);
            }
            Self::Release { counted: true } => out.push(3),
            Self::Release { counted: false } => out.push(4),
            Self::Renew { until_us } => {
                out.push(5);
                put_u64(out, until_us);
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(match input.u8()? {
            0 => Self::Ack,
            1 => Self::Reject,
            2 => Self::Park { due_us: input.u64()? },
            3 => Self::Release { counted: true },
            4 => Self::Release { counted: false },
            5 => Self::Renew { until_us: input.u64()? },
            _ => return Err(Malformed::newer("an unknown way to settle")),
        })
    }
}

/// Appends rising, disjoint ranges as steps.
pub(super) fn put_ranges(out: &mut Vec<u8>, ranges: &[SeqRange]) {
    put_u64(out, ranges.len() as u64);
    let mut at = 0;
    for range in ranges {
        put_u64(out, range.first - at);
        put_u64(out, range.last - range.first);
        at = range.last;
    }
}

/// Reads what [`put_ranges`] wrote: ranges rise and do not overlap.
pub(super) fn ranges(input: &mut Input<'_>) -> Result<Vec<SeqRange>, Malformed> {
    let count = input.count(2)?;
    let mut ranges = Vec::with_capacity(count);
    let mut at = 0_u64;
    for index in 0..count {
        let step = input.u64()?;
        if step == 0 && index != 0 {
            return Err(Malformed::new("ranges overlap"));
        }
        let first =
            at.checked_add(step).ok_or(Malformed::new("a sequence number has over 64 bits"))?;
        at = first
            .checked_add(input.u64()?)
            .ok_or(Malformed::new("a sequence number has over 64 bits"))?;
        ranges.push(SeqRange { first, last: at });
    }
    Ok(ranges)
}
