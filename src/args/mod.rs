//! The flags of every command, one file per command. Values are validated here, once; [`crate::commands`] turns them
//! into resolved objects.

mod bank;
mod eval;
mod export;
mod extract;
mod objectives;
mod teacher;
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
pub use self::teacher::TeacherArgs;
pub use self::train::{OptimizerArg, ScheduleArg, TrainArgs};

/// Cache a vision teacher once, aim it at any category names in seconds, train small students from the cache.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
pub struct Args {
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 done, but more rejects than allowed; 2 usage or configuration;
3 a cache, bank, run or checkpoint that is bad, does not belong, or cannot be read or written;
75 interrupted: run it again, extract and train with --resume.";

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Show how a teacher's folder is understood, run both encoders once, and measure the teacher.
    Teacher(TeacherArgs),
    /// Run the teacher once over K replayable views of every image and cache the embeddings.
    Extract(ExtractArgs),
    /// Turn category names or cached features into targets for every view, from the cache alone.
    Bank(BankArgs),
    /// Train a student from a cache with one or more objectives.
    Train(TrainArgs),
    /// List the training objectives.
    Objectives(ObjectivesArgs),
    /// Measure a student, and its teacher for comparison.
    Eval(EvalArgs),
    /// Export a finished student as one ONNX file.
    Export(ExportArgs),
    /// Summarize a cache, bank or run.
    Inspect(InspectArgs),
    /// Check every byte of a cache, bank or run against its manifest.
    Verify(VerifyArgs),
}

/// The output folder, and the policy for one that already contains something.
#[derive(ClapArgs)]
pub struct OutputArgs {
    /// Output folder.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Continue an unfinished job in the folder.
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Replace the cache or run in the folder; other files are kept.
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

/// The ONNX Runtime library, its device and its threads.
#[derive(ClapArgs)]
pub struct RuntimeArgs {
    /// ONNX Runtime shared library. Default: ORT_DYLIB_PATH, then third_party/onnxruntime.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Device of the encoders: cpu, cuda:0,1 or tensorrt:0.
    #[arg(long, default_value = "cpu")]
    pub device: ExecutionDevice,
    /// CPU threads; 0 means all cores.
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

/// Flags of `lgd inspect`.
#[derive(ClapArgs)]
pub struct InspectArgs {
    /// Cache, bank or run folder.
    pub path: PathBuf,
    /// Print the JSON manifest instead of a summary.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `lgd verify`.
#[derive(ClapArgs)]
pub struct VerifyArgs {
    /// Cache, bank or run folder.
    pub path: PathBuf,
}
