//! `lgd objectives`, and the objective settings of `lgd train`.

use anyhow::bail;
use lgd_train::objective::{IdleFlag, ObjectiveKind, ObjectiveSettings, ObjectiveSpec};

use super::{print, print_json};
use crate::args::{ObjectiveArgs, ObjectivesArgs};
use crate::exit::Exit;

/// Prints the list of objectives.
pub fn run(args: &ObjectivesArgs) -> anyhow::Result<Exit> {
    let specs = ObjectiveKind::ALL.map(ObjectiveKind::spec);
    if args.json {
        print_json(&specs)?
    } else {
        print(&table(&specs))?
    }
    Ok(Exit::Done)
}

/// One line per objective. The widest column is last.
fn table(specs: &[&ObjectiveSpec]) -> String {
    let heading = ["objective", "weight", "needs", "flags", "source", "about"].map(str::to_owned);
    let list = |words: &[String], separator: &str| match words {
        [] => "-".to_owned(),
        words => words.join(separator),
    };
    let row = |spec: &&ObjectiveSpec| {
        let needs: Vec<String> = spec.needs.iter().map(ToString::to_string).collect();
        let flags: Vec<String> = spec.flags.iter().map(|&flag| flag.to_owned()).collect();
        let (needs, flags) = (list(&needs, ", "), list(&flags, " "));
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

/// The objective settings given on the command line, or their defaults.
///
/// Fails for a flag that no selected objective reads: it would silently have no effect.
pub fn settings(args: &ObjectiveArgs) -> anyhow::Result<ObjectiveSettings> {
    for flag in args.typed.iter() {
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
    for IdleFlag { flag, owner, needs } in args.settings.idle() {
        if args.typed.iter().any(|typed| typed == flag) {
            bail!("{flag} is a setting of {owner}\nhint: leave it out, or add {needs}");
        }
    }
    Ok(args.settings)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn typed(words: &[&str]) -> anyhow::Result<ObjectiveSettings> {
        let line = ["lgd", "train", "--cache", "c", "--out", "o"].iter().chain(words);
        let Args { command, .. } = Args::try_parse_from(line)?;
        let Command::Train(args) = command else { panic!("train is not train") };
        settings(&args.objective)
    }

    #[test]
    fn settings_that_are_typed_replace_defaults() {
        assert_eq!(typed(&[]).unwrap(), ObjectiveSettings::default());
        let settings = typed(&["--objective", "seed", "--queue", "12", "--tau-s", "0.1"]).unwrap();
        let mut expected = ObjectiveSettings::default();
        (expected.shared.queue, expected.shared.student_temperature) = (12, 0.1);
        assert_eq!(settings, expected);
    }

    /// A flag is refused even if its value equals the default.
    #[test]
    fn a_flag_that_no_chosen_objective_reads_is_refused() {
        for kind in ObjectiveKind::ALL {
            let objective = kind.spec().name;
            for (flag, value) in
                [("--queue", "65536"), ("--tau-t", "0.01"), ("--beta", "1"), ("--alpha", "0.5")]
            {
                let settings = typed(&["--objective", objective, flag, value]);
                assert_eq!(settings.is_ok(), kind.spec().flags.contains(&flag), "{objective} {flag}");
            }
        }
        assert!(typed(&["--vsb-momentum", "0.9"]).unwrap_err().to_string().contains("add --vsb ema"));
        assert!(typed(&["--vsb-momentum", "0.9", "--vsb", "ema"]).is_ok());
    }
}
