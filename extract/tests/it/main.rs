//! Tests against the real ONNX Runtime library and tiny models (`tests/fixtures/make_models.py`).

mod common;
mod image;
mod pipeline;
mod real_teacher;
mod runtime;
mod text;
