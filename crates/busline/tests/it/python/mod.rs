//! Beside the real Python library on a real broker: what it does and we do is compared, each calls, answers
//! and hears the other, and both are one service.

mod blocking;
mod both;
mod commands;
mod configurations;
mod failing;
pub(crate) mod ground;
mod logs;
mod messages;
pub(crate) mod peer;
mod shared;
mod witness;
