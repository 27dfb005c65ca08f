//! Finds and reads the files that define a tokenizer, and the files beside it that say how prompts are prepared.
//!
//! ```text
//! tokenizer.json, else vocab.json + merges.txt (CLIP's), else bpe_simple_vocab_16e6.txt(.gz)     the tokenizer
//! tokenizer_config.json, special_tokens_map.json                                     transformers' settings of it
//! open_clip_config.json, sentence_bert_config.json, config.json, processor_config.json           the model's side
//! ```

use std::path::{Path, PathBuf};

use lgd_data::ordinary;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{bounds, broken, clip, parse};
use crate::error::ExtractError;
use crate::lfs::refuse_pointer_file;
use crate::teacher::model_config::ModelConfig;
use crate::teacher::preprocessing::read_json;
use crate::teacher::{SentencePipeline, TextSettings};

const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const OPENAI_MERGES: [&str; 2] = ["bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"];

/// Where the tokenizer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// `tokenizer.json`.
    Json,
    /// CLIP's `vocab.json` and `merges.txt`.
    ClipVocabulary,
    /// OpenAI's list of CLIP's merges.
    ClipMerges,
}

/// The family of the model, as far as its prompts are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// CLIP: `pooler_output` is not projected.
    Clip,
    /// SigLIP and SigLIP 2: prompts are padded to one length and padding is not masked.
    Siglip,
    /// Any other family, or no file says which.
    Other,
}

/// The tokenizer and everything that the files beside it say.
pub(super) struct TokenizerFiles {
    pub source: Source,
    /// The files that define the tokenizer, first the one that names it in messages.
    pub paths: Vec<PathBuf>,
    pub tokenizer: Tokenizer,
    /// `tokenizer_config.json`; null if absent, like the files below.
    pub config: Value,
    /// `special_tokens_map.json`.
    pub special: Value,
    /// `sentence_bert_config.json`.
    pub sentence: Value,
    /// Whether sentence-transformers wrote the folder.
    pub is_sentence_transformers: bool,
    /// Name and text of the prompt that sentence-transformers puts before every text.
    pub prompt: Option<(String, String)>,
    /// `text_cfg` of `open_clip_config.json`, if there is that file.
    pub open_clip: Option<Value>,
    /// `config.json`.
    pub model: Option<ModelConfig>,
    pub family: Family,
}

impl TokenizerFiles {
    /// Reads the files of `settings`.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if there is no tokenizer that can be read; [`ExtractError::Tokenizer`] if it
    /// is damaged; [`ExtractError::TeacherFile`] or [`ExtractError::TeacherSyntax`] for the other files.
    pub(super) fn read(settings: &TextSettings) -> Result<Self, ExtractError> {
        let (source, paths) = find(settings)?;
        paths.iter().try_for_each(|path| refuse_pointer_file(path))?;
        let tokenizer = match source {
            Source::Json => {
                let unreadable =
                    |source| ExtractError::TeacherFile { path: paths[0].clone(), source, hint: "" };
                let bytes = ordinary::read(&paths[0], bounds::MAX_BYTES).map_err(unreadable)?;
                bounds::check(&bytes).map_err(|reason| broken(&paths[0], reason))?;
                parse(&paths[0], &bytes)?
            }
            Source::ClipVocabulary => clip::from_vocabulary(&paths[0], &paths[1])?,
            Source::ClipMerges => clip::from_merges(&paths[0])?,
        };
        let beside = |name: &str| json(&paths[0].with_file_name(name));
        let (config, special) = (beside("tokenizer_config.json")?, beside("special_tokens_map.json")?);
        let open_clip = read_json(&settings.dir.join("open_clip_config.json"))?;
        let text_cfg = |json: &Value| json.pointer("/model_cfg/text_cfg").cloned().unwrap_or_default();
        let model = ModelConfig::read(&settings.dir)?;
        Ok(Self {
            family: family(settings, &config, source, model.as_ref())?,
            source,
            tokenizer,
            special,
            sentence: json(&settings.dir.join("sentence_bert_config.json"))?,
            is_sentence_transformers: settings.dir.join("modules.json").is_file(),
            prompt: SentencePipeline::default_prompt(&settings.dir)?,
            open_clip: open_clip.map(|(_, json)| text_cfg(&json)),
            model,
            config,
            paths,
        })
    }

    /// transformers' class of the tokenizer, without the suffix that marks its fast variant; may be empty.
    pub(super) fn class(&self) -> &str {
        class(&self.config)
    }

    /// A special token by its role, such as `pad_token`, and the file that names it.
    pub(super) fn special_token(&self, role: &str) -> Option<(&str, &'static str)> {
        let files = [(&self.config, "tokenizer_config.json"), (&self.special, "special_tokens_map.json")];
        files.into_iter().find_map(|(json, name)| {
            // A token is either text or an object with the text as its content.
            let token = json.get(role)?;
            Some((token.get("content").unwrap_or(token).as_str()?, name))
        })
    }
}

fn class(config: &Value) -> &str {
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    class.strip_suffix("Fast").unwrap_or(class)
}

fn json(path: &Path) -> Result<Value, ExtractError> {
    Ok(read_json(path)?.map_or(Value::Null, |(_, json)| json))
}

/// The family, from the first file that tells it.
fn family(
    settings: &TextSettings,
    config: &Value,
    source: Source,
    model: Option<&ModelConfig>,
) -> Result<Family, ExtractError> {
    if let Some(model) = model {
        if model.is_family("siglip") || model.is_family("siglip2") {
            return Ok(Family::Siglip);
        }
        if model.is_family("clip") {
            return Ok(Family::Clip);
        }
        if model.text().model_type.is_some() {
            return Ok(Family::Other);
        }
    }
    if source != Source::Json || class(config) == "CLIPTokenizer" {
        return Ok(Family::Clip);
    }
    if class(config).starts_with("Siglip") {
        return Ok(Family::Siglip);
    }
    for name in ["preprocessor_config.json", "processor_config.json"] {
        let json = json(&settings.dir.join(name))?;
        for key in ["/processor_class", "/image_processor_type", "/image_processor/image_processor_type"] {
            match json.pointer(key).and_then(Value::as_str) {
                Some(class) if class.starts_with("Siglip") => return Ok(Family::Siglip),
                Some(class) if class.starts_with("CLIPProcessor") => return Ok(Family::Clip),
                _ => {}
            }
        }
    }
    Ok(Family::Other)
}

/// The files that define the tokenizer.
fn find(settings: &TextSettings) -> Result<(Source, Vec<PathBuf>), ExtractError> {
    if let Some(path) = settings.tokenizer() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !path.is_file() {
            let reason = format!("there is no such file, [text] tokenizer; {}", found(&settings.dir));
            return Err(ExtractError::setting(&path, reason, "correct tokenizer in teacher.toml"));
        }
        return match name.as_ref() {
            VOCABULARY => Ok((Source::ClipVocabulary, vec![path.clone(), path.with_file_name(MERGES)])),
            name if name.ends_with(".txt") || name.ends_with(".gz") => {
                Ok((Source::ClipMerges, vec![path.clone()]))
            }
            name if name.ends_with(".model") => Err(unreadable(&settings.dir)),
            _ => Ok((Source::Json, vec![path.clone()])),
        };
    }
    let at = |name: &str| Some(settings.dir.join(name)).filter(|path| path.is_file());
    if let Some(path) = at(TOKENIZER) {
        return Ok((Source::Json, vec![path]));
    }
    if let Some((vocab, merges)) = at(VOCABULARY).zip(at(MERGES)) {
        return Ok((Source::ClipVocabulary, vec![vocab, merges]));
    }
    match OPENAI_MERGES.iter().find_map(|name| at(name)) {
        Some(path) => Ok((Source::ClipMerges, vec![path])),
        None => Err(unreadable(&settings.dir)),
    }
}

/// Lists the tokenizer's files in `dir`, for a message.
fn found(dir: &Path) -> String {
    let known = [
        TOKENIZER,
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
        VOCABULARY,
        MERGES,
        "vocab.txt",
        "tokenizer_config.json",
        OPENAI_MERGES[0],
        OPENAI_MERGES[1],
    ];
    let found: Vec<&str> = known.into_iter().filter(|name| dir.join(name).is_file()).collect();
    if found.is_empty() {
        "the folder has no file of a tokenizer".to_owned()
    } else {
        format!("the folder has {}", found.join(", "))
    }
}

/// The error for a folder without a tokenizer that can be read, with the command that writes `tokenizer.json`.
fn unreadable(dir: &Path) -> ExtractError {
    let has = |name: &str| dir.join(name).is_file();
    let siglip = json(&dir.join("tokenizer_config.json"))
        .is_ok_and(|config| class(&config) == "SiglipTokenizer")
        || ModelConfig::read(dir).ok().flatten().is_some_and(|model| model.is_family("siglip"));
    // transformers chooses the class by these files, and fails without them.
    let classless = !has("tokenizer_config.json") && !has("config.json");
    let hint = if has("vocab.txt") && classless {
        let lower = !has_upper_case(&dir.join("vocab.txt"));
        return refuse(
            dir,
            &format!(
                "for a BERT model, write it with transformers, in this folder: python -c \"from transformers import BertTokenizerFast as \
                 B; B('vocab.txt', do_lower_case={}).save_pretrained('.')\"",
                if lower { "True" } else { "False" }
            ),
        );
    } else if has("spiece.model") && siglip {
        // SigLIP's own class has no fast variant; T5's reads the same file, and teachers of this class are cleaned
        // as it does.
        "write it in this folder with transformers 4: pip install 'transformers<5' sentencepiece protobuf, then python -c \"from \
         transformers import T5TokenizerFast as T; T('spiece.model', extra_ids=0, legacy=False, add_prefix_space=True, \
         pad_token='</s>').backend_tokenizer.save('tokenizer.json')\""
    } else if ["spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "vocab.txt", VOCABULARY]
        .into_iter()
        .any(has)
    {
        "write it with transformers, in this folder: python -c \"from transformers import AutoTokenizer; \
         AutoTokenizer.from_pretrained('.', use_fast=True).save_pretrained('.')\""
    } else if has("open_clip_config.json") {
        "copy bpe_simple_vocab_16e6.txt.gz of the open_clip package, or tokenizer.json of the model, into the folder"
    } else {
        "copy tokenizer.json of the model into the folder"
    };
    refuse(dir, hint)
}

fn refuse(dir: &Path, hint: &str) -> ExtractError {
    let reason = format!("expected tokenizer.json or a vocabulary of CLIP; {}", found(dir));
    ExtractError::setting(&dir.join(TOKENIZER), reason, hint)
}

/// Whether a list of words has capital letters, other than in special tokens such as `[CLS]`. A model of lower case has
/// none.
fn has_upper_case(path: &Path) -> bool {
    let text = ordinary::read_text(path, bounds::MAX_BYTES).unwrap_or_default();
    text.lines().any(|word| !word.starts_with('[') && word.chars().any(char::is_uppercase))
}
