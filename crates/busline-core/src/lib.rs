//! busline-core.
