//! `lgd predict`: names with probabilities for images.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use lgd_data::cache::Reject;
use lgd_data::error::IoContext;
use lgd_data::manifest::AtomicFile;
use lgd_data::source::ImageSource;
use lgd_data::view::CenterCrop;
use lgd_train::inference::{ImageModel, InferenceOptions};
use lgd_train::predict::{
    Classifier, ImageArguments, PredictError, Prediction, PredictionRow, PredictionWriter, TableFormat,
    predict,
};

use super::export::require_free;
use super::{images, model, set_threads};
use crate::args::{OutputFormat, PredictArgs};
use crate::escape::escaped;
use crate::exit::Exit;
use crate::progress::{JOB, Progress};

/// Where predictions go.
enum Sink<W: Write + Send> {
    Text(W, Vec<String>),
    Table(PredictionWriter<W>),
}

impl<W: Write + Send> Sink<W> {
    fn new(format: OutputFormat, to: W, names: Vec<String>, top_k: usize) -> io::Result<Self> {
        let format = match format {
            OutputFormat::Text => return Ok(Self::Text(to, names)),
            OutputFormat::Csv => TableFormat::Csv,
            OutputFormat::Json => TableFormat::Json,
            OutputFormat::Parquet => TableFormat::Parquet,
        };
        PredictionWriter::new(format, to, names, top_k, false).map(Self::Table)
    }

    fn write(&mut self, Prediction { key, top }: &Prediction<'_>) -> io::Result<()> {
        match self {
            Self::Table(table) => table.write(PredictionRow { path: key, label: None, top }),
            Self::Text(to, names) => {
                let name = |category: u32| usize::try_from(category).ok().and_then(|at| names.get(at));
                let words: Vec<String> = top
                    .iter()
                    .map(|one| {
                        let name = name(one.category).map_or("", String::as_str);
                        format!("{name} {:.1}%", 100.0 * one.probability)
                    })
                    .collect();
                writeln!(to, "{}", escaped(&format!("{key}: {}", words.join(", "))))
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

/// The student, its names and the images.
struct Work<'a> {
    args: &'a PredictArgs,
    source: ImageArguments,
    student: Box<dyn ImageModel>,
    classifier: Classifier,
    center: CenterCrop,
    options: InferenceOptions,
}

impl Work<'_> {
    /// Predicts all images into `sink`. `to` names it in messages. Returns what the sink wrote to, and the rejects.
    fn fill<W: Write + Send>(
        &mut self,
        mut sink: Sink<W>,
        to: &str,
    ) -> Result<(W, Vec<Reject>), PredictError> {
        let failed = |source| PredictError::Write { to: to.to_owned(), source };
        let feed = (&self.source as &dyn ImageSource, self.center);
        let (student, classifier, top_k) = (self.student.as_mut(), &self.classifier, self.args.top_k);
        let accept = &mut |prediction: Prediction<'_>| sink.write(&prediction).map_err(failed);
        let rejects = predict(student, classifier, feed, top_k, &self.options, &JOB, accept)?;
        Ok((sink.finish().map_err(failed)?, rejects))
    }
}

/// Runs `lgd predict`.
pub fn run(args: &PredictArgs) -> anyhow::Result<Exit> {
    let terminal = io::stdout().is_terminal();
    let format = args.output_format(terminal)?;
    if let Some(out) = &args.out {
        require_free(out, false, args.overwrite)?;
    }
    set_threads(args.model.threads)?;
    let source = images::open(&args.images)?;
    let student = model::open(&args.model)?;
    let bank = model::bank(args.bank.as_deref(), student.as_ref())?;
    let classifier = Classifier::of(student.as_ref(), bank.as_ref())?;
    let (center, options) =
        images::options(&args.images, student.as_ref(), args.model.threads, &classifier.notes);
    let names: Vec<String> = classifier.categories().names().into_iter().map(str::to_owned).collect();
    let mut work = Work { args, source, student, classifier, center, options };
    let Some(out) = &args.out else {
        // A bar would be drawn between the lines of a terminal.
        let _progress = (!terminal).then(|| Progress::show("predict", "images"));
        let stdout = io::BufWriter::new(io::stdout());
        let sink = Sink::new(format, stdout, names, args.top_k).context("cannot write to standard output")?;
        return match work.fill(sink, "standard output") {
            Ok((_, rejects)) => images::finish(&args.images, &work.source, &rejects),
            // A closed pipe, for example by `head`, is not an error: nobody reads the rest.
            Err(PredictError::Write { source, .. }) if source.kind() == ErrorKind::BrokenPipe => {
                Ok(Exit::Done)
            }
            Err(error) => Err(error.into()),
        };
    };
    let sink = Sink::new(format, create(out)?, names, args.top_k).during("write", out)?;
    let (file, rejects) = {
        let _progress = Progress::show("predict", "images");
        work.fill(sink, &out.display().to_string())?
    };
    let exit = images::finish(&args.images, &work.source, &rejects)?;
    file.commit()?;
    Ok(exit)
}

fn create(out: &Path) -> anyhow::Result<AtomicFile> {
    if let Some(parent) = out.parent() {
        std::fs::create_dir_all(parent).during("create the folder", parent)?;
    }
    Ok(AtomicFile::create(out)?)
}
