//! Reports of runs, caches and banks: what they show, what they leave out, and that they are safe to open.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod world;

use std::time::{Duration, Instant};

use lgd_data::ArtifactError;
use lgd_data::manifest::write_json;
use lgd_report::{Inputs, ReportError, of_bank, of_cache, of_run};
use serde_json::json;

use world::{CODE, Size, World, eval, metrics};

/// Parts that every page must have, and what none may have.
#[track_caller]
fn check(html: &str) {
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("<html lang=\"en\">"));
    assert!(!html.contains(CODE) && !html.contains("alert('x')</script>"), "a name is code");
    assert_eq!(html.matches("<script>").count(), 1, "the page's own script");
    // Drawings and pictures are described, and nothing is fetched.
    let of = |part: &str| html.matches(part).count();
    assert_eq!(of("<svg "), of("role=\"img\" aria-labelledby="));
    assert!(of("<title id=") == of("<svg ") && of("<desc id=") == of("<svg "), "a plot without a title");
    assert!(!html.contains("></title>") && !html.contains("></desc>"), "a plot with an empty title");
    assert_eq!(of("<img "), of("alt=\""));
    assert_eq!(of("<th ") - of("scope=\"col\"") - of("scope=\"row\""), 0, "table headers have a scope");
    for fetched in ["src=\"http", "href=\"http", "url(", "@import"] {
        assert!(!html.contains(fetched), "{fetched}");
    }
    // Pictures may spell anything.
    let (first, pictures) = html.split_once("base64,").unwrap_or((html, ""));
    let after = pictures.split("base64,").filter_map(|part| part.split_once('"'));
    let told: String = [first].into_iter().chain(after.map(|(_, rest)| rest)).collect();
    assert!(!told.contains("NaN") && !told.contains("inf%"), "a number that is none");
}

fn all<'a>(world: &'a World, eval: &'a serde_json::Value) -> Inputs<'a> {
    Inputs {
        cache: Some(&world.cache),
        bank: Some(&world.bank),
        images: Some(&world.images),
        eval: Some(eval),
        printed: None,
        notes: &[],
    }
}

#[test]
fn a_run_with_everything_shows_everything_and_escapes_names() {
    let world = World::small();
    let run = world.run(true, 3, &metrics(3, true));
    let html = of_run(&run, &all(&world, &eval(5))).unwrap();
    check(&html);
    let parts = [
        "Loss</title>",
        "Parts of the loss",
        "Learning rate",
        "Cosine to the teacher",
        "Same choice as the teacher, %",
        "Images per second",
        "Seconds of an epoch",
        "best 0.700 in epoch 3",
        "Top-1 by protocol",
        "Right by name, zero-shot",
        "Predicted class of each class",
        "Most frequent mistakes",
        "Views by the teacher's most likely name",
        "Most similar names, cosine",
        "1 name without a view",
        "Most disputed images",
        "data:image/jpeg;base64,",
        "Rejected images by reason",
        "corrupt",
        "Outliers",
        "Settings of the run",
        "base_lr",
        "Identities",
        "&lt;script&gt;",
    ];
    for part in parts {
        assert!(html.contains(part), "{part:?} is missing");
    }
    assert!(html.contains(&world.cache.hash().to_string()) && html.contains(&world.bank.hash().to_string()));
    assert_eq!(html, of_run(&run, &all(&world, &eval(5))).unwrap(), "the same input makes the same bytes");
}

#[test]
fn a_run_alone_shows_its_curves_and_no_empty_sections() {
    let world = World::small();
    let run = world.run(true, 2, &metrics(2, false));
    let html = of_run(&run, &Inputs::default()).unwrap();
    check(&html);
    assert!(html.contains("Loss</title>") && html.contains("resnet18"), "{html}");
    for absent in
        ["Student and teacher", "Confusion", "Cosine to the teacher", "id=\"names\"", "Seconds of an epoch"]
    {
        assert!(!html.contains(absent), "{absent:?}");
    }
}

#[test]
fn runs_without_epochs_stopped_runs_and_torn_lines_are_told() {
    let world = World::small();
    let html = of_run(&world.run(true, 0, ""), &Inputs::default()).unwrap();
    check(&html);
    assert!(html.contains("No step was recorded") && html.contains("0 of 0"), "{html}");

    let step = metrics(1, false).lines().next().unwrap().to_owned();
    let html = of_run(&world.run(false, 5, &format!("{step}\n{{\"kind\":\"ep")), &Inputs::default()).unwrap();
    check(&html);
    for part in
        ["The run is not finished", "1 line of metrics.jsonl could not be read.", "0 of 5", "Loss</title>"]
    {
        assert!(html.contains(part), "{part:?} is missing");
    }
}

#[test]
fn a_run_is_not_shown_with_the_images_of_another_cache() {
    let (world, other) = (World::small(), World::new(Size { samples: 61, categories: 5, dim: 16 }));
    let run = world.run(true, 1, &metrics(1, false));
    let error = of_run(&run, &Inputs { cache: Some(&other.cache), ..Inputs::default() }).unwrap_err();
    assert!(
        matches!(&error, ReportError::Artifact(_)) && error.to_string().contains("hash of the cache"),
        "{error}"
    );
    let inputs = Inputs { cache: Some(&other.cache), ..Inputs::default() };
    assert!(of_bank(&world.bank, &inputs).unwrap_err().to_string().contains("another cache"));
    let eval = json!({"run": "another", "zero_shot": {"student": 12.5}});
    let html = of_run(&run, &Inputs { eval: Some(&eval), ..Inputs::default() }).unwrap();
    assert!(html.contains("another state of this run") && html.contains("12.5"), "{html}");
}

#[test]
fn caches_and_banks_have_reports_with_and_without_pictures() {
    let world = World::small();
    let printed = json!({"seconds": 12.5, "views_per_second": 9.6});
    let cache = of_cache(&world.cache, &Inputs { printed: Some(&printed), ..Inputs::default() }).unwrap();
    let inputs = Inputs { images: Some(&world.images), ..Inputs::default() };
    let with_pictures = of_cache(&world.cache, &inputs).unwrap();
    let bank = of_bank(&world.bank, &Inputs::default()).unwrap();
    let with_images = of_bank(&world.bank, &all(&world, &json!(null))).unwrap();
    for html in [&cache, &with_pictures, &bank, &with_images] {
        check(html);
    }
    for part in [
        "All images have 24 × 20 pixels.",
        "repeat another's bytes",
        "12.5 s",
        "shard",
        "views-00000.parquet",
    ] {
        assert!(cache.contains(part), "{part:?} is missing");
    }
    assert!(!cache.contains("<img ") && with_pictures.contains("<img ") && with_pictures.contains("view 1"));
    assert!(!bank.contains("id=\"pictures\"") && with_images.contains("<h4>Most disputed</h4>"));
}

#[test]
fn an_image_that_changed_is_not_shown() {
    let mut world = World::small();
    world.images.bytes[0] = b"P6\n1 1\n255\nabc".to_vec();
    for bytes in &mut world.images.bytes[2..] {
        bytes.clear();
    }
    let html = of_cache(&world.cache, &Inputs { images: Some(&world.images), ..Inputs::default() }).unwrap();
    check(&html);
    assert!(html.contains("cannot be shown"), "{html}");
}

#[test]
fn an_altered_manifest_is_refused() {
    let world = World::small();
    let run = world.run(true, 1, &metrics(1, false));
    let path = run.join("run.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("resnet18", "resnet34");
    std::fs::write(&path, text).unwrap();
    let error = of_run(&run, &Inputs::default()).unwrap_err();
    assert!(matches!(error, ReportError::Artifact(ArtifactError::Hash { .. })), "{error}");
    std::fs::remove_file(&path).unwrap();
    write_json(&run.join("cache.json"), &json!({"format_version": 1})).unwrap();
    let error = of_run(&run, &Inputs::default()).unwrap_err().to_string();
    assert!(error.contains("the folder holds a cache"), "{error}");
}

/// The limits of docs/report.md.
#[test]
fn a_report_of_fifty_thousand_images_and_a_thousand_names_is_small_and_quick() {
    let world = World::new(Size { samples: 50_000, categories: 1000, dim: 64 });
    let run = world.run(true, 90, &metrics(90, true));
    let (eval, start) = (eval(1000), Instant::now());
    let html = of_run(&run, &all(&world, &eval)).unwrap();
    let seconds = start.elapsed();
    check(&html);
    assert!(html.len() <= 5_000_000, "{} bytes", html.len());
    assert!(seconds < Duration::from_secs(10), "{seconds:?}");
}
