//! `lgd export`: writes a finished student as one ONNX file.

use std::fs;
use std::path::Path;

use indicatif::DecimalBytes;
use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::error::{IoContext, Remedy};
use lgd_data::manifest::{Verify, write_atomic};
use lgd_train::export::{Dimension, Port, names_of, run_to_onnx};
use serde::Serialize;

use super::{open_run, print, print_json, wants_json};
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
    let run = open_run(&args.run, &args.checkpoint)?;
    let bank = args.bank.as_deref().map(|dir| Bank::open(dir, Verify::Full)).transpose()?;
    let model = run_to_onnx(&run, bank.as_ref(), args.batch)?;
    if let Some(parent) = args.out.parent() {
        fs::create_dir_all(parent).during("create the folder", parent)?;
    }
    write_atomic(&args.out, &model.bytes)?;
    let report = Report {
        out: &args.out,
        bytes: model.bytes.len(),
        opset: model.opset,
        inputs: &model.inputs,
        outputs: &model.outputs,
        names: names_of(&run, bank.as_ref()),
    };
    if wants_json(&args.report) {
        print_json(&report)?;
    } else {
        let size = DecimalBytes(u64::try_from(report.bytes)?);
        let (inputs, outputs) = (ports(report.inputs), ports(report.outputs));
        print(&format!("export: {}, {size}, from {inputs} to {outputs}", args.out.display()))?;
    }
    Ok(Exit::Done)
}

/// Inputs or outputs in words, such as `images [batch, 3, 32, 32]`.
fn ports(ports: &[Port]) -> String {
    let size = |dimension: &Dimension| match dimension {
        Dimension::Free(name) => (*name).to_owned(),
        Dimension::Fixed(size) => size.to_string(),
    };
    let port = |port: &Port| {
        let sizes: Vec<String> = port.shape.iter().map(size).collect();
        format!("{} [{}]", port.name, sizes.join(", "))
    };
    ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// Fails if the file exists and `overwrite` is not set, or if `out` is a folder.
fn require_free(out: &Path, overwrite: bool) -> Result<(), ArtifactError> {
    let occupied = |what: &str, way| {
        Err(ArtifactError::Occupied {
            path: out.to_owned(),
            what: what.to_owned(),
            remedy: Remedy::Other(way),
        })
    };
    if out.is_dir() {
        return occupied("other files", "give the name of a file, such as student.onnx");
    }
    if !overwrite && out.try_exists().during("look for", out)? {
        return occupied("something", "give --overwrite, or another file");
    }
    Ok(())
}
