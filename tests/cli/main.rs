//! The command line, tested on the demo's teacher and a few CIFAR-10 images (`scripts/setup`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod align;
mod archives;
mod bad_input;
mod changed_files;
mod common;
mod config;
mod damage;
mod evaluation;
mod export;
mod export_forms;
mod fuzz_corpus;
mod hostile;
mod kdep;
mod limits;
mod objectives;
mod optional;
mod outputs;
mod parquet;
mod pipeline;
mod plan;
mod prediction;
mod races;
mod repair;
mod report;
mod software_gpu;
mod stored_views;
mod stores;
mod teacher;
mod terminal;
mod watching;
