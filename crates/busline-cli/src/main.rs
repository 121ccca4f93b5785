//! The command line tool of Busline.
fn main() {}
