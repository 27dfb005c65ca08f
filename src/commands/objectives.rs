//! `lgd objectives`, and the settings of objectives that `lgd train` takes.

use anyhow::bail;
use lgd_train::objective::{ObjectiveKind, ObjectiveSpec};
use lgd_train::run::{ObjectiveSettings, VisualMode};

use super::{print, print_json};
use crate::args::{ObjectiveArgs, ObjectivesArgs};
use crate::exit::Exit;

/// Lists the objectives.
pub fn run(args: &ObjectivesArgs) -> anyhow::Result<Exit> {
    let specs = ObjectiveKind::ALL.map(ObjectiveKind::spec);
    if args.json {
        print_json(&specs)?
    } else {
        print(&table(&specs))?
    }
    Ok(Exit::Done)
}

/// One line per objective; the last column is the widest.
fn table(specs: &[&ObjectiveSpec]) -> String {
    let heading = ["objective", "weight", "needs", "flags", "source", "about"].map(str::to_owned);
    let list = |words: &[&str], separator: &str| match words {
        [] => "-".to_owned(),
        words => words.join(separator),
    };
    let row = |spec: &&ObjectiveSpec| {
        let (needs, flags) = (list(spec.needs, ", "), list(spec.flags, " "));
        let weight = spec.default_weight.to_string();
        [spec.name.to_owned(), weight, needs, flags, spec.source.to_owned(), spec.about.to_owned()]
    };
    let rows: Vec<[String; 6]> = std::iter::once(heading).chain(specs.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    let line = |[name, weight, needs, flags, source, about]: &[String; 6]| {
        let [a, b, c, d, e] = widths;
        format!("{name:<a$}  {weight:<b$}  {needs:<c$}  {flags:<d$}  {source:<e$}  {about}")
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The flags of settings, and whether they were typed.
fn typed(args: &ObjectiveArgs) -> [(&'static str, bool); 11] {
    [
        ("--alpha", args.alpha.is_some()),
        ("--tau-s", args.tau_s.is_some()),
        ("--vsb", args.vsb.is_some()),
        ("--vsb-momentum", args.vsb_momentum.is_some()),
        ("--slots", args.slots.is_some()),
        ("--queue", args.queue.is_some()),
        ("--tau-t", args.tau_t.is_some()),
        ("--tau-caption", args.tau_caption.is_some()),
        ("--mask-ratio", args.mask_ratio.is_some()),
        ("--beta", args.beta.is_some()),
        ("--lambda-sim", args.lambda_sim.is_some()),
    ]
}

/// The default settings with whatever was typed in their place.
///
/// A setting that was typed and that no chosen objective reads is refused: it would be without effect, and nobody would notice.
pub fn settings(args: &ObjectiveArgs) -> anyhow::Result<ObjectiveSettings> {
    for (flag, _) in typed(args).into_iter().filter(|(_, typed)| *typed) {
        let reads = |kind: &ObjectiveKind| kind.spec().flags.contains(&flag);
        if !args.objective.kinds().any(|kind| reads(&kind)) {
            let readers: Vec<&str> =
                ObjectiveKind::ALL.iter().filter(|kind| reads(kind)).map(|kind| kind.spec().name).collect();
            let (chosen, readers) = (&args.objective, readers.join(" and "));
            bail!(
                "{flag} is a setting of {readers}, the objective is {chosen}\nhint: leave it out, or choose with --objective"
            );
        }
    }
    let defaults = ObjectiveSettings::default();
    let vsb = args.vsb.unwrap_or(defaults.vsb);
    if args.vsb_momentum.is_some() && vsb != VisualMode::Ema {
        bail!("--vsb-momentum is a setting of the moving-average bank\nhint: leave it out, or add --vsb ema");
    }
    Ok(ObjectiveSettings {
        alpha: args.alpha.unwrap_or(defaults.alpha),
        student_temperature: args.tau_s.unwrap_or(defaults.student_temperature),
        vsb,
        vsb_momentum: args.vsb_momentum.unwrap_or(defaults.vsb_momentum),
        slots: args.slots.unwrap_or(defaults.slots),
        queue: args.queue.unwrap_or(defaults.queue),
        teacher_temperature: args.tau_t.unwrap_or(defaults.teacher_temperature),
        caption_temperature: args.tau_caption.unwrap_or(defaults.caption_temperature),
        mask_ratio: args.mask_ratio.unwrap_or(defaults.mask_ratio),
        beta: args.beta.unwrap_or(defaults.beta),
        lambda_sim: args.lambda_sim.unwrap_or(defaults.lambda_sim),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::{Args, Command};

    /// A flag that a `SPEC` names and `typed` forgets would be ignored in silence where it has no effect.
    #[test]
    fn every_flag_of_an_objective_is_known_to_the_command_line() {
        let command = Args::command();
        let train = command.find_subcommand("train").unwrap();
        let known: BTreeSet<String> =
            train.get_arguments().filter_map(|arg| arg.get_long()).map(|long| format!("--{long}")).collect();
        let named: BTreeSet<&str> =
            ObjectiveKind::ALL.iter().flat_map(|kind| kind.spec().flags).copied().collect();
        assert!(named.iter().all(|flag| known.contains(*flag)), "{named:?}");
        let Args { command } = Args::try_parse_from(["lgd", "train", "--cache", "c", "--out", "o"]).unwrap();
        let Command::Train(args) = command else { panic!("train is not train") };
        let settings: BTreeSet<&str> = typed(&args.objective).into_iter().map(|(flag, _)| flag).collect();
        let missing: Vec<&&str> = named.difference(&settings).collect();
        assert_eq!(missing, [&"--bank"], "banks are not settings, all else is");
        assert!(settings.is_subset(&named), "{settings:?}");
    }
}
