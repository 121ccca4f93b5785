//! busline-log.
