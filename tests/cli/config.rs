//! Flags from a file, completions and manual pages.

use std::fs;

use crate::common::Desk;

#[test]
fn the_settings_of_a_run_make_the_same_settings() {
    let desk = Desk::cache_and_bank();
    let inputs = "--cache cache --images images --bank banks/ten";
    let settings = "--student mobilenet_v2 --size 32 --batch 8 --epochs 1 --seed 3 --objective lgd,seed:0.5 --tau-s 0.3 --vsb ema \
                    --optimizer adamw --lr 0.001 --betas 0.8 0.99 --weight-decay 0.05 --decay-weights-only --schedule step --drop-every 2 \
                    --lr-per-step --ema 0.9 --clip-norm 1 --holdout 25% --ignore-stored-views";
    desk.lgd(&format!("train {inputs} {settings} --out a")).ended(0, &[]);
    let told = ["note: a/config.toml gives --student=mobilenet_v2", "--tau-s=0.3", "--holdout=25%"];
    desk.lgd(&format!("train --config a/config.toml {inputs} --out b")).ended(0, &told);
    let read = |run: &str| fs::read_to_string(desk.path(run).join("config.toml")).unwrap();
    assert_eq!(read("a"), read("b"));

    desk.lgd(&format!("train --config=a/config.toml {inputs} --epochs 2 --out c")).ended(0, &["epoch 2/2"]);
    desk.lgd("eval --config a/config.toml --run a --images images")
        .ended(2, &["a/config.toml: this is the configuration of a run, which only `lgd train` reads"]);
}

#[test]
fn a_file_has_flags_of_several_commands() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.tiny_teacher("tiny", "linear.onnx");
    desk.write(
        "flags.toml",
        "[extract]\nteacher = \"tiny\"\nviews = 2\nwith-center = true\n[bank]\ntop_k = 3\n",
    );
    let ran = desk.lgd("extract --images images --config flags.toml --views 3 --out cache");
    assert_eq!(ran.ended(0, &["flags.toml gives --teacher=tiny --with-center"]).json()["views"], 30);
    desk.write("wrong.toml", "[extract]\nteachers = \"tiny\"\n");
    desk.lgd("extract --images images --config wrong.toml --out other")
        .ended(2, &["wrong.toml: teachers is no flag of `lgd extract`", "hint: ", "--teacher"]);
    desk.lgd("extract --config absent.toml").ended(2, &["cannot read absent.toml"]);
}

#[test]
fn a_recipe_gives_published_settings() {
    let desk = Desk::new();
    desk.images("images", 0, 1);
    desk.tiny_teacher("tiny", "linear.onnx");
    let told = "note: the recipe lgd gives --policy=moco-v2 --resample=bilinear --center-fraction=0.875";
    desk.lgd("extract --recipe lgd --images images --teacher tiny --with-center --out cache")
        .ended(0, &[told]);
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(desk.path("cache/cache.json")).unwrap()).unwrap();
    let recorded = (&manifest["config"]["teacher"]["resample"], &manifest["config"]["center_fraction"]);
    assert_eq!(recorded, (&"bilinear".into(), &0.875.into()));

    let train = "train --cache cache --images images --size 32 --batch 4 --epochs 1 --warmup-epochs 0";
    let given = ["the recipe seed gives --objective=seed", "--queue-fill=random", "--cosine-from=start"];
    desk.lgd(&format!("{train} --recipe seed --queue 5 --out run")).ended(0, &given);
    let config = fs::read_to_string(desk.path("run/config.toml")).unwrap();
    assert!(config.contains("queue_fill = \"random\"") && config.contains("from = \"start\""), "{config}");
    desk.lgd("train --recipe seed --config run/config.toml --cache cache --out other")
        .ended(2, &["the configuration of a run is complete", "hint: leave out --config or --recipe"]);
    desk.lgd(&format!("plan {train} --recipe kdep --student resnet50 --out other"))
        .ended(2, &["the recipe kdep has --lr for mobilenet_v2 and resnet18 only", "hint: give --lr"]);
    desk.lgd(&format!("{train} --recipe none --out other")).ended(2, &["invalid value 'none'"]);

    let views = "extract --policy kdep --images images --teacher tiny --out slight";
    desk.lgd(views).ended(0, &[]);
    desk.lgd("verify slight").ended(0, &[]);
    desk.lgd(
        &format!("{train} --cache slight --objective compress --out again").replace("--cache cache", ""),
    )
    .ended(0, &["epoch 1/1"]);
}

#[test]
fn shells_and_manuals_know_the_commands() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        desk.lgd(&format!("completions {shell}")).ended(0, &[]).printed(&["store-views", "predict"]);
    }
    desk.lgd("manual --out man").ended(0, &["man/lgd.1"]);
    let page = fs::read_to_string(desk.path("man/lgd-train.1")).unwrap();
    assert!(page.contains("warmup") && page.contains(".TH"), "{page}");
}
