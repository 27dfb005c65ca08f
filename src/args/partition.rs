//! `--partition`: a part of the shards, given as I/N or taken from a scheduler's variables.

use std::str::FromStr;

use anyhow::{Context, bail};
use lgd_data::cache::Partition;

use crate::say::say;

/// The value of `--partition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionArg {
    /// I/N.
    Given(Partition),
    /// `auto` or `auto/N`: the scheduler says which part this is, and of how many unless N does.
    Auto(Option<usize>),
}

impl FromStr for PartitionArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix("auto") else { return text.parse().map(Self::Given) };
        match rest.strip_prefix('/').map(str::parse) {
            None if rest.is_empty() => Ok(Self::Auto(None)),
            Some(Ok(of)) if of > 0 => Ok(Self::Auto(Some(of))),
            _ => Err(format!("expected I/N, auto or auto/N with N at least 1, got {text:?}")),
        }
    }
}

impl PartitionArg {
    /// The part. Prints which one the scheduler chose.
    ///
    /// # Errors
    /// `auto` without a scheduler's variables, or with variables that name no part.
    pub fn resolve(self) -> anyhow::Result<Partition> {
        let of = match self {
            Self::Given(partition) => return Ok(partition),
            Self::Auto(of) => of,
        };
        let (partition, place) =
            scheduled(of, &|name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
        say(format_args!("note: --partition auto is {}/{} by {}", place.index, place.of, place.variables));
        Ok(partition)
    }
}

/// This process among all that a scheduler starts for one command.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    index: usize,
    of: usize,
    /// The variables that say so.
    variables: String,
}

/// Variables of a scheduler.
struct Scheduler {
    /// Number of this process, from 0.
    index: &'static str,
    /// Number of processes.
    of: Option<&'static str>,
    /// A variable without which the others do not describe this process.
    requires: Option<&'static str>,
}

const fn scheduler(index: &'static str, of: Option<&'static str>) -> Scheduler {
    Scheduler { index, of, requires: None }
}

/// Tasks of an array job. Slurm's are read by [`slurm_array`], because its numbers may start anywhere.
const ARRAYS: [Scheduler; 2] = [
    scheduler("AWS_BATCH_JOB_ARRAY_INDEX", Some("AWS_BATCH_JOB_ARRAY_SIZE")),
    // An indexed Kubernetes job has no variable with the number of completions.
    scheduler("JOB_COMPLETION_INDEX", None),
];

/// Ranks within a job, the innermost launcher first: torchrun may itself be started by srun.
const RANKS: [Scheduler; 4] = [
    scheduler("RANK", Some("WORLD_SIZE")),
    scheduler("OMPI_COMM_WORLD_RANK", Some("OMPI_COMM_WORLD_SIZE")),
    scheduler("PMI_RANK", Some("PMI_SIZE")),
    // A batch script has SLURM_PROCID too, although only `srun` starts several processes.
    Scheduler { index: "SLURM_PROCID", of: Some("SLURM_STEP_NUM_TASKS"), requires: Some("SLURM_STEP_ID") },
];

/// The part of this process. A rank within a task of an array is a part of the task's part.
fn scheduled(of: Option<usize>, read: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<(Partition, Place)> {
    let array = match slurm_array(read)? {
        Some(place) => Some(place),
        None => place(&ARRAYS, of, read)?,
    };
    let rank = place(&RANKS, None, read)?;
    let place = match (array, rank) {
        (Some(array), Some(rank)) => Place {
            index: array.index * rank.of + rank.index,
            of: array.of * rank.of,
            variables: format!("{} and {}", array.variables, rank.variables),
        },
        (Some(place), None) | (None, Some(place)) => place,
        (None, None) => bail!(
            "--partition auto: none of the variables is set that Slurm, Kubernetes, AWS Batch, torchrun and mpirun set\nhint: give --partition I/N"
        ),
    };
    if let Some(of) = of.filter(|of| *of != place.of) {
        bail!(
            "--partition auto/{of}: {} says that there are {} parts\nhint: leave out /{of}",
            place.variables,
            place.of
        );
    }
    let partition = Partition::new(place.index, place.of)
        .with_context(|| format!("--partition auto: {} is no part of {}", place.index, place.of))?;
    Ok((partition, place))
}

/// The task of a Slurm array, which counts from any number in any step.
fn slurm_array(read: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<Place>> {
    const ID: &str = "SLURM_ARRAY_TASK_ID";
    let Some(id) = number(ID, read)? else { return Ok(None) };
    let rest = |name| -> anyhow::Result<usize> {
        number(name, read)?.with_context(|| {
            format!("--partition auto: {ID} is set, but not {name}\nhint: give --partition I/N")
        })
    };
    let (first, last, of) =
        (rest("SLURM_ARRAY_TASK_MIN")?, rest("SLURM_ARRAY_TASK_MAX")?, rest("SLURM_ARRAY_TASK_COUNT")?);
    let step = last.saturating_sub(first).checked_div(of.saturating_sub(1)).unwrap_or(1).max(1);
    let regular =
        first + step * of.saturating_sub(1) == last && id >= first && (id - first).is_multiple_of(step);
    if !regular {
        bail!(
            "--partition auto: the {of} tasks of the array, {first} to {last}, have gaps, so a task does not know its place\nhint: \
             submit an array without gaps, such as --array=0-{}, or give --partition I/N",
            of.saturating_sub(1)
        );
    }
    Ok(Some(Place { index: (id - first) / step, of, variables: ID.to_owned() }))
}

/// The first of `schedulers` that is present. `given`: the number of processes where no variable has it.
fn place(
    schedulers: &[Scheduler],
    given: Option<usize>,
    read: &dyn Fn(&str) -> Option<String>,
) -> anyhow::Result<Option<Place>> {
    for Scheduler { index, of, requires } in schedulers {
        if requires.is_some_and(|name| read(name).is_none()) {
            continue;
        }
        let Some(at) = number(index, read)? else { continue };
        let counted = of.map(|name| number(name, read)).transpose()?.flatten();
        let Some(of) = counted.or(given) else {
            bail!(
                "--partition auto: {index} is set, but nothing says how many parts there are\nhint: give --partition auto/N"
            );
        };
        return Ok(Some(Place { index: at, of, variables: (*index).to_owned() }));
    }
    Ok(None)
}

/// The value of a variable.
fn number(name: &str, read: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Option<usize>> {
    let Some(text) = read(name) else { return Ok(None) };
    let number = text.trim().parse();
    Ok(Some(number.with_context(|| format!("--partition auto: {name}={text:?} is no number"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part under `variables`, "NAME=VALUE" separated by blanks.
    fn part(of: Option<usize>, variables: &str) -> Result<(usize, usize), String> {
        let read = |name: &str| {
            let found =
                variables.split(' ').filter_map(|entry| entry.split_once('=')).find(|entry| entry.0 == name);
            found.map(|entry| entry.1.to_owned())
        };
        scheduled(of, &read).map(|(_, place)| (place.index, place.of)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn every_scheduler_names_its_part() {
        let slurm = |id: usize, first: usize, last: usize, count: usize| {
            format!(
                "SLURM_ARRAY_TASK_ID={id} SLURM_ARRAY_TASK_MIN={first} SLURM_ARRAY_TASK_MAX={last} SLURM_ARRAY_TASK_COUNT={count}"
            )
        };
        assert_eq!(part(None, &slurm(3, 1, 6, 6)), Ok((2, 6)), "--array=1-6");
        assert_eq!(part(None, &slurm(8, 0, 12, 4)), Ok((2, 4)), "--array=0-12:4");
        assert_eq!(part(None, &slurm(5, 5, 5, 1)), Ok((0, 1)), "--array=5");
        assert_eq!(part(None, "AWS_BATCH_JOB_ARRAY_INDEX=4 AWS_BATCH_JOB_ARRAY_SIZE=5"), Ok((4, 5)));
        assert_eq!(part(Some(8), "JOB_COMPLETION_INDEX=7"), Ok((7, 8)));
        assert_eq!(part(None, "RANK=1 WORLD_SIZE=4 LOCAL_RANK=0"), Ok((1, 4)));
        assert_eq!(part(None, "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2"), Ok((0, 2)));
        assert_eq!(part(None, "PMI_RANK=1 PMI_SIZE=2"), Ok((1, 2)));
        let srun = "SLURM_PROCID=2 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=3";
        assert_eq!(part(None, srun), Ok((2, 3)));
        assert_eq!(part(None, &format!("{srun} RANK=5 WORLD_SIZE=12")), Ok((5, 12)), "torchrun under srun");
        assert_eq!(
            part(None, &format!("{srun} {}", slurm(1, 0, 1, 2))),
            Ok((5, 6)),
            "srun in a task of an array"
        );
        // In a batch script, which is one process for all of the job's tasks.
        assert_eq!(part(None, &format!("SLURM_PROCID=0 SLURM_NTASKS=4 {}", slurm(1, 0, 1, 2))), Ok((1, 2)));
    }

    #[test]
    fn a_part_that_is_not_certain_is_refused() {
        for (of, variables, told) in [
            (None, "SLURM_PROCID=0 SLURM_NTASKS=4", "none of the variables"),
            (None, "JOB_COMPLETION_INDEX=1", "--partition auto/N"),
            (None, "SLURM_ARRAY_TASK_ID=3", "not SLURM_ARRAY_TASK_MIN"),
            (
                None,
                "SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_COUNT=3",
                "have gaps",
            ),
            (None, "RANK=4 WORLD_SIZE=4", "4 is no part of 4"),
            (None, "RANK=a WORLD_SIZE=4", "RANK=\"a\" is no number"),
            (Some(5), "RANK=1 WORLD_SIZE=4", "says that there are 4 parts"),
            (Some(3), "JOB_COMPLETION_INDEX=3", "3 is no part of 3"),
        ] {
            let error = part(of, variables).unwrap_err();
            assert!(error.contains(told), "{variables}: {error}");
        }
    }

    #[test]
    fn the_flag_takes_a_part_or_auto() {
        assert_eq!("1/3".parse(), Ok(PartitionArg::Given(Partition::new(1, 3).unwrap())));
        assert_eq!("auto".parse(), Ok(PartitionArg::Auto(None)));
        assert_eq!("auto/6".parse(), Ok(PartitionArg::Auto(Some(6))));
        for text in ["", "3/3", "auto/", "auto/0", "auto6", "Auto"] {
            assert!(text.parse::<PartitionArg>().is_err(), "{text}");
        }
    }
}
