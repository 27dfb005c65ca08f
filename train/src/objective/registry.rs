//! The table of objectives, and weighted choices of them.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::{
    Combined, InputError, Inputs, Objective, ObjectiveError, ObjectiveKind, ObjectiveSettings, ObjectiveSpec,
    WantedOutputs,
};
use crate::student::Architecture;

/// What objectives are built from: a run's settings and its inputs.
pub struct Setup<'a> {
    /// The inputs that the chosen objectives declare, present and of one cache.
    pub inputs: Inputs<'a>,
    /// The settings.
    pub settings: &'a ObjectiveSettings,
    /// The student.
    pub student: Architecture,
    /// Seed of the run.
    pub seed: u64,
    /// Device on which losses are computed.
    pub device: &'a Device,
}

/// The declarations in an objective's file.
pub(super) trait Declared: Objective + Sized + 'static {
    /// Name, inputs, flags and source.
    const SPEC: ObjectiveSpec;

    /// Checks conditions beyond the inputs in [`SPEC`](Self::SPEC), by settings and manifests only. No column is
    /// opened.
    fn check(_setup: &Setup<'_>) -> Result<(), InputError> {
        Ok(())
    }

    /// Builds the objective of a run whose inputs were checked.
    fn build(setup: &Setup<'_>) -> Result<Self, InputError>;
}

/// Defines [`ObjectiveKind`] and [`ObjectiveSettings`] from one line per objective: its variant, its type, and its settings if it has any.
macro_rules! objectives {
    ($($(#[$doc:meta])* $kind:ident: $objective:ty $(, $module:ident: $settings:ty)?;)+) => {
        /// An objective by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ObjectiveKind {
            $($(#[$doc])* $kind,)+
        }

        impl ObjectiveKind {
            /// Every objective.
            pub const ALL: [Self; [$(stringify!($kind)),+].len()] = [$(Self::$kind),+];

            /// Name, inputs, flags and source, for the registry and the command line.
            pub fn spec(self) -> &'static ObjectiveSpec {
                match self {
                    $(Self::$kind => &<$objective as $crate::objective::registry::Declared>::SPEC,)+
                }
            }

            fn check(self, setup: &Setup<'_>) -> Result<(), InputError> {
                match self {
                    $(Self::$kind => <$objective as $crate::objective::registry::Declared>::check(setup),)+
                }
            }

            fn build(self, setup: &Setup<'_>) -> Result<Box<dyn Objective>, InputError> {
                match self {
                    $(Self::$kind => {
                        let built = <$objective as $crate::objective::registry::Declared>::build(setup)?;
                        Ok(Box::new(built))
                    })+
                }
            }
        }

        /// Settings of all objectives, by group: flags of `lgd train`, and flat members of `config.toml`. A setting that no chosen
        /// objective reads has no effect.
        #[derive(Debug, Clone, Copy, PartialEq, Default, clap::Args, serde::Serialize, serde::Deserialize)]
        pub struct ObjectiveSettings {
            #[command(flatten)]
            #[serde(flatten)]
            #[allow(missing_docs, reason = "a doc comment here would become help text")]
            pub shared: SharedSettings,
            $($(
                #[command(flatten)]
                #[serde(flatten)]
                #[allow(missing_docs, reason = "a doc comment here would become help text")]
                pub $module: $settings,
            )?)+
        }

        impl ObjectiveSettings {
            /// The groups.
            fn groups(&self) -> Vec<&dyn SettingGroup> {
                vec![&self.shared as &dyn SettingGroup $($(, &self.$module as &dyn SettingGroup)?)+]
            }
        }
    };
}
pub(super) use objectives;

/// An objective and its weight in the sum.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectiveChoice {
    /// The objective.
    pub kind: ObjectiveKind,
    /// Factor of its loss: a positive number.
    pub weight: f32,
}

/// Objectives that a student is trained for together: at least one, none twice, `supervised` alone.
///
/// As text `lgd,kdep:0.5`: an objective without a weight has its default one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Objectives(Vec<ObjectiveChoice>);

impl Objectives {
    /// `kind` alone, with its default weight.
    pub fn only(kind: ObjectiveKind) -> Self {
        Self(vec![ObjectiveChoice { kind, weight: kind.spec().default_weight }])
    }

    /// The objectives, in the order given.
    pub fn choices(&self) -> &[ObjectiveChoice] {
        &self.0
    }

    /// The objectives without their weights.
    pub fn kinds(&self) -> impl Iterator<Item = ObjectiveKind> + '_ {
        self.0.iter().map(|choice| choice.kind)
    }

    /// The student's outputs that their losses read.
    pub fn outputs(&self) -> WantedOutputs {
        self.kinds().fold(WantedOutputs::NONE, |outputs, kind| outputs.union(kind.spec().outputs))
    }

    /// Whether `kind` is one of them.
    pub fn contain(&self, kind: ObjectiveKind) -> bool {
        self.kinds().any(|chosen| chosen == kind)
    }

    /// Checks settings and inputs against each other, by manifests only.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self, setup: &Setup<'_>) -> Result<(), InputError> {
        self.kinds().try_for_each(|kind| kind.check(setup))
    }

    /// Builds the objective of a run: the weighted sum of the chosen objectives. A single objective of weight 1 is
    /// returned unwrapped.
    ///
    /// # Errors
    /// If an input cannot be read, or the device fails.
    pub fn build(&self, setup: &Setup<'_>) -> Result<Box<dyn Objective>, InputError> {
        if let [ObjectiveChoice { kind, weight: 1.0 }] = self.0[..] {
            return kind.build(setup);
        }
        let part = |choice: &ObjectiveChoice| {
            Ok((choice.kind.spec().name, choice.weight, choice.kind.build(setup)?))
        };
        let parts = self.0.iter().map(part).collect::<Result<Vec<_>, InputError>>()?;
        Ok(Box::new(Combined::new(parts)?))
    }
}

impl Default for Objectives {
    /// LGD alone.
    fn default() -> Self {
        Self::only(ObjectiveKind::Lgd)
    }
}

impl fmt::Display for Objectives {
    /// Writes every weight, so that a later change of a default has no effect.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ObjectiveChoice { kind, weight }) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{kind}:{weight}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ObjectiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}

impl FromStr for ObjectiveKind {
    type Err = ObjectiveError;

    fn from_str(name: &str) -> Result<Self, ObjectiveError> {
        let found = Self::ALL.into_iter().find(|kind| kind.spec().name == name);
        found.ok_or_else(|| {
            let known = Self::ALL.map(|kind| kind.spec().name).join(", ");
            ObjectiveError::Unknown { name: name.to_owned(), known }
        })
    }
}

impl FromStr for Objectives {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        let mut chosen = Self(Vec::new());
        for part in text.split(',') {
            let (name, weight) =
                part.split_once(':').map_or((part, None), |(name, weight)| (name, Some(weight)));
            let kind: ObjectiveKind = name.trim().parse()?;
            let weight = weight.map_or(Ok(kind.spec().default_weight), |text| weight_of(kind, text))?;
            if chosen.contain(kind) {
                return Err(ObjectiveError::Choice {
                    reason: format!("the objective {kind} is listed twice"),
                });
            }
            chosen.0.push(ObjectiveChoice { kind, weight });
        }
        if chosen.0.len() > 1 && chosen.contain(ObjectiveKind::Supervised) {
            let reason =
                "supervised trains a classifier, the other objectives an embedding; it cannot be combined"
                    .to_owned();
            return Err(ObjectiveError::Choice { reason });
        }
        Ok(chosen)
    }
}

fn weight_of(kind: ObjectiveKind, text: &str) -> Result<f32, ObjectiveError> {
    let weight = text.trim().parse().ok().filter(|weight: &f32| weight.is_finite() && *weight > 0.0);
    weight.ok_or_else(|| ObjectiveError::Choice {
        reason: format!("the weight of {kind} is {text:?}, expected a positive number"),
    })
}

impl TryFrom<String> for Objectives {
    type Error = ObjectiveError;

    fn try_from(text: String) -> Result<Self, ObjectiveError> {
        text.parse()
    }
}

impl From<Objectives> for String {
    fn from(objectives: Objectives) -> Self {
        objectives.to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Args;

    use super::*;
    use crate::objective::IdleFlag;

    #[test]
    fn choices_are_read_and_written() {
        let read = |text: &str| text.parse::<Objectives>().unwrap().to_string();
        assert_eq!(read("lgd"), "lgd:1");
        assert_eq!(read("kdep"), "kdep:3");
        assert_eq!(read("lgd, seed:0.25,kdep:0.5"), "lgd:1,seed:0.25,kdep:0.5");
        let json = serde_json::to_string(&Objectives::default()).unwrap();
        assert_eq!(json, "\"lgd:1\"");
        assert_eq!(serde_json::from_str::<Objectives>(&json).unwrap(), Objectives::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refusals = [
            ("lgd,lgd:2", "listed twice"),
            ("lgd,supervised", "cannot be combined"),
            ("lgd,banana", "lgd, seed"),
            ("", "unknown objective"),
            ("lgd:0", "positive"),
            ("lgd:-1", "positive"),
            ("lgd:nan", "positive"),
            ("lgd:", "positive"),
        ];
        for (text, part) in refusals {
            let error = text.parse::<Objectives>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn specifications_are_complete_and_names_differ() {
        for (index, kind) in ObjectiveKind::ALL.into_iter().enumerate() {
            let spec = kind.spec();
            assert!(!spec.about.is_empty() && !spec.source.is_empty() && spec.default_weight > 0.0, "{kind}");
            assert!(ObjectiveKind::ALL[..index].iter().all(|other| other.spec().name != spec.name), "{kind}");
        }
    }

    /// A flag in a `SPEC` that no group defines would not exist. A flag in a group that no `SPEC` names would be
    /// refused with every objective.
    #[test]
    fn every_setting_is_named_by_an_objective_that_reads_it() {
        let command = ObjectiveSettings::augment_args(clap::Command::new("train"));
        let defined: BTreeSet<String> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .map(|long| format!("--{long}"))
            .collect();
        let named = ObjectiveKind::ALL.iter().flat_map(|kind| kind.spec().flags).map(|&flag| flag.to_owned());
        let settings: BTreeSet<String> = named.filter(|flag| flag != "--bank").collect();
        assert_eq!(defined, settings);
        let idle = ObjectiveSettings::default().idle();
        assert!(!idle.is_empty(), "--vsb-momentum without --vsb ema");
        for IdleFlag { flag, needs, .. } in idle {
            let needs = needs.split_once(' ').map_or(needs, |(flag, _value)| flag);
            assert!(defined.contains(flag) && defined.contains(needs), "{flag} or {needs} is no flag");
        }
    }

    #[test]
    fn defaults_on_the_command_line_are_those_of_the_settings() {
        let command = ObjectiveSettings::augment_args(clap::Command::new("train"));
        let matches = command.get_matches_from(["train"]);
        let parsed = <ObjectiveSettings as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
        assert_eq!(parsed, ObjectiveSettings::default());
    }
}
