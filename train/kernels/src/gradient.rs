//! Destination of the gradient of an operation's input.

/// The gradient of an operation's output, and the destination of the gradient of its input.
///
/// `Dy` is the output's gradient to read, `Dx` the memory to write: slices here, buffers of a device elsewhere.
#[derive(Debug)]
pub enum GradientTarget<Dy, Dx> {
    /// The memory holds the output's gradient; the input's gradient replaces it.
    InPlace(Dx),
    /// The input's gradient is written to its own memory.
    Into {
        /// Gradient of the output.
        dy: Dy,
        /// Gradient of the input.
        dx: Dx,
        /// Whether the gradient is added to `dx` instead of replacing it.
        accumulate: bool,
    },
}
