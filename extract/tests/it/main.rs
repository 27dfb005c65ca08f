//! Tests against the real ONNX Runtime library and tiny models (`tests/fixtures/make_models.py`).
//!
//! `cfg(test)` on the modules tells clippy that their helpers are test code.

#[cfg(test)]
mod common;
#[cfg(test)]
mod image;
#[cfg(test)]
mod image_models;
#[cfg(test)]
mod outputs;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod pipeline;
#[cfg(test)]
mod real_teacher;
#[cfg(test)]
mod runtime;
#[cfg(test)]
mod student;
#[cfg(test)]
mod text;
#[cfg(test)]
mod text_inputs;
