//! The table of a Hermes message bus, for log work.
use super::config::SqliteConfig;
use busline_core::transport::{Connect, Session};
use busline_core::{Capabilities, Clock, Limits, Result};
use std::sync::Arc;
/// The name of its only table.
pub(super) const TABLE: &str = "hermesmessages";
pub(super) fn profile(config: &SqliteConfig) -> Capabilities {
    Capabilities::none("sqlite, hermes", config.durability(), Limits::default())
}
pub(super) fn open(
    config: &SqliteConfig,
    _: &Arc<dyn Clock>,
    _: &Connect,
) -> Result<Arc<dyn Session>> {
    profile(config).require(busline_core::Capability::Replay)?;
    Err(super::error::session_closed())
}
