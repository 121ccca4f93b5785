//! busline.
