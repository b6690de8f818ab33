//! Tasks: what networks are for.

mod classification;
