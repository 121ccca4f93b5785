//! The kinds of messages as types, which decide what a handler may return.

/// A fact, in the past tense.
#[derive(Debug, Clone, Copy)]
pub enum Event {}

/// A request to one owner, which answers.
#[derive(Debug, Clone, Copy)]
pub enum Command {}

/// The answer to a command that was sent with a return key of this service.
#[derive(Debug, Clone, Copy)]
pub enum CommandResult {}

/// What must arrive before a service is ready.
#[derive(Debug, Clone, Copy)]
pub enum Configuration {}
