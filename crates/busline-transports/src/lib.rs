//! busline-transports.
