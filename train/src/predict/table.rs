//! Predictions as CSV, JSON lines or Parquet: one row per image.
//!
//! ```text
//! CSV, Parquet   path[,label],name,probability[,name_2,probability_2, ...]
//! JSON lines     {"path": "a.jpg", "label": "dog", "predictions": [{"name": "dog", "probability": 0.93}, ...]}
//! ```

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use clap::ValueEnum;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde::Serialize;

use super::Candidate;

/// Rows that are buffered before they are written to a Parquet file.
const BUFFERED: usize = 8192;

/// Format of a table of predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    #[value(alias = "jsonl")]
    Json,
    /// Parquet.
    Parquet,
}

impl TableFormat {
    /// The format that a file's extension names: csv, json, jsonl or parquet.
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// One row: an image, its class if known, and its most probable names, the most probable first.
#[derive(Clone, Copy, Debug)]
pub struct PredictionRow<'a> {
    /// Path or key of the image.
    pub path: &'a str,
    /// Name of its class. Ignored if the writer has no column for it.
    pub label: Option<&'a str>,
    /// The candidates.
    pub top: &'a [Candidate],
}

/// Writes rows of predictions.
pub struct PredictionWriter<W: Write + Send> {
    names: Vec<String>,
    labels: bool,
    format: Writer<W>,
}

enum Writer<W: Write + Send> {
    Csv(Box<csv::Writer<W>>),
    Json(W),
    Parquet(Box<Columns<W>>),
}

impl<W: Write + Send> PredictionWriter<W> {
    /// Starts a table in `to`. `names`: the names of the candidates; `top_k`: candidates per row, at most one per name;
    /// `labels`: whether rows have a label.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn new(
        format: TableFormat,
        to: W,
        names: Vec<String>,
        top_k: usize,
        labels: bool,
    ) -> io::Result<Self> {
        let header = header(top_k.min(names.len()), labels);
        let format = match format {
            TableFormat::Csv => {
                let mut writer = csv::Writer::from_writer(to);
                writer.write_record(header.iter().map(|(name, _)| name))?;
                Writer::Csv(Box::new(writer))
            }
            TableFormat::Json => Writer::Json(to),
            TableFormat::Parquet => Writer::Parquet(Box::new(Columns::new(to, &header)?)),
        };
        Ok(Self { names, labels, format })
    }

    /// Writes a row.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, row: PredictionRow<'_>) -> io::Result<()> {
        let PredictionRow { path, label, top } = row;
        let name = |candidate: &Candidate| {
            let at = usize::try_from(candidate.category).unwrap_or(usize::MAX);
            self.names.get(at).map_or("", String::as_str)
        };
        match &mut self.format {
            Writer::Csv(writer) => {
                writer.write_field(path)?;
                if self.labels {
                    writer.write_field(label.unwrap_or(""))?;
                }
                for candidate in top {
                    writer.write_field(name(candidate))?;
                    writer.write_field(candidate.probability.to_string())?;
                }
                Ok(writer.write_record(None::<&[u8]>)?)
            }
            Writer::Json(to) => {
                let predictions = top.iter().map(|candidate| JsonCandidate {
                    name: name(candidate),
                    probability: candidate.probability,
                });
                let label = label.filter(|_| self.labels);
                serde_json::to_writer(
                    &mut *to,
                    &JsonRow { path, label, predictions: predictions.collect() },
                )?;
                to.write_all(b"\n")
            }
            Writer::Parquet(columns) => {
                let mut texts = vec![Some(path)];
                texts.extend(self.labels.then_some(label));
                texts.extend(top.iter().map(|candidate| Some(name(candidate))));
                columns.push(&texts, top.iter().map(|candidate| candidate.probability))
            }
        }
    }

    /// Writes what is buffered and returns the destination.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> io::Result<W> {
        match self.format {
            Writer::Csv(writer) => writer.into_inner().map_err(|error| error.into_error()),
            Writer::Json(mut to) => to.flush().map(|()| to),
            Writer::Parquet(columns) => columns.finish(),
        }
    }
}

#[derive(Serialize)]
struct JsonRow<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    predictions: Vec<JsonCandidate<'a>>,
}

#[derive(Serialize)]
struct JsonCandidate<'a> {
    name: &'a str,
    probability: f32,
}

/// Names and types of the columns.
fn header(top_k: usize, labels: bool) -> Vec<(String, DataType)> {
    let mut columns = vec![("path".to_owned(), DataType::Utf8)];
    columns.extend(labels.then(|| ("label".to_owned(), DataType::Utf8)));
    for rank in 1..=top_k {
        let suffix = if rank == 1 { String::new() } else { format!("_{rank}") };
        columns.push((format!("name{suffix}"), DataType::Utf8));
        columns.push((format!("probability{suffix}"), DataType::Float32));
    }
    columns
}

/// A Parquet file in progress: buffered columns of texts and of numbers, in the order of the schema within each type.
struct Columns<W: Write + Send> {
    writer: ArrowWriter<W>,
    schema: SchemaRef,
    texts: Vec<Vec<Option<String>>>,
    numbers: Vec<Vec<f32>>,
}

impl<W: Write + Send> Columns<W> {
    fn new(to: W, header: &[(String, DataType)]) -> io::Result<Self> {
        // Only a label may be missing.
        let field = |(name, kind): &(String, DataType)| Field::new(name, kind.clone(), name == "label");
        let schema: SchemaRef = Arc::new(Schema::new(header.iter().map(field).collect::<Vec<_>>()));
        let count = |of: DataType| header.iter().filter(|(_, kind)| *kind == of).count();
        let (texts, numbers) = (count(DataType::Utf8), count(DataType::Float32));
        let writer = ArrowWriter::try_new(to, Arc::clone(&schema), Some(properties()))?;
        Ok(Self { writer, schema, texts: vec![Vec::new(); texts], numbers: vec![Vec::new(); numbers] })
    }

    fn push(&mut self, texts: &[Option<&str>], numbers: impl Iterator<Item = f32>) -> io::Result<()> {
        self.texts.iter_mut().zip(texts).for_each(|(column, text)| column.push(text.map(str::to_owned)));
        self.numbers.iter_mut().zip(numbers).for_each(|(column, number)| column.push(number));
        if self.texts[0].len() == BUFFERED { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut texts = self.texts.iter_mut();
        let mut numbers = self.numbers.iter_mut();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            if *field.data_type() == DataType::Utf8 {
                arrays.extend(texts.next().map(|column| array(StringArray::from(std::mem::take(column)))));
            } else {
                arrays.extend(numbers.next().map(|column| array(Float32Array::from(std::mem::take(column)))));
            }
        }
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(io::Error::other)?;
        Ok(self.writer.write(&batch)?)
    }

    fn finish(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.writer.into_inner()?)
    }
}

fn array(column: impl arrow_array::Array + 'static) -> ArrayRef {
    Arc::new(column)
}

/// Properties of the Parquet files of results: plain readers' defaults, compressed.
pub(super) fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_created_by(concat!("lgd ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: TableFormat, labels: bool) -> Vec<u8> {
        let names = ["dog", "cat, or \"puss\"", "fox"].map(str::to_owned).to_vec();
        let mut writer = PredictionWriter::new(format, Vec::new(), names, 2, labels).unwrap();
        let top =
            [Candidate { category: 1, probability: 0.75 }, Candidate { category: 0, probability: 0.125 }];
        writer.write(PredictionRow { path: "a b.jpg", label: Some("dog"), top: &top }).unwrap();
        writer.write(PredictionRow { path: "c.jpg", label: None, top: &top }).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn csv_has_a_row_per_image_and_quotes_names() {
        let text = String::from_utf8(written(TableFormat::Csv, false)).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "path,name,probability,name_2,probability_2");
        assert_eq!(lines[1], "a b.jpg,\"cat, or \"\"puss\"\"\",0.75,dog,0.125");
        assert_eq!(lines.len(), 3);
        let text = String::from_utf8(written(TableFormat::Csv, true)).unwrap();
        assert!(text.starts_with("path,label,name,") && text.contains("\nc.jpg,,\"cat"), "{text}");
    }

    #[test]
    fn json_lines_hold_what_csv_holds() {
        let text = String::from_utf8(written(TableFormat::Json, true)).unwrap();
        let rows: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows[0]["label"], "dog");
        assert_eq!(rows[0]["predictions"][1], serde_json::json!({"name": "dog", "probability": 0.125}));
        assert!(rows[1].get("label").is_none());
    }

    #[test]
    fn parquet_reads_back() {
        use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
        let bytes = bytes::Bytes::from(written(TableFormat::Parquet, true));
        let batch = ParquetRecordBatchReader::try_new(bytes, 16).unwrap().next().unwrap().unwrap();
        let columns: Vec<String> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(columns, ["path", "label", "name", "probability", "name_2", "probability_2"]);
        let text =
            |column: usize| batch.column(column).as_any().downcast_ref::<StringArray>().unwrap().clone();
        assert_eq!((text(0).value(1), text(4).value(0), batch.column(1).null_count()), ("c.jpg", "dog", 1));
        let numbers = batch.column(3).as_any().downcast_ref::<Float32Array>().unwrap();
        assert_eq!(numbers.values(), &[0.75, 0.75]);
    }
}
