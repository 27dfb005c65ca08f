//! The memory-bound kernels against naive references in f64, for every activation, thread count and instruction set.

#[cfg(test)]
mod activation;
#[cfg(test)]
mod batch_norm;
#[cfg(test)]
mod common;
#[cfg(test)]
mod depthwise;
#[cfg(test)]
mod elementwise;
#[cfg(test)]
mod instruction_sets;
#[cfg(test)]
mod linear;
#[cfg(test)]
mod mask;
#[cfg(test)]
mod optimizer;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod rows;
