//! Members in several processes: who is stopped loses what it held, who dies is missed at once, and
//! who waits is woken.

pub(crate) mod fork;
pub(crate) mod full;
pub(crate) mod idle;
pub(crate) mod takeover;
pub(crate) mod workers;
