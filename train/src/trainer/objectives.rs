//! From a configuration to the objective that it describes.

use candle_core::{Device, Tensor};
use lgd_data::bank::UnassignedSlots;
use lgd_data::cache::{Cache, TokenRecord};

use crate::error::TrainError;
use crate::loader::targets::{NO_TOKENS, TargetInputs};
use crate::objective::{
    Caption, Combined, Hgkd, HgkdSettings, Kdep, Lgd, LgdSettings, Objective, ObjectiveKind, Seed,
    SeedSettings, Supervised, TeacherQueue, VisualBank,
};
use crate::run::{ObjectiveSettings, RunError, SlotMode, TrainConfig, VisualMode};
use crate::student::DecoderConfig;

/// Refuses banks that are missing, that no objective reads, that do not belong to the cache, or that do not fit the student.
pub(super) fn require_inputs(config: &TrainConfig, inputs: &TargetInputs<'_>) -> Result<(), RunError> {
    let chosen = &config.objective;
    let given = [
        ("a bank of names", inputs.bank.is_some(), ObjectiveKind::Lgd),
        ("a KDEP bank", inputs.kdep.is_some(), ObjectiveKind::Kdep),
    ];
    let unused = given.into_iter().find(|(_, given, user)| *given && !chosen.contain(*user));
    if let Some((input, _, user)) = unused {
        let user = user.spec().name;
        return Err(RunError::UnusedInput { input, objectives: chosen.to_string(), user });
    }
    if chosen.contain(ObjectiveKind::Lgd) {
        inputs.names()?;
    }
    if !chosen.contain(ObjectiveKind::Kdep) {
        return Ok(());
    }
    let (got, expected) = (inputs.features()?.dim(), config.student.feature_dim());
    if got == expected {
        return Ok(());
    }
    let what = format!("a target of the KDEP bank for {}", config.student);
    let hint = "build the KDEP bank with that width as its --dim, or train another student";
    Err(RunError::Width { what, got, expected, hint })
}

/// The decoder of a student that is trained for H-GKD: it makes the cache's tokens of images of the run's size.
pub(super) fn decoder(config: &TrainConfig, cache: &Cache) -> Result<Option<DecoderConfig>, RunError> {
    if !config.objective.contain(ObjectiveKind::Hgkd) {
        return Ok(None);
    }
    let record = cache.manifest().config.tokens.as_ref().ok_or(NO_TOKENS)?;
    let side = usize::try_from(config.size).unwrap_or(usize::MAX);
    let &TokenRecord { rows, columns, dim, .. } = record;
    Ok(Some(DecoderConfig { rows, columns, dim, height: side, width: side }))
}

/// The objective of a run: the weighted sum of those chosen. One alone of weight 1 is its own sum.
pub(super) fn build(
    config: &TrainConfig,
    inputs: &TargetInputs<'_>,
    device: &Device,
) -> Result<Box<dyn Objective>, RunError> {
    if let [choice] = config.objective.choices()
        && choice.weight == 1.0
    {
        return one(choice.kind, config, inputs, device);
    }
    let choices = config.objective.choices().iter();
    let parts = choices.map(|choice| {
        let objective = one(choice.kind, config, inputs, device)?;
        Ok((choice.kind.spec().name, choice.weight, objective))
    });
    Ok(Box::new(Combined::new(parts.collect::<Result<Vec<_>, RunError>>()?)?))
}

fn one(
    kind: ObjectiveKind,
    config: &TrainConfig,
    inputs: &TargetInputs<'_>,
    device: &Device,
) -> Result<Box<dyn Objective>, RunError> {
    let settings = &config.objective_settings;
    Ok(match kind {
        ObjectiveKind::Lgd => Box::new(lgd(settings, config.seed, inputs, device)?),
        ObjectiveKind::Seed => {
            let temperatures = SeedSettings {
                teacher_temperature: settings.teacher_temperature,
                student_temperature: settings.student_temperature,
            };
            Box::new(Seed::new(temperatures, queue(settings, inputs, device)?)?)
        }
        ObjectiveKind::Kdep => Box::new(Kdep),
        ObjectiveKind::Hgkd => {
            let weights = HgkdSettings { beta: settings.beta, lambda: settings.lambda_sim };
            Box::new(Hgkd::new(weights, queue(settings, inputs, device)?)?)
        }
        ObjectiveKind::Caption => Box::new(Caption::new(settings.caption_temperature)?),
        ObjectiveKind::Supervised => Box::new(Supervised),
    })
}

/// A queue of the length that is set, or as long as the cache.
fn queue(
    settings: &ObjectiveSettings,
    inputs: &TargetInputs<'_>,
    device: &Device,
) -> Result<TeacherQueue, TrainError> {
    TeacherQueue::new(settings.queue.min(inputs.cache.rows()), inputs.cache.dim(), device)
}

fn lgd(
    settings: &ObjectiveSettings,
    seed: u64,
    inputs: &TargetInputs<'_>,
    device: &Device,
) -> Result<Lgd, RunError> {
    let bank = inputs.names()?;
    let record = &bank.manifest().record;
    let prototypes = |values: &[f32]| {
        let shape = (bank.categories(), bank.dim());
        Tensor::from_slice(values, shape, device).map_err(TrainError::from)
    };
    let visual = match settings.vsb {
        VisualMode::Mean => VisualBank::Mean { vsb: prototypes(bank.vsb())? },
        VisualMode::Ema => VisualBank::Ema { momentum: settings.vsb_momentum, seed },
    };
    let constants = LgdSettings {
        alpha: settings.alpha,
        teacher_temperature: record.teacher_temperature,
        student_temperature: settings.student_temperature,
    };
    let kept = record.unassigned_slots == UnassignedSlots::Kept;
    let assigned: Vec<bool> = record.categories.iter().map(|category| kept || category.count > 0).collect();
    let lgd = Lgd::new(constants, prototypes(bank.tsb())?, visual, &assigned)?;
    let counts: Vec<u64> = record.categories.iter().map(|category| category.count).collect();
    Ok(match settings.slots {
        SlotMode::Balanced => lgd,
        SlotMode::Views => lgd.counting_views(&counts)?,
    })
}
