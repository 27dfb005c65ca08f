//! From a configuration to the objective that it describes.

use candle_core::{Device, Tensor};
use lgd_data::bank::{Bank, UnassignedSlots};
use lgd_data::cache::TokenRecord;
use lgd_data::kdep::KdepBank;

use crate::error::TrainError;
use crate::loader::targets::TargetInputs;
use crate::objective::{
    Caption, Combined, Hgkd, HgkdSettings, Kdep, Lgd, LgdSettings, Objective, ObjectiveKind, Seed,
    SeedSettings, Supervised, TeacherQueue, VisualBank,
};
use crate::run::{ObjectiveSettings, RunError, SlotMode, TrainConfig, VisualMode};
use crate::student::{DecoderConfig, Extras, Head, StudentConfig};

/// Refuses banks that are missing, that no objective reads, that do not belong to the cache, or that do not fit the student or a setting.
pub(super) fn require_inputs(config: &TrainConfig, inputs: &TargetInputs<'_>) -> Result<(), RunError> {
    let chosen = &config.objective;
    let given = [
        ("a bank of names", inputs.bank.is_some(), ObjectiveKind::Lgd),
        ("a KDEP bank", inputs.kdep.is_some(), ObjectiveKind::Kdep),
    ];
    let unused = given.into_iter().find(|(_, given, user)| *given && !chosen.contain(*user));
    if let Some((input, _, user)) = unused {
        let user = user.spec().name;
        return Err(RunError::UnusedInput { input, choice: "objective", chosen: chosen.to_string(), user });
    }
    if chosen.contain(ObjectiveKind::Lgd) {
        require_slots(config.objective_settings.slots, inputs.names()?)?;
    }
    if chosen.contain(ObjectiveKind::Kdep) {
        require_width(config, inputs.features()?)?;
    }
    Ok(())
}

/// Slots that the bank keeps must not be dropped by a setting.
fn require_slots(slots: SlotMode, bank: &Bank) -> Result<(), RunError> {
    let kept = bank.manifest().record.unassigned_slots == UnassignedSlots::Kept;
    if kept && slots == SlotMode::Views {
        return Err(RunError::KeptSlots { bank: bank.dir().to_owned() });
    }
    Ok(())
}

/// Targets must be as wide as the student's pooled feature.
fn require_width(config: &TrainConfig, bank: &KdepBank) -> Result<(), RunError> {
    let (got, expected) = (bank.dim(), config.student.feature_dim());
    if got == expected {
        return Ok(());
    }
    let (path, what) = (bank.dir().to_owned(), format!("a target for {}", config.student));
    let hint = if bank.manifest().record.features < expected {
        "a projection cannot widen the teacher's features: train a student with a narrower pooled feature"
    } else {
        "build the KDEP bank with that width as its --dim, or train another student"
    };
    Err(RunError::Width { path, what, got, expected, hint })
}

/// The student of a run, as yet without a head, with what it makes in training for the chosen objectives. Of the cache only the manifest
/// is looked at, so that images and tokens that do not fit are refused before any token is read.
pub(super) fn headless(config: &TrainConfig, inputs: &TargetInputs<'_>) -> Result<StudentConfig, RunError> {
    let wanted = config.objective.outputs();
    let decoder = wanted.tokens.then(|| decoder(config, inputs)).transpose()?;
    let extras = Extras { raw_pooled: wanted.raw_pooled, decoder };
    let student = StudentConfig { extras, ..StudentConfig::new(config.student, Head::None, config.seed) };
    student.validate()?;
    Ok(student)
}

/// The decoder that makes the cache's tokens of images of the run's size.
fn decoder(config: &TrainConfig, inputs: &TargetInputs<'_>) -> Result<DecoderConfig, RunError> {
    let side = usize::try_from(config.size).unwrap_or(usize::MAX);
    let &TokenRecord { rows, columns, dim, .. } = inputs.tokens()?;
    Ok(DecoderConfig { rows, columns, dim, height: side, width: side })
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
            let teacher_dim = inputs.tokens()?.teacher_dim;
            Box::new(Hgkd::new(weights, queue(settings, inputs, device)?, teacher_dim)?)
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
