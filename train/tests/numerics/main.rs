//! The numerical half: layers, students, objectives and optimizers against PyTorch, and against themselves, on every
//! device (`device.rs`).

#[cfg(feature = "cuda")]
#[cfg(test)]
mod beside_cpu;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod determinism;
#[cfg(test)]
mod device;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod hgkd;
#[cfg(test)]
mod layer;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod lgd;
#[cfg(test)]
mod masked;
#[cfg(test)]
mod objectives;
#[cfg(test)]
mod ops;
#[cfg(test)]
mod optimizers;
#[cfg(test)]
mod params;
#[cfg(test)]
mod queue;
#[cfg(test)]
mod random_layers;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod students;
#[cfg(test)]
mod tape;
#[cfg(test)]
mod whole_step;
