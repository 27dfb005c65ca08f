//! `lgd predict`: names with probabilities for images.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use lgd_data::error::IoContext;
use lgd_data::manifest::AtomicFile;
use lgd_train::predict::{
    Classifier, PredictError, Prediction, PredictionRow, PredictionWriter, TableFormat, predict,
};

use super::export::require_free;
use super::{images, model, set_threads};
use crate::args::{OutputFormat, PredictArgs};
use crate::exit::Exit;
use crate::progress::{JOB, Progress};

/// Where predictions go.
enum Sink<W: Write + Send> {
    Text(W, Vec<String>),
    Table(PredictionWriter<W>),
}

impl<W: Write + Send> Sink<W> {
    fn new(format: OutputFormat, to: W, names: Vec<String>, top_k: usize) -> io::Result<Self> {
        let table = |format| PredictionWriter::new(format, to, names.clone(), top_k, false).map(Self::Table);
        match format {
            OutputFormat::Csv => table(TableFormat::Csv),
            OutputFormat::Json => table(TableFormat::Json),
            OutputFormat::Parquet => table(TableFormat::Parquet),
            OutputFormat::Text => Ok(Self::Text(to, names)),
        }
    }

    fn write(&mut self, Prediction { key, top }: &Prediction<'_>) -> io::Result<()> {
        match self {
            Self::Table(table) => table.write(PredictionRow { path: key, label: None, top }),
            Self::Text(to, names) => {
                let name = |category| usize::try_from(category).ok().and_then(|at: usize| names.get(at));
                let words: Vec<String> = top
                    .iter()
                    .map(|one| {
                        let name = name(one.category).map_or("", String::as_str);
                        format!("{name} {:.1}%", 100.0 * one.probability)
                    })
                    .collect();
                writeln!(to, "{key}: {}", words.join(", "))
            }
        }
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Self::Table(table) => table.finish(),
            Self::Text(mut to, _) => to.flush().map(|()| to),
        }
    }
}

/// Runs `lgd predict`.
pub fn run(args: &PredictArgs) -> anyhow::Result<Exit> {
    let format = args.output_format(io::stdout().is_terminal())?;
    if let Some(out) = &args.out {
        require_free(out, args.overwrite)?;
    }
    set_threads(args.model.threads)?;
    let source = images::open(&args.images)?;
    let mut student = model::open(&args.model)?;
    let bank = model::bank(args.bank.as_deref(), student.as_ref())?;
    let classifier = Classifier::of(student.as_ref(), bank.as_ref())?;
    let (center, options) =
        images::options(&args.images, student.as_ref(), args.model.threads, &classifier.notes);
    let names: Vec<String> = classifier.categories().names().into_iter().map(str::to_owned).collect();

    let mut rejects = Vec::new();
    let mut fill = |sink: &mut dyn FnMut(&Prediction<'_>) -> io::Result<()>, to: &str| {
        let _progress =
            (args.out.is_some() || !io::stdout().is_terminal()).then(|| Progress::show("predict", "images"));
        let accept = &mut |prediction: Prediction<'_>| {
            sink(&prediction).map_err(|source| PredictError::Write { to: to.to_owned(), source })
        };
        let feed = (&source as &dyn lgd_data::source::ImageSource, center);
        rejects = predict(student.as_mut(), &classifier, feed, args.top_k, &options, &JOB, accept)?;
        Ok::<_, PredictError>(())
    };
    match &args.out {
        Some(out) => {
            let mut sink = Sink::new(format, create(out)?, names, args.top_k).during("write", out)?;
            fill(&mut |prediction| sink.write(prediction), &out.display().to_string())?;
            sink.finish().during("write", out)?.commit()?;
        }
        None => {
            let stdout = io::BufWriter::new(io::stdout());
            let mut sink =
                Sink::new(format, stdout, names, args.top_k).context("cannot write to standard output")?;
            let filled = fill(&mut |prediction| sink.write(prediction), "standard output");
            match filled.and_then(|()| {
                let to = "standard output".to_owned();
                sink.finish().map(drop).map_err(|source| PredictError::Write { to, source })
            }) {
                // A closed pipe, for example by `head`, is not an error: nobody reads the rest.
                Err(PredictError::Write { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
    }
    images::finish(&args.images, &source, &rejects)
}

fn create(out: &Path) -> anyhow::Result<AtomicFile> {
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).during("create the folder", parent)?;
    }
    Ok(AtomicFile::create(out)?)
}
