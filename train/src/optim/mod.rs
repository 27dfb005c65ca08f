//! Optimiser and learning-rate schedule.

mod schedule;
mod sgd;

pub use schedule::Schedule;
pub use sgd::{Sgd, SgdSettings};
