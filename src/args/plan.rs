//! Flags of `lgd plan`.

use clap::{Args as ClapArgs, Subcommand};

use super::{ExtractArgs, TrainArgs};

/// Flags of `lgd plan`.
#[derive(ClapArgs)]
pub struct PlanArgs {
    /// Seconds to measure for, besides opening the inputs. A few batches are measured in any case; more seconds make the
    /// estimate surer.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The command to plan, with its flags.
    #[command(subcommand)]
    pub job: PlannedJob,
}

/// The commands that can be planned.
#[derive(Subcommand)]
pub enum PlannedJob {
    /// Plan `lgd extract` with the same flags. Nothing is written to the output folder.
    Extract(Box<ExtractArgs>),
    /// Plan `lgd train` with the same flags. Nothing is written to the output folder.
    Train(Box<TrainArgs>),
}
