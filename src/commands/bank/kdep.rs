//! `lgd bank --target kdep`: computes KDEP's targets from cached features.

use lgd_bank::{BankError, KdepReport, KdepRequest, PowerTemperature, build_kdep};
use lgd_data::cache::Cache;

use crate::args::BankArgs;
use crate::commands::print_report;
use crate::progress::{JOB, Progress};
use crate::say::{say, warn};

/// Builds a KDEP bank with targets of width `dim`.
pub fn run(cache: &Cache, args: &BankArgs, dim: usize) -> anyhow::Result<()> {
    let record = cache.manifest().config.features.as_ref();
    let (Some(record), Some(features)) = (record, cache.features()?) else {
        return Err(BankError::NoFeatures { path: cache.dir().to_owned() }.into());
    };
    let request = KdepRequest {
        cache,
        features: &features,
        output: &record.output,
        dim,
        pts: PowerTemperature::new(args.pts_temperature, args.pts_power)?,
        fit_rows: args.fit_rows,
        out: &args.out,
        existing: args.existing(),
    };
    let report = {
        let _progress = Progress::show("bank", "rows");
        build_kdep(&request, &JOB)?
    };
    summarize(&report, args);
    print_report(&args.report, &report)
}

fn summarize(report: &KdepReport, args: &BankArgs) {
    let seconds = report.seconds;
    say(format_args!(
        "bank: {} features of {} to targets of {} that keep {:.2}% of their variance, in {:.2} s; {}",
        report.rows,
        report.features,
        report.dim,
        100.0 * report.explained_variance,
        seconds.sums + seconds.axes + seconds.targets + seconds.finish,
        args.out.display(),
    ));
    if report.rank < report.dim {
        warn(format_args!(
            "warning: only {} of the {} dimensions vary in the {} rows that the projection was fitted to",
            report.rank, report.dim, report.fitted_rows
        ));
    }
}
