//! Loader, run folder, checkpoints, training loop and evaluation, on small synthetic images.

mod evaluation;
mod fixture;
mod goldens;
mod loading;
mod resuming;
mod running;
