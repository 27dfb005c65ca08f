//! Time on the device's own clock.

use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, sys};

use crate::error::Result;

/// Measures the time of a stream between [`start`](Self::start) and [`stop`](Self::stop).
pub struct Stopwatch {
    stream: Arc<CudaStream>,
    start: CudaEvent,
}

/// Events with timestamps, which cudarc's default disables.
const FLAGS: Option<sys::CUevent_flags> = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);

impl Stopwatch {
    /// Starts the stopwatch after all work issued before.
    ///
    /// # Errors
    /// An error of the device.
    pub fn start(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self { start: stream.record_event(FLAGS)?, stream: Arc::clone(stream) })
    }

    /// Milliseconds that the work issued since the start took; waits for it.
    ///
    /// # Errors
    /// An error of that work.
    pub fn stop(self) -> Result<f32> {
        let stop = self.stream.record_event(FLAGS)?;
        stop.synchronize()?;
        Ok(self.start.elapsed_ms(&stop)?)
    }
}
