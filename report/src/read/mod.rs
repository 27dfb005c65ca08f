//! Reads what commands wrote, leniently: a field that is absent, new or of another type is left out of the report, and
//! the rest is shown.

mod eval;
mod metrics;
mod run;

pub(crate) use eval::{ClassFigure, Confusion, Eval, ImageSet, Judged};
pub(crate) use metrics::{Kind, Metrics, MetricsLine};
pub(crate) use run::RunFolder;
