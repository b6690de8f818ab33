//! The sections of a run's report.

pub mod bits;
pub mod conditions;
pub mod flatness;
pub mod result;
pub mod sensitivity;
pub mod sites;
pub mod units;
