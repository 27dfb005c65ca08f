//! Chooses the output of an image model that holds its embedding, and how it becomes one vector.
//!
//! | output | taken |
//! |---|---|
//! | `image_embeds`, `image_features` and the like, `embeddings` | always |
//! | `pooler_output` | if the family trains it as the embedding; CLIP's comes before the projection |
//! | `last_hidden_state` | pooled as the family is |
//! | `logits`, probabilities | if there is nothing else, with a warning |

use super::output::{named, pooling_for};
use crate::error::ExtractError;
use crate::session::{Model, Port, describe};
use crate::teacher::{ImageSettings, KnownModel, Pooling};

/// Names of outputs with one embedding per image, in order of preference.
const EMBEDDINGS: &[&str] =
    &["image_embeds", "image_embeddings", "image_features", "image_embedding", "embeddings", "embedding"];
/// Ends of the names of other such outputs.
const EMBEDDING_ENDS: &[&str] = &["_embeds", "_embeddings", "_embedding", "_features"];
const POOLED: &str = "pooler_output";
const HIDDEN: &str = "last_hidden_state";

/// Families whose `pooler_output` is the embedding: SigLIP's attention pooling, DINO's class token, the averages of CNNs
/// and hierarchical transformers.
const POOLED_FAMILIES: &[&str] = &[
    "siglip",
    "siglip2",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "dinov3_convnext",
    "convnext",
    "convnextv2",
    "resnet",
    "regnet",
    "swin",
    "swinv2",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilevit",
    "efficientnet",
    "levit",
    "focalnet",
    "hiera",
    "bit",
    "van",
    "dinat",
    "nat",
    "poolformer",
];
/// Families whose `pooler_output` comes before a projection to the space that images and texts share.
const PROJECTED_FAMILIES: &[&str] =
    &["clip", "chinese_clip", "altclip", "metaclip_2", "groupvit", "clipseg", "xclip", "blip", "aimv2"];

/// Families whose `last_hidden_state` is a feature map, the plain average of which is the embedding. ConvNeXt's and
/// PoolFormer's is normalized besides, which the graph lacks.
const MAP_FAMILIES: &[&str] =
    &["resnet", "regnet", "mobilenet_v1", "mobilenet_v2", "mobilevit", "efficientnet", "bit"];

const CLASSIFIER_HINT: &str = "export the layer before the classifier: optimum: --task feature-extraction; timm: \
     create_model(..., num_classes=0); torchvision: model.fc or model.classifier = torch.nn.Identity()";

/// Names of outputs with class scores, as exporters and converters write them.
const SCORES: &[&str] = &["prob", "probs", "probabilities", "softmax", "scores"];

/// Operators that turn class scores into probabilities.
const PROBABILITIES: &[&str] = &["Softmax", "LogSoftmax"];

/// Numbers of classes of ImageNet-1k, ImageNet-21k, and ImageNet-21k with unused rows.
const COMMON_CLASSES: &[usize] = &[1000, 21_841, 21_843];

/// The chosen output.
pub(super) struct ImageOutput {
    pub name: String,
    pub pooling: Pooling,
    /// Leading tokens left out of the mean and of the cached tokens.
    pub prefix_tokens: usize,
    /// Where the choice of the output comes from.
    pub source: String,
    /// Where the pooling comes from.
    pub pooling_source: String,
    pub warnings: Vec<String>,
}

/// Chooses the output by the settings, else by names and the model's family.
pub(super) fn choose(model: &Model, settings: &ImageSettings) -> Result<ImageOutput, ExtractError> {
    let known = &settings.known;
    let (port, source) = match &settings.output {
        Some(name) => (named(model, name, "output")?, "teacher.toml".to_owned()),
        None => found(model, known)?,
    };
    let mut warnings = warnings(model, port, settings)?;
    let by_family = family_pooling(port, known).filter(|_| settings.pooling.is_none());
    let pooling = pooling_for(model, port, settings.pooling.or(by_family.map(|(pooling, _)| pooling)))?;
    let pooling_source = match (settings.pooling, by_family) {
        (Some(_), _) => "teacher.toml".to_owned(),
        (None, Some(_)) => describe_family(known),
        (None, None) if port.shape.len() == 2 => "the output is [N, D]".to_owned(),
        (None, None) => "the output is one vector per image".to_owned(),
    };
    // The family's prefix goes with its pooling, or with tokens; elsewhere nothing reads it.
    let prefix =
        by_family.map(|(_, prefix)| prefix).or_else(|| settings.tokens.as_ref().and(family_prefix(known)));
    let prefix_tokens = settings.prefix_tokens.or(prefix).unwrap_or(0);
    if settings.prefix_tokens.is_some() && pooling != Pooling::Mean && settings.tokens.is_none() {
        return Err(model.mismatch(
            "prefix_tokens only with pooling = \"mean\" or with tokens",
            format!("prefix_tokens = {prefix_tokens} with pooling = \"{}\"", pooling.name()),
            "remove prefix_tokens from teacher.toml, it has no effect",
        ));
    }
    if pooling == Pooling::Mean && prefix_tokens == 0 && by_family.is_none() {
        warnings.push(format!(
            "{}: the mean counts every token\nhint: set prefix_tokens if class or register tokens come first",
            model.path().display()
        ));
    }
    Ok(ImageOutput { name: port.name.clone(), pooling, prefix_tokens, source, pooling_source, warnings })
}

/// The warning for an embedding as wide as the classifier, once the width is known.
pub(super) fn classifier_width(
    model: &Model,
    output: &str,
    dim: usize,
    known: &KnownModel,
) -> Option<String> {
    if is_logits(output) || probabilities(model, output).is_some() {
        return None;
    }
    let named = [POOLED, HIDDEN].contains(&output)
        || EMBEDDINGS.contains(&output)
        || EMBEDDING_ENDS.iter().any(|end| output.ends_with(end));
    if known.labels.is_none() && !named && COMMON_CLASSES.contains(&dim) {
        return Some(format!(
            "{}: {output} has {dim} values, as many as ImageNet has classes, and no file names a classifier\nhint: if they are \
             class scores, {CLASSIFIER_HINT}",
            model.path().display()
        ));
    }
    (known.labels == Some(dim)).then(|| {
        format!(
            "{}: {output} has {dim} values, as many as the classifier has classes: class scores, not an embedding\nhint: \
             {CLASSIFIER_HINT}",
            model.path().display()
        )
    })
}

/// The output that nothing names: the only one, or the best of those with known names.
fn found<'m>(model: &'m Model, known: &KnownModel) -> Result<(&'m Port, String), ExtractError> {
    let outputs = model.outputs();
    if let [only] = outputs {
        return Ok((only, "the only output".to_owned()));
    }
    let by_name = |name: &str| outputs.iter().find(|port| port.name == name);
    if let Some(port) = EMBEDDINGS.iter().find_map(|name| by_name(name)) {
        return Ok((port, "its name".to_owned()));
    }
    let mut similar = outputs.iter().filter(|port| {
        port.shape.len() == 2
            && !port.name.contains("text")
            && EMBEDDING_ENDS.iter().any(|end| port.name.ends_with(end))
    });
    if let (Some(port), None) = (similar.next(), similar.next()) {
        return Ok((port, "its name".to_owned()));
    }
    let (pooled, hidden) = (by_name(POOLED), by_name(HIDDEN));
    let family = known.family.as_deref().unwrap_or_default();
    let hidden_first = hidden_pooling(known).is_some() && !POOLED_FAMILIES.contains(&family);
    match (pooled, hidden) {
        (_, Some(hidden)) if hidden_first => Ok((hidden, describe_family(known))),
        (Some(pooled), _) if known.family.is_some() => Ok((pooled, describe_family(known))),
        (Some(pooled), _) => Ok((pooled, "its name".to_owned())),
        (None, Some(hidden)) => Ok((hidden, "its name".to_owned())),
        (None, None) => by_name("logits").map(|logits| (logits, "its name".to_owned())).ok_or_else(|| {
            let expected = format!("one output, or one named {}, {POOLED}, {HIDDEN}", EMBEDDINGS.join(", "));
            model.mismatch(expected, describe(outputs), "set output in teacher.toml to the image's embedding")
        }),
    }
}

/// Warnings about an output that may not be the embedding that the user expects.
///
/// # Errors
/// [`ExtractError::ModelInterface`] for an output that cannot be compared with the teacher's text embeddings.
fn warnings(model: &Model, port: &Port, settings: &ImageSettings) -> Result<Vec<String>, ExtractError> {
    let known = &settings.known;
    let family = known.family.as_deref();
    let projected = family.is_some_and(|family| PROJECTED_FAMILIES.contains(&family));
    let place = model.path().display();
    if projected && (port.name == POOLED || port.name == HIDDEN) {
        let (name, family) = (&port.name, family.unwrap_or_default());
        if known.beside_text && settings.output.is_none() {
            return Err(model.mismatch(
                format!("image_embeds, the projected embedding of {family}, because there is a text model"),
                describe(model.outputs()),
                format!(
                    "{name} comes before the projection and cannot be compared with text: export the model with its projection \
                     (transformers: CLIPVisionModelWithProjection), or set output in teacher.toml"
                ),
            ));
        }
        return Ok(vec![format!(
            "{place}: {name} of a {family} vision model comes before the projection and cannot be compared with text\nhint: \
             export image_embeds for a language-guided teacher"
        )]);
    }
    if port.name == POOLED && family.is_none() {
        return Ok(vec![format!(
            "{place}: no config.json names the model's family; CLIP's {POOLED} comes before the projection and cannot be \
             compared with text\nhint: copy the model's config.json beside it, or export image_embeds for a language-guided \
             teacher"
        )]);
    }
    if port.name == POOLED
        && hidden_pooling(known).is_some()
        && !family.is_some_and(|family| POOLED_FAMILIES.contains(&family))
    {
        return Ok(vec![format!(
            "{place}: {POOLED} of this family passes a layer that is trained for classification only\nhint: export {HIDDEN}, \
             whose first token is the embedding"
        )]);
    }
    if is_logits(&port.name) {
        return Ok(vec![format!(
            "{place}: {} are class scores, not an embedding\nhint: {CLASSIFIER_HINT}",
            port.name
        )]);
    }
    if let Some(operator) = probabilities(model, &port.name) {
        return Ok(vec![format!(
            "{place}: {} is the result of {operator}: class probabilities, not an embedding\nhint: {CLASSIFIER_HINT}",
            port.name
        )]);
    }
    Ok(Vec::new())
}

/// The operator that makes probabilities of this output's values, if one does.
fn probabilities<'m>(model: &'m Model, output: &str) -> Option<&'m str> {
    model.file().last_operator(output).filter(|operator| PROBABILITIES.contains(operator))
}

fn is_logits(name: &str) -> bool {
    name == "logits" || name.ends_with("_logits") || SCORES.contains(&name)
}

/// Pooling of an output that the family determines, with the leading tokens that are not patches.
fn family_pooling(port: &Port, known: &KnownModel) -> Option<(Pooling, usize)> {
    match (port.name.as_str(), port.shape.len()) {
        (HIDDEN, 3) => hidden_pooling(known),
        // A CNN's pooled output keeps two axes of one position.
        (POOLED, 4) => Some((Pooling::Gap, 0)),
        (HIDDEN, 4) if known.family.as_deref().is_some_and(|family| MAP_FAMILIES.contains(&family)) => {
            Some((Pooling::Gap, 0))
        }
        _ => None,
    }
}

/// How a family's hidden states become the embedding.
fn hidden_pooling(known: &KnownModel) -> Option<(Pooling, usize)> {
    let pooling = match known.family.as_deref()? {
        "ijepa" | "swin" | "swinv2" => Pooling::Mean,
        "vit" | "vit_msn" | "deit" | "dinov2" | "dinov2_with_registers" | "dinov3_vit" => Pooling::Cls,
        _ => return None,
    };
    Some((pooling, family_prefix(known).unwrap_or(0)))
}

/// Leading tokens that are not patches: the class token and, where the family has them, more.
fn family_prefix(known: &KnownModel) -> Option<usize> {
    match known.family.as_deref()? {
        "ijepa" | "swin" | "swinv2" | "siglip" | "siglip2" => Some(0),
        "vit" | "vit_msn" | "dinov2" | "clip" => Some(1),
        // The distillation token comes second.
        "deit" => Some(2),
        // transformers leaves out a number that is its default: 4 here, 0 there.
        "dinov2_with_registers" => Some(1 + known.registers.unwrap_or(4)),
        "dinov3_vit" => Some(1 + known.registers.unwrap_or(0)),
        _ => None,
    }
}

/// The family and the file that names it, as a source.
fn describe_family(known: &KnownModel) -> String {
    format!("{}: {}", known.source, known.family.as_deref().unwrap_or("an unknown family"))
}
