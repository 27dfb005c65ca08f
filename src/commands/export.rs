//! `lgd export`: writes a finished student as one ONNX file.

use std::fs;
use std::path::Path;

use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::error::IoContext;
use lgd_data::manifest::{Verify, write_atomic};
use lgd_train::export::{Port, names_of, run_to_onnx};
use lgd_train::run::Run;
use serde::Serialize;

use super::print_json;
use crate::args::ExportArgs;
use crate::exit::Exit;

/// Description of the written file.
#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    bytes: usize,
    opset: i64,
    inputs: &'a [Port],
    outputs: &'a [Port],
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
}

/// Runs `lgd export`.
pub fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    require_free(&args.out, args.overwrite)?;
    let run = Run::open(&args.run, Verify::Full)?;
    let bank = args.bank.as_deref().map(|dir| Bank::open(dir, Verify::Full)).transpose()?;
    let model = run_to_onnx(&run, bank.as_ref(), args.batch)?;
    if let Some(parent) = args.out.parent() {
        fs::create_dir_all(parent).during("create the folder", parent)?;
    }
    write_atomic(&args.out, &model.bytes)?;
    print_json(&Report {
        out: &args.out,
        bytes: model.bytes.len(),
        opset: model.opset,
        inputs: &model.inputs,
        outputs: &model.outputs,
        names: names_of(&run, bank.as_ref()),
    })?;
    Ok(Exit::Done)
}

/// Fails if the file exists and `overwrite` is not set, or if `out` is a folder.
pub(super) fn require_free(out: &Path, overwrite: bool) -> Result<(), ArtifactError> {
    let occupied =
        |what: &str, hint| Err(ArtifactError::Occupied { path: out.to_owned(), what: what.to_owned(), hint });
    if out.is_dir() {
        return occupied("other files", "give the name of a file in it");
    }
    if !overwrite && out.try_exists().during("look for", out)? {
        return occupied("something", "give --overwrite, or another file");
    }
    Ok(())
}
