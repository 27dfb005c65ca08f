//! The flags of `lgd train` that make a run's `config.toml`.

use anyhow::Context;
use clap::Args as _;
use lgd_train::loader::origin::StoredUse;
use lgd_train::objective::ObjectiveSettings;
use lgd_train::optim::{CosineFrom, Rule, ScheduleKind, Unit};
use lgd_train::run::TrainConfig;
use toml::Table;

use super::{Flag, plain};

/// The flags; `None` if the file is no configuration of a run.
pub(super) fn flags(table: &Table) -> Option<anyhow::Result<Vec<Flag>>> {
    // Keys that every run's file has and no flag is called.
    let is_run = ["base_lr", "lr_unit"].iter().all(|key| table.contains_key(*key));
    is_run.then(|| {
        let config: TrainConfig = table.clone().try_into().context("not the configuration of a run")?;
        Ok([of_loop(&config), of_optimizer(&config), of_objectives(&config, table)?].concat())
    })
}

/// Student, data and learning rate.
fn of_loop(config: &TrainConfig) -> Vec<Flag> {
    let mut flags = vec![
        Flag::new("student", config.student),
        Flag::new("size", config.size),
        Flag::new("epochs", config.epochs),
        Flag::new("batch", config.batch),
        Flag::new("batch-parts", config.batch_parts),
        Flag::new("seed", config.seed),
        Flag::new("lr", config.base_lr),
        Flag::new("warmup-epochs", config.warmup_epochs),
        Flag::new("objective", &config.objective),
    ];
    if config.warmup_epochs > 0 {
        flags.push(Flag::new("start-lr", config.start_lr));
    }
    match config.schedule {
        ScheduleKind::Cosine { from: CosineFrom::Warmup } => {}
        ScheduleKind::Cosine { from: CosineFrom::Start } => flags.push(Flag::new("cosine-from", "start")),
        ScheduleKind::Step { every, factor } => {
            flags.extend([
                Flag::new("schedule", "step"),
                Flag::new("drop-every", every),
                Flag::new("drop-factor", factor),
            ]);
        }
        ScheduleKind::Constant => flags.push(Flag::new("schedule", "constant")),
    }
    if config.lr_unit == Unit::Step {
        flags.push(Flag::switch("lr-per-step"));
    }
    if config.stored_views == StoredUse::Ignored {
        flags.push(Flag::switch("ignore-stored-views"));
    }
    flags.extend(config.init.as_ref().map(|path| Flag::new("init", path.display())));
    flags.extend(config.holdout.map(|holdout| Flag::new("holdout", holdout)));
    flags.extend(config.patience.map(|epochs| Flag::new("patience", epochs)));
    flags
}

fn of_optimizer(config: &TrainConfig) -> Vec<Flag> {
    let settings = &config.optimizer;
    let mut flags = match settings.rule {
        Rule::Sgd { momentum, nesterov } => {
            let nesterov = nesterov.then(|| Flag::switch("nesterov"));
            [Flag::new("momentum", momentum)].into_iter().chain(nesterov).collect()
        }
        Rule::Adamw { beta1, beta2, .. } => {
            let betas = Flag { long: "betas".to_owned(), values: vec![beta1.to_string(), beta2.to_string()] };
            vec![Flag::new("optimizer", "adamw"), betas]
        }
        Rule::Lars { momentum, trust } => {
            vec![Flag::new("optimizer", "lars"), Flag::new("momentum", momentum), Flag::new("trust", trust)]
        }
    };
    flags.push(Flag::new("weight-decay", settings.weight_decay));
    if !settings.decay_all {
        flags.push(Flag::switch("decay-weights-only"));
    }
    flags.extend(settings.clip.map(|norm| Flag::new("clip-norm", norm)));
    flags.extend(settings.ema.map(|decay| Flag::new("ema", decay)));
    flags
}

/// Settings of objectives that differ from their defaults: a flag that no chosen objective reads would be refused. A
/// member of the file is called like its field, which is the id of its flag.
fn of_objectives(config: &TrainConfig, table: &Table) -> anyhow::Result<Vec<Flag>> {
    let command = ObjectiveSettings::augment_args(clap::Command::new("train"));
    let defaults = TrainConfig { objective_settings: ObjectiveSettings::default(), ..config.clone() };
    // Through text, because numbers of the file were rounded to print as f32.
    let defaults: Table = toml::from_str(&toml::to_string(&defaults)?)?;
    // The default queue depends on the samples, so that of a run is given if it is read.
    let reads_queue = config.objective.kinds().any(|kind| kind.spec().flags.contains(&"--queue"));
    let changed = table.iter().filter(|&(key, value)| {
        defaults.get(key).is_none_or(|default| default != value) || (key == "queue" && reads_queue)
    });
    let flag = |(key, value): (&String, &toml::Value)| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == key.as_str())?;
        Some(Flag::new(arg.get_long()?, plain(value)?))
    };
    Ok(changed.filter_map(flag).collect())
}
