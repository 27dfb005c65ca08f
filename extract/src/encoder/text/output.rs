//! Chooses a text model's output and how it is pooled.

use crate::encoder::output::{named, require_float};
use crate::error::ExtractError;
use crate::session::{Model, Port, describe};
use crate::teacher::{Family, Resolved, SentencePipeline, TextPooling, TextSettings};

/// Outputs with one vector per prompt in the space of the images, in order of preference.
const EMBEDDINGS: &[&str] = &[
    "text_embeds",
    "text_embeddings",
    "text_features",
    "sentence_embedding",
    "sentence_embeddings",
    "embeddings",
];

/// Outputs with one vector per token.
const STATES: &[&str] = &["last_hidden_state", "token_embeddings", "hidden_states"];

const POOLER: &str = "pooler_output";
const TOML: &str = "teacher.toml";

/// The chosen output.
pub(super) struct Output {
    pub port: Port,
    pub pooling: TextPooling,
    pub resolved: [Resolved; 2],
    /// What was assumed, if no file says what the output is.
    pub note: Option<String>,
}

/// Chooses the output.
///
/// # Errors
/// [`ExtractError::ModelInterface`] if no output is known to hold the embedding, or CLIP's `pooler_output` is the
/// only one; [`ExtractError::TeacherSetting`] if sentence-transformers' files require something unsupported.
pub(super) fn choose(model: &Model, settings: &TextSettings, family: Family) -> Result<Output, ExtractError> {
    let (port, from) = port(model, settings, family)?;
    require_float(model, port)?;
    if family == Family::Clip && port.name == POOLER {
        return Err(model.mismatch(
            "CLIP's text embeddings, after the projection",
            format!("{POOLER}, which comes before it ({})", describe(model.outputs())),
            PROJECT,
        ));
    }
    let note = (port.name == POOLER && family == Family::Other && settings.set.output.is_none()).then(|| {
        format!(
            "{}: {POOLER} is assumed to be the embedding; that of a CLIP text model comes before its projection and cannot \
             be compared with images\nhint: for a CLIP text model, {PROJECT}",
            model.path().display()
        )
    });
    let (pooling, pooling_from) = pooling(model, port, settings)?;
    let resolved = [
        Resolved::new("output", port.name.clone(), from),
        Resolved::new("pooling", pooling.name(), pooling_from),
    ];
    Ok(Output { port: port.clone(), pooling, resolved, note })
}

const PROJECT: &str =
    "export transformers' CLIPTextModelWithProjection, or the whole CLIPModel, and take text_embeds";

fn port<'m>(
    model: &'m Model,
    settings: &TextSettings,
    family: Family,
) -> Result<(&'m Port, &'static str), ExtractError> {
    let outputs = model.outputs();
    let find = |name: &str| outputs.iter().find(|port| port.name == name);
    if let Some(name) = &settings.set.output {
        return Ok((named(model, name, "output")?, TOML));
    }
    if let [only] = outputs {
        return Ok((only, "the only output"));
    }
    if let Some(port) = EMBEDDINGS.iter().find_map(|name| find(name)) {
        return Ok((port, "its name"));
    }
    let suffixed = |port: &&Port| {
        let name = port.name.to_lowercase();
        let image = name.contains("image") || name.contains("vision") || name.contains("visual");
        !image && (name.ends_with("_embeds") || name.ends_with("_features"))
    };
    let suffixed: Vec<&Port> = outputs.iter().filter(suffixed).collect();
    if let [only] = suffixed.as_slice() {
        return Ok((only, "its name"));
    }
    if let Some(port) = find(POOLER).filter(|_| family == Family::Siglip) {
        return Ok((port, "SigLIP's embedding"));
    }
    let pools = settings.set.pooling.is_some() || SentencePipeline::read(&settings.dir)?.is_some();
    if let Some(port) = STATES.iter().find_map(|name| find(name)).filter(|_| pools) {
        return Ok((port, "its name"));
    }
    let hint = match (find(POOLER), family) {
        (Some(_), Family::Clip) => PROJECT.to_owned(),
        (Some(_), _) => format!(
            "for SigLIP set output = \"{POOLER}\" in teacher.toml; a CLIP text model must be exported with its projection \
             (CLIPTextModelWithProjection, text_embeds); a sentence encoder needs output = \"last_hidden_state\" and pooling"
        ),
        _ => "set output in teacher.toml to the name of the text embedding".to_owned(),
    };
    let expected = format!("one output, or one named {}", EMBEDDINGS.join(", "));
    Err(model.mismatch(expected, describe(outputs), hint))
}

/// How the output is pooled, by its rank.
fn pooling(
    model: &Model,
    port: &Port,
    settings: &TextSettings,
) -> Result<(TextPooling, &'static str), ExtractError> {
    let expected = |what: &str, hint: &str| Err(model.mismatch(what, port.to_string(), hint));
    match (port.shape.len(), settings.set.pooling) {
        (2, None) => Ok((TextPooling::None, "the output is [N, D]")),
        (2, Some(TextPooling::None)) => Ok((TextPooling::None, TOML)),
        (3, Some(pooling)) if pooling != TextPooling::None => Ok((pooling, TOML)),
        (3, None) => match SentencePipeline::read(&settings.dir)? {
            Some(pipeline) => Ok((pipeline.pooling, "1_Pooling/config.json")),
            None => expected(
                "one vector per prompt, [N, D]",
                "set pooling = \"mean\", \"cls\", \"max\" or \"lasttoken\" in teacher.toml, as the model was trained",
            ),
        },
        (2 | 3, Some(pooling)) => expected(
            &format!("an output for pooling = \"{}\"", pooling.name()),
            "correct pooling in teacher.toml: none takes [N, D]; cls, mean, max and lasttoken take [N, T, D]",
        ),
        _ => expected("an output of two or three axes, [N, D] or [N, T, D]", "set output in teacher.toml"),
    }
}
