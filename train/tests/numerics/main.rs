//! The numerical half: operations, students, objective and optimiser against PyTorch, and against themselves.

#[cfg(test)]
mod determinism;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod lgd;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod params;
#[cfg(test)]
mod whole_step;
