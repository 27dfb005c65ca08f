//! Loader, run folder, checkpoints, training loop and evaluation, on small synthetic images.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod artifacts;
mod evaluation;
mod fixture;
mod goldens;
mod holdout;
mod initial;
mod layouts;
mod loading;
mod objectives;
mod parts;
mod prediction;
mod resuming;
mod running;
mod statistics;
mod targets;
