//! The flags of every command, a file each. Values are checked here, once; [`crate::commands`] turns them into resolved objects.

mod bank;
mod eval;
mod export;
mod extract;
mod objectives;
mod train;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use lgd_data::manifest::Existing;
use lgd_extract::ExecutionDevice;

pub use self::bank::{BankArgs, BankTarget};
pub use self::eval::EvalArgs;
pub use self::export::ExportArgs;
pub use self::extract::{ExtractArgs, StoreTokens, StoreViews};
pub use self::objectives::{ObjectiveArgs, ObjectivesArgs};
pub use self::train::{OptimizerArg, ScheduleArg, TrainArgs};

/// Cache a vision teacher once, aim it at any category names in seconds, train small students from the cache.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 done, but more rejects than allowed; 2 usage or configuration;
3 a cache, bank, run or checkpoint that is bad, does not belong, or cannot be read or written;
75 interrupted: run it again, extract and train with --resume.";

/// The stages.
#[derive(Subcommand)]
pub enum Command {
    /// Run the teacher once over K replayable views of every image and cache the embeddings.
    Extract(ExtractArgs),
    /// Turn category names, or cached features, into targets for every view, from the cache alone.
    Bank(BankArgs),
    /// Train a student from a cache, for one objective or several.
    Train(TrainArgs),
    /// List the objectives that a student can be trained for.
    Objectives(ObjectivesArgs),
    /// Measure a student, and its teacher beside it.
    Eval(EvalArgs),
    /// Write a finished student as one ONNX file.
    Export(ExportArgs),
    /// Show what a cache, bank or run is made of.
    Inspect(InspectArgs),
    /// Check every byte of a cache, bank or run against its manifest.
    Verify(VerifyArgs),
}

/// What to do with an output folder that already holds something.
#[derive(ClapArgs)]
pub struct OutputArgs {
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Go on with an unfinished job in the folder.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the cache or run in the folder; other files stay.
    #[arg(long)]
    pub overwrite: bool,
}

impl OutputArgs {
    /// Both flags as one value.
    pub fn existing(&self) -> Existing {
        match (self.resume, self.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        }
    }
}

/// The ONNX Runtime library, and how much of the machine it may use.
#[derive(ClapArgs)]
pub struct RuntimeArgs {
    /// The ONNX Runtime shared library; default: ORT_DYLIB_PATH, then third_party/onnxruntime.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Where encoders run: cpu, cuda:0,1 or tensorrt:0.
    #[arg(long, default_value = "cpu")]
    pub device: ExecutionDevice,
    /// CPU threads; 0 = all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// `lgd inspect`.
#[derive(ClapArgs)]
pub struct InspectArgs {
    /// A cache, bank or run folder.
    pub path: PathBuf,
    /// Print the manifest, which is JSON, instead of a summary.
    #[arg(long)]
    pub json: bool,
}

/// `lgd verify`.
#[derive(ClapArgs)]
pub struct VerifyArgs {
    /// A cache, bank or run folder.
    pub path: PathBuf,
}
