//! Stops what runs in ONNX Runtime. A model may run for hours, or for ever if it has a loop, and sees no stop flag of ours.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ort::session::builder::LoadCanceler;
use ort::session::{HasSelectedOutputs, RunOptions};

static STOPPED: AtomicBool = AtomicBool::new(false);
static RUNS: Mutex<Vec<Weak<StoppableOptions>>> = Mutex::new(Vec::new());
static LOADS: Mutex<Vec<LoadCanceler>> = Mutex::new(Vec::new());

/// Ends the loading and running of all models of this process, which then fail with
/// [`ExtractError::Interrupted`](crate::ExtractError::Interrupted), as all later ones do. For a process that is to end; a
/// graceful stop is a matter of [`Job::interrupt`](lgd_data::job::Job::interrupt).
pub fn stop_models() {
    STOPPED.store(true, Ordering::SeqCst);
    for options in lock(&RUNS).iter().filter_map(Weak::upgrade) {
        // A run that cannot be stopped ends as it does.
        let _ = options.0.terminate();
    }
    for load in &*lock(&LOADS) {
        let _ = load.cancel();
    }
}

/// Whether [`stop_models`] was called.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Options of a run that another thread may stop.
pub(crate) struct StoppableOptions(RunOptions<HasSelectedOutputs>);

#[expect(
    unsafe_code,
    reason = "the type is not Sync because of preallocated outputs, which these options do not have"
)]
// SAFETY: other threads call `terminate` alone, which sets a flag that ONNX Runtime reads from any thread, by the API's
// contract (RunOptionsSetTerminate). The selected outputs are names that never change.
unsafe impl Sync for StoppableOptions {}

impl StoppableOptions {
    /// Registers the options of a session's runs.
    pub(crate) fn new(options: RunOptions<HasSelectedOutputs>) -> Arc<Self> {
        let options = Arc::new(Self(options));
        let mut runs = lock(&RUNS);
        runs.retain(|options| options.strong_count() > 0);
        runs.push(Arc::downgrade(&options));
        options
    }

    pub(crate) fn get(&self) -> &RunOptions<HasSelectedOutputs> {
        &self.0
    }
}

/// Registers the loading of a model.
pub(crate) fn register_load(load: LoadCanceler) {
    lock(&LOADS).push(load);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
