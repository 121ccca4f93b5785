//! The only tool of the workspace.
fn main() {}
