//! Flags of `lgd objectives`, and the objectives of `lgd train` with their settings.

use std::collections::BTreeSet;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args as ClapArgs, Command, Error, FromArgMatches};
use lgd_train::objective::{ObjectiveKind, ObjectiveSettings, Objectives};

use crate::hints;

/// Flags of `lgd objectives`.
#[derive(ClapArgs)]
pub struct ObjectivesArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// The objectives of `lgd train` and their settings. A setting is accepted only if a selected objective reads it.
#[derive(ClapArgs)]
pub struct ObjectiveArgs {
    // This field is first because clap removes values from its matches as it reads them.
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub typed: TypedFlags,
    /// Objectives to train with, separated by commas, each with an optional weight in the sum after a colon, for
    /// example lgd,kdep:0.5. Default weights are those of the papers, also for a single objective: 3 for kdep, 1 for
    /// the others. `lgd objectives` lists them.
    #[arg(long, value_name = "NAME[:WEIGHT],...", default_value = ObjectiveKind::Lgd.spec().name, value_parser = objectives)]
    pub objective: Objectives,
    #[command(flatten)]
    #[allow(missing_docs, reason = "a doc comment here would become help text")]
    pub settings: ObjectiveSettings,
}

fn objectives(text: &str) -> Result<Objectives, String> {
    text.parse().map_err(|error| hints::hinted(&error))
}

/// Flags of objective settings that were given on the command line, not left at their defaults.
pub struct TypedFlags(BTreeSet<String>);

impl TypedFlags {
    /// The flags, with their leading dashes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl ClapArgs for TypedFlags {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for TypedFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let settings = ObjectiveSettings::augment_args(Command::new("settings"));
        let typed = settings
            .get_arguments()
            .filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine));
        Ok(Self(typed.filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
