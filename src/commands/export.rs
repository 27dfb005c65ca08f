//! `lgd export`: a finished student as one ONNX file.

use std::path::PathBuf;

use anyhow::ensure;
use lgd_data::bank::Bank;
use lgd_data::manifest::{Verify, write_atomic};
use lgd_train::export::{Signature, run_to_onnx};
use lgd_train::run::Run;
use serde::Serialize;

use super::print_json;
use crate::args::ExportArgs;
use crate::exit::Exit;

/// What was written.
#[derive(Serialize)]
struct Report<'a> {
    out: &'a PathBuf,
    bytes: usize,
    #[serde(flatten)]
    signature: &'a Signature,
}

/// Runs the command.
pub fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    let out = &args.out;
    let free = args.overwrite || !out.try_exists()?;
    ensure!(free, "{} is there already\nhint: give --overwrite, or another file", out.display());
    let run = Run::open(&args.run, Verify::Full)?;
    let bank = args.bank.as_deref().map(|dir| Bank::open(dir, Verify::Full)).transpose()?;
    let model = run_to_onnx(&run, bank.as_ref())?;
    write_atomic(out, &model.bytes)?;
    print_json(&Report { out, bytes: model.bytes.len(), signature: &model.signature })?;
    Ok(Exit::Done)
}
