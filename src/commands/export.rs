//! `lgd export`: writes a finished student as one ONNX file, or as the weights of another framework.

use std::fs;
use std::path::Path;

use indicatif::DecimalBytes;
use lgd_data::ArtifactError;
use lgd_data::bank::Bank;
use lgd_data::error::{IoContext, Remedy};
use lgd_data::manifest::{FolderLock, LOCK, Verify, write_atomic};
use lgd_train::export::{
    Dimension, FOLDER_FILES, Layout, OnnxFormat, Port, Precision, names_of, run_to_layout, run_to_onnx,
};
use lgd_train::run::Run;
use serde::Serialize;

use super::{open_run, print, print_json, wants_json};
use crate::args::ExportArgs;
use crate::exit::Exit;

/// Description of the written ONNX file.
#[derive(Serialize)]
struct OnnxReport<'a> {
    out: &'a Path,
    bytes: usize,
    opset: i64,
    inputs: &'a [Port],
    outputs: &'a [Port],
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
}

/// Description of the written weights.
#[derive(Serialize)]
struct LayoutReport<'a> {
    out: &'a Path,
    layout: String,
    format: String,
    files: Vec<&'static str>,
    tensors: usize,
    left_out: &'a [String],
    settings: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    notes: &'a [&'static str],
}

/// Runs `lgd export`.
pub fn run(args: &ExportArgs) -> anyhow::Result<Exit> {
    let is_folder = args.layout.is_some_and(Layout::is_folder);
    require_free(&args.out, is_folder, args.overwrite)?;
    let run = open_run(&args.run, &args.checkpoint)?;
    match args.layout {
        Some(layout) => write_layout(&run, args, layout)?,
        None => write_onnx(&run, args)?,
    }
    Ok(Exit::Done)
}

fn write_onnx(run: &Run, args: &ExportArgs) -> anyhow::Result<()> {
    let bank = args.bank.as_deref().map(|dir| Bank::open(dir, Verify::Full)).transpose()?;
    let precision = if args.f16 { Precision::F16 } else { Precision::F32 };
    let format = OnnxFormat { batch: args.batch, input: args.input, precision, maps: args.maps };
    let model = run_to_onnx(run, bank.as_ref(), args.size, format)?;
    write(&args.out, &model.bytes)?;
    let report = OnnxReport {
        out: &args.out,
        bytes: model.bytes.len(),
        opset: model.opset,
        inputs: &model.inputs,
        outputs: &model.outputs,
        names: names_of(run, bank.as_ref()),
    };
    if wants_json(&args.report) {
        return print_json(&report);
    }
    let size = DecimalBytes(u64::try_from(report.bytes)?);
    let (inputs, outputs) = (ports(report.inputs), ports(report.outputs));
    print(&format!("export: {}, {size}, from {inputs} to {outputs}", args.out.display()))
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

fn write_layout(run: &Run, args: &ExportArgs, layout: Layout) -> anyhow::Result<()> {
    let out = args.out.as_path();
    let format = args.format.unwrap_or(layout.default_format());
    let written = run_to_layout(run, layout, format)?;
    let mut lock = None;
    if layout.is_folder() {
        fs::create_dir_all(out).during("create the folder", out)?;
        lock = Some(FolderLock::exclusive(out)?);
        // Another export may have filled the folder in the meantime.
        require_free(out, true, args.overwrite)?;
        // A framework that finds two files of weights would take the older one.
        let stale = FOLDER_FILES.iter().filter(|name| written.files.iter().all(|file| file.name != **name));
        stale
            .map(|name| out.join(name))
            .filter(|path| path.exists())
            .try_for_each(|path| fs::remove_file(&path).during("delete", &path))?;
    }
    for file in &written.files {
        let path = if layout.is_folder() { &out.join(file.name) } else { out };
        write(path, &file.bytes)?;
    }
    drop(lock);
    let names = written.files.iter().map(|file| file.name).filter(|name| !name.is_empty());
    let settings: Vec<String> =
        written.settings.iter().map(|line| line.replace("FILE", &out.display().to_string())).collect();
    let report = LayoutReport {
        out,
        layout: layout.to_string(),
        format: format.to_string(),
        files: names.collect(),
        tensors: written.tensors,
        left_out: &written.left_out,
        settings: &settings,
        notes: &written.notes,
    };
    if wants_json(&args.report) {
        return print_json(&report);
    }
    print(&format!(
        "export: {}, {} tensors as {} in {}",
        out.display(),
        report.tensors,
        report.format,
        report.layout
    ))?;
    settings.iter().try_for_each(|line| print(&format!("  {line}")))?;
    report.notes.iter().try_for_each(|line| print(&format!("note: {line}")))
}

/// Writes a file, and the folder that it is in.
fn write(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).during("create the folder", parent)?;
    }
    write_atomic(path, bytes)?;
    Ok(())
}

/// Fails if `out` is of the other kind, file or folder, or if it holds something and `overwrite` is not set.
pub(super) fn require_free(out: &Path, is_folder: bool, overwrite: bool) -> Result<(), ArtifactError> {
    let occupied = |what: &str, way| {
        Err(ArtifactError::Occupied {
            path: out.to_owned(),
            what: what.to_owned(),
            remedy: Remedy::Other(way),
        })
    };
    if is_folder && out.is_file() {
        return occupied("a file", "give the name of a folder");
    }
    if !is_folder && out.is_dir() {
        return occupied("other files", "give the name of a file, such as student.onnx");
    }
    let is_taken = if is_folder && out.is_dir() {
        let names = fs::read_dir(out).during("list", out)?.map(|entry| entry.map(|entry| entry.file_name()));
        names.collect::<Result<Vec<_>, _>>().during("list", out)?.iter().any(|name| name != LOCK)
    } else {
        out.try_exists().during("look for", out)?
    };
    if is_taken && !overwrite {
        return occupied("something", "give --overwrite, or another path");
    }
    Ok(())
}
