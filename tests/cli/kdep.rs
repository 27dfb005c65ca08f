//! `lgd bank --target kdep` on a cache of features, and the flags of each target.

use std::path::Path;

use lgd_data::cache::{
    CacheBuilder, CacheConfig, CachedSample, FeatureRecord, ImageStamp, Partition, SampleRows,
};
use lgd_data::manifest::Existing;
use lgd_data::view::View;

use crate::common::{Desk, flip_a_bit};

const WIDTH: usize = 28;

/// Writes a cache of 50 samples in two shards. Its features, if `axes` is given, vary along that many axes.
fn write_cache(dir: &Path, axes: Option<usize>) {
    let config = CacheConfig {
        views: 1,
        shard_samples: 32,
        features: axes.map(|_| FeatureRecord { output: "pooled".to_owned(), dim: WIDTH }),
        ..lgd_testing::cache_config(1, 50)
    };
    let builder = CacheBuilder::open(dir, config, Existing::Refuse).unwrap();
    for shard in builder.missing_shards(Partition::WHOLE).unwrap() {
        let mut writer = builder.shard_writer(shard).unwrap();
        for sample in builder.sample_range(shard) {
            let features: Vec<f32> = axes.map_or_else(Vec::new, |axes| {
                (0..WIDTH).map(|item| if item % axes == sample % axes { 1.0 } else { 0.0 }).collect()
            });
            let rows = SampleRows {
                views: &[View::center()],
                norms: &[1.0],
                embeddings: &[1.0],
                features: &features,
                ..SampleRows::default()
            };
            let key = sample.to_string();
            let sample = CachedSample { key: &key, label: None, image: ImageStamp::new(b"", 32, 32) };
            writer.push_rows(&sample, &rows).unwrap();
        }
        writer.finish().unwrap();
    }
    builder.finalize(&[]).unwrap().unwrap();
}

#[test]
fn features_become_a_bank_that_can_be_inspected_and_verified() {
    let desk = Desk::new();
    write_cache(&desk.path("cache"), Some(7));
    let bank = "bank --target kdep --cache cache --dim 4 --out banks/kdep";
    let ran = desk.lgd(bank).ended(0, &["50 features of 28 to targets of 4", "% of their variance"]);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    let report = ran.json();
    assert_eq!((&report["rows"], &report["dim"], &report["rank"]), (&50.into(), &4.into(), &4.into()));
    let explained = report["explained_variance"].as_f64().unwrap();
    // Seven classes of nearly equal size give six axes of nearly equal variance.
    assert!((explained - 4.0 / 6.0).abs() < 0.02, "{explained}");
    for stage in ["sums", "axes", "targets", "finish"] {
        assert!(report["seconds"][stage].as_f64().unwrap() > 0.0, "{stage} was not timed: {report}");
    }

    desk.lgd("inspect banks/kdep").ended(0, &[]).printed(&[
        "features of 28 (pooled) to 4, ",
        "temperature 0.1, power 3; ",
        "targets       50 rows",
    ]);
    let manifest = desk.lgd("inspect banks/kdep --json").ended(0, &[]).json();
    assert_eq!((manifest["output"].as_str(), &manifest["features"]), (Some("pooled"), &28.into()));
    let verified = desk.lgd("verify banks/kdep").ended(0, &[]).stdout;
    assert!(verified.contains("KDEP targets of width 4, 50 rows"), "{verified}");

    desk.lgd(&bank.replace("--cache cache", "--cache banks/kdep"))
        .ended(3, &["cache.json is missing", "hint: the folder holds a KDEP bank"]);

    desk.lgd(bank).ended(2, &["already holds a KDEP bank", "--overwrite"]);
    let few = "--dim 10 --fit-rows 20 --pts-temperature 0.2 --pts-power 2 --overwrite";
    let few = format!("bank --target kdep --cache cache --out banks/kdep {few}");
    let ran = desk.lgd(&few).ended(0, &["warning: only 6 of the 10 dimensions vary in the 20 rows"]);
    assert_eq!((&ran.json()["fitted_rows"], &ran.json()["rank"]), (&20.into(), &6.into()));
    let manifest = desk.lgd("inspect banks/kdep --json").ended(0, &[]).json();
    assert_eq!(manifest["pts_power"].as_f64(), Some(2.0));

    flip_a_bit(&desk.path("banks/kdep/targets-00001.parquet"));
    desk.lgd("verify banks/kdep").ended(3, &["targets-00001.parquet", "BLAKE3"]);
}

#[test]
fn what_cannot_be_projected_is_refused_with_advice() {
    let desk = Desk::new();
    write_cache(&desk.path("plain"), None);
    desk.lgd("bank --target kdep --cache plain --dim 4 --out banks/kdep")
        .ended(3, &["holds no features", "hint: extract it again with `lgd extract --features`"]);
    write_cache(&desk.path("cache"), Some(7));
    desk.lgd("bank --target kdep --cache cache --dim 29 --out banks/kdep")
        .ended(2, &["to 1 to 28 dimensions, got 29", "hint:"]);
    desk.lgd("bank --target kdep --cache cache --dim 4 --pts-power 0.5 --out banks/kdep")
        .ended(2, &["from 1 to 100, got 0.5"]);
    write_cache(&desk.path("same"), Some(1));
    desk.lgd("bank --target kdep --cache same --dim 4 --out banks/kdep").ended(2, &["are all the same"]);
    desk.lgd("verify banks/kdep").ended(2, &["no cache, bank, bridge or run", "kdep.json"]);
}

#[test]
fn each_target_asks_for_its_own_arguments() {
    let desk = Desk::new();
    let names = &["required", "--categories", "--teacher"];
    for (line, parts) in [
        ("", &names[..]),
        ("--target names", names),
        ("--target names --teacher t", &["required", "--categories"]),
        ("--target kdep", &["required", "--dim <D>"]),
        ("--dim 4", &["required", "--target <TARGET>"]),
        ("--target kdep --dim 4 --categories n.txt", &["--categories", "cannot be used with", "--dim"]),
        ("--target kdep --dim 4 --top-k 5", &["--top-k", "cannot be used with", "--dim"]),
        ("--target names --dim 4", &["--dim"]),
        ("--target names --categories n.txt --teacher t --dim 4", &["cannot be used with", "--dim"]),
        ("--categories n.txt --teacher t --fit-rows 9", &["--dim <D>"]),
        ("--target kdep --dim 0", &["above 0"]),
    ] {
        let ran = desk.lgd(&format!("bank --cache c --out o {line}")).ended(2, parts);
        assert!(ran.stderr.starts_with("error: ") && ran.stdout.is_empty(), "{line}: {}", ran.stderr);
    }
    let kdep = desk.lgd("bank --cache c --out o --target kdep");
    assert!(!kdep.stderr.contains("--categories"), "{}", kdep.stderr);
}
