//! The sections of reports.

mod categories;
mod comparison;
mod configuration;
mod confusion;
mod images;
mod provenance;
mod similarity;
mod training;

pub(crate) use categories::Categories;
pub(crate) use comparison::comparison;
pub(crate) use configuration::configuration;
pub(crate) use confusion::confusion;
pub(crate) use images::Images;
pub(crate) use provenance::{Provenance, times};
pub(crate) use training::{holdout_tiles, training};
