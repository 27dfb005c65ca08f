//! Convolution plans of cuDNN's graph interface: described once per shape, chosen, and executed on any addresses.
//!
//! A plan is a graph of one operation, an engine and its settings. Candidates come from cuDNN's heuristics, best first.
//! Only deterministic candidates are accepted, and for f32 only those that compute in f32.
#![expect(unsafe_code, reason = "calls cuDNN")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::cudnn::result::CudnnError;
use cudarc::cudnn::{result, sys};
use cudarc::driver::CudaStream;

use crate::conv::Tuning;
use crate::error::{CudaError, Result, long};
use crate::memory::Element;

use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Kind;
use sys::cudnnBackendDescriptorType_t as Object;

/// Maximum workspace of a plan.
const MAX_WORKSPACE: usize = 1 << 30;
/// Maximum number of candidates that are measured.
const CANDIDATES: usize = 8;
/// Alignment of every tensor, in bytes.
pub(crate) const ALIGNMENT: i64 = 16;
/// Numerical notes: the codes of `cudnnBackendNumericalNote_t`, as numbers because later versions add more.
const NOTE_TENSOR_CORE: i32 = 0;
const NOTE_DOWN_CONVERT: i32 = 1;
const NOTE_NONDETERMINISTIC: i32 = 4;
const NOTES: usize = 32;

/// The tensor that a convolution pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// y from x and w.
    Forward,
    /// x from y and w.
    Data,
    /// w from x and y.
    Filter,
}

/// A convolution in cuDNN's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Problem {
    pub(crate) pass: Pass,
    /// Element type of the inputs.
    pub(crate) element: Element,
    /// Element type of the result.
    pub(crate) result: Element,
    /// NCHW dimensions; memory is NHWC.
    pub(crate) x: [usize; 4],
    /// OIHW dimensions; memory is OHWI.
    pub(crate) w: [usize; 4],
    /// NCHW dimensions; memory is NHWC.
    pub(crate) y: [usize; 4],
    pub(crate) stride: usize,
    /// Zeros before the rows and the columns.
    pub(crate) before: [usize; 2],
    /// Zeros after them.
    pub(crate) after: [usize; 2],
    pub(crate) dilation: usize,
    /// Whether to add to the result's memory instead of writing it.
    pub(crate) accumulate: bool,
}

/// Addresses of a convolution's tensors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensors {
    pub(crate) x: u64,
    pub(crate) w: u64,
    pub(crate) y: u64,
}

/// A chosen plan for a problem.
struct Plan {
    execution: Descriptor,
    workspace: usize,
    /// cuDNN's number of the engine, for reports.
    engine: i64,
    /// Objects that the plan refers to.
    _graph: Rc<Graph>,
    _config: Descriptor,
}

/// A graph of one operation, and all objects that it refers to.
struct Graph {
    graph: Descriptor,
    _parts: Vec<Descriptor>,
}

/// The library's handle and the plans made so far.
pub(crate) struct Dnn {
    handle: sys::cudnnHandle_t,
    tuning: Tuning,
    /// The chosen plan of a problem, or the error of the first candidate that failed, if any did.
    plans: HashMap<Problem, Result<Plan, Option<CudaError>>>,
}

// SAFETY: any thread may use the handle and descriptors, one thread at a time, which unique references ensure.
unsafe impl Send for Dnn {}

impl Dnn {
    pub(crate) fn new(stream: &Arc<CudaStream>, tuning: Tuning) -> Result<Self> {
        stream.context().bind_to_thread()?;
        let failed =
            |status: CudnnError| CudaError::Library { library: "cuDNN 9", reason: status.to_string() };
        let handle = result::create_handle().map_err(failed)?;
        // SAFETY: the handle was made above; the stream lives as long as the context, which the caller keeps.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }.map_err(failed)?;
        Ok(Self { handle, tuning, plans: HashMap::new() })
    }

    pub(crate) fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// Whether there is a plan for `problem`; none before [`choose`](Self::choose).
    pub(crate) fn chosen(&self, problem: &Problem) -> Option<bool> {
        self.plans.get(problem).map(Result::is_ok)
    }

    /// Bytes of workspace of the plan for `problem`.
    ///
    /// # Errors
    /// [`CudaError::NoPlan`].
    pub(crate) fn workspace(&self, problem: &Problem) -> Result<usize> {
        Ok(self.plan_of(problem)?.workspace)
    }

    /// cuDNN's number of the engine for `problem`, for reports.
    pub(crate) fn engine(&self, problem: &Problem) -> Option<i64> {
        self.plan_of(problem).ok().map(|plan| plan.engine)
    }

    fn plan_of(&self, problem: &Problem) -> Result<&Plan> {
        let no_plan = |first: Option<&CudaError>| CudaError::NoPlan {
            what: format!("{problem:?}"),
            first: first.cloned().map(Box::new),
        };
        match self.plans.get(problem) {
            Some(Ok(plan)) => Ok(plan),
            Some(Err(first)) => Err(no_plan(first.as_ref())),
            None => Err(no_plan(None)),
        }
    }

    /// At most `most` acceptable plans for `problem`, in the order of the heuristics. `first` keeps the first error of
    /// a candidate.
    fn candidates(&self, problem: &Problem, most: usize, first: &mut Option<CudaError>) -> Result<Vec<Plan>> {
        let graph = Rc::new(self.graph(problem)?);
        let mut plans = Vec::new();
        for mode in [
            sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_A,
            sys::cudnnBackendHeurMode_t::CUDNN_HEUR_MODE_FALLBACK,
        ] {
            // A mode without an answer is not an error: the next mode may have one.
            let configs = configurations(&graph.graph, mode).unwrap_or_else(|error| {
                first.get_or_insert(error);
                Vec::new()
            });
            for config in configs {
                if plans.len() == most {
                    return Ok(plans);
                }
                match self.plan(problem, &graph, config) {
                    Ok(plan) => plans.extend(plan),
                    Err(error) => {
                        first.get_or_insert(error);
                    }
                }
            }
            if !plans.is_empty() {
                break;
            }
        }
        Ok(plans)
    }

    /// Completes a candidate; none if it is nondeterministic, not precise enough, or its workspace is too large.
    ///
    /// # Errors
    /// The candidate does not run on this device.
    fn plan(&self, problem: &Problem, graph: &Rc<Graph>, config: Descriptor) -> Result<Option<Plan>> {
        let engine = Descriptor::new(Object::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        let mut raw = [engine.raw];
        config.get(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, &mut raw)?;
        let mut notes = [-1_i32; NOTES];
        let count = engine
            .get(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Kind::CUDNN_TYPE_NUMERICAL_NOTE, &mut notes)
            .unwrap_or(0);
        let has = |note| notes.iter().take(count).any(|&found| found == note);
        let reduced = has(NOTE_TENSOR_CORE) || has(NOTE_DOWN_CONVERT);
        if has(NOTE_NONDETERMINISTIC) || (problem.element == Element::F32 && reduced && !self.tuning.tf32) {
            return Ok(None);
        }
        let mut number = [0_i64];
        engine.get(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, Kind::CUDNN_TYPE_INT64, &mut number)?;
        let execution = Descriptor::new(Object::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        execution.set(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, Kind::CUDNN_TYPE_HANDLE, &[self.handle])?;
        execution.set_object(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &config)?;
        execution.finalize()?;
        let mut bytes = [0_i64];
        execution.get(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, Kind::CUDNN_TYPE_INT64, &mut bytes)?;
        let workspace = usize::try_from(bytes[0]).ok().filter(|&bytes| bytes <= MAX_WORKSPACE);
        Ok(workspace.map(|workspace| Plan {
            execution,
            workspace,
            engine: number[0],
            _graph: Rc::clone(graph),
            _config: config,
        }))
    }

    /// Chooses a plan for `problem`; returns whether there is one. If the tuning measures, `measure` is called for each
    /// candidate with its workspace and a closure that runs it; `measure` returns the time.
    ///
    /// # Errors
    /// A problem that cuDNN cannot describe. A candidate that fails is skipped; if all fail, [`plan_of`](Self::plan_of)
    /// reports the first error.
    pub(crate) fn choose(
        &mut self,
        problem: &Problem,
        mut measure: impl FnMut(usize, &dyn Fn(Tensors, u64) -> Result<()>) -> Result<f32>,
    ) -> Result<bool> {
        let most = if self.tuning.measure { CANDIDATES } else { 1 };
        let mut first = None;
        let mut best: Option<(Plan, f32)> = None;
        for plan in self.candidates(problem, most, &mut first)? {
            if !self.tuning.measure {
                best = Some((plan, 0.0));
                break;
            }
            let run = |tensors: Tensors, workspace: u64| execute(self.handle, &plan, tensors, workspace);
            match measure(plan.workspace, &run) {
                Ok(time) if best.as_ref().is_none_or(|(_, least)| time < *least) => best = Some((plan, time)),
                Ok(_) => {}
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        let chosen = best.map(|(plan, _)| plan).ok_or(first);
        let exists = chosen.is_ok();
        self.plans.insert(*problem, chosen);
        Ok(exists)
    }

    /// Runs the chosen plan.
    pub(crate) fn run(&self, problem: &Problem, tensors: Tensors, workspace: u64) -> Result<()> {
        execute(self.handle, self.plan_of(problem)?, tensors, workspace)
    }

    fn graph(&self, p: &Problem) -> Result<Graph> {
        let (of_x, of_w, of_y) = match p.pass {
            Pass::Forward => (p.element, p.element, p.result),
            Pass::Data => (p.result, p.element, p.element),
            Pass::Filter => (p.element, p.result, p.element),
        };
        let (x, w, y) = (tensor('x', of_x, p.x)?, tensor('w', of_w, p.w)?, tensor('y', of_y, p.y)?);
        let window = window(p)?;
        let (object, [alpha, beta, conv], places) = match p.pass {
            Pass::Forward => (
                Object::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                ],
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                ],
            ),
            Pass::Data => (
                Object::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                ],
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                ],
            ),
            Pass::Filter => (
                Object::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                ],
                [
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                ],
            ),
        };
        let operation = Descriptor::new(object)?;
        for (name, part) in places.into_iter().zip([&x, &w, &y]) {
            operation.set_object(name, part)?;
        }
        operation.set_object(conv, &window)?;
        operation.set(alpha, Kind::CUDNN_TYPE_FLOAT, &[1.0_f32])?;
        operation.set(beta, Kind::CUDNN_TYPE_FLOAT, &[if p.accumulate { 1.0_f32 } else { 0.0 }])?;
        operation.finalize()?;
        let graph = Descriptor::new(Object::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.set(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, Kind::CUDNN_TYPE_HANDLE, &[self.handle])?;
        graph.set_object(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operation)?;
        graph.finalize()?;
        Ok(Graph { graph, _parts: vec![operation, x, w, y, window] })
    }
}

impl Drop for Dnn {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: the handle belongs to `self`, and nothing refers to it any more. A failure to destroy it has no
        // consequence.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// Issues a plan.
fn execute(handle: sys::cudnnHandle_t, plan: &Plan, tensors: Tensors, workspace: u64) -> Result<()> {
    let pack = Descriptor::new(Object::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
    let pointers = [tensors.x, tensors.w, tensors.y];
    pack.set(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Kind::CUDNN_TYPE_INT64, &['x', 'w', 'y'].map(id))?;
    pack.set(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Kind::CUDNN_TYPE_VOID_PTR, &pointers)?;
    pack.set(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Kind::CUDNN_TYPE_VOID_PTR, &[workspace])?;
    pack.finalize()?;
    // SAFETY: both descriptors are complete. The addresses hold the tensors for which the plan was made (checked by
    // `conv`), and the workspace has the size that the plan requires.
    check("convolution", unsafe { sys::cudnnBackendExecute(handle, plan.execution.raw, pack.raw) })
}

/// The settings that a mode of the heuristics proposes for a graph, best first.
fn configurations(graph: &Descriptor, mode: sys::cudnnBackendHeurMode_t) -> Result<Vec<Descriptor>> {
    let heuristics = Descriptor::new(Object::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
    heuristics.set_object(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)?;
    heuristics.set(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Kind::CUDNN_TYPE_HEUR_MODE, &[mode])?;
    heuristics.finalize()?;
    let (name, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR);
    let count = heuristics.get::<sys::cudnnBackendDescriptor_t>(name, kind, &mut [])?;
    let make = |_| Descriptor::new(Object::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    let mut configurations = (0..count).map(make).collect::<Result<Vec<_>, _>>()?;
    let mut raw: Vec<_> = configurations.iter().map(|configuration| configuration.raw).collect();
    let found = heuristics.get(name, kind, &mut raw)?;
    configurations.truncate(found);
    Ok(configurations)
}

fn id(name: char) -> i64 {
    i64::from(u32::from(name))
}

/// A tensor whose second dimension is innermost in memory: NHWC for NCHW, OHWI for OIHW.
fn tensor(name: char, element: Element, dims: [usize; 4]) -> Result<Descriptor> {
    let [_, channels, height, width] = dims;
    let strides = [height * width * channels, 1, width * channels, channels];
    let longs = |values: [usize; 4]| values.into_iter().map(long).collect::<Result<Vec<_>, _>>();
    let tensor = Descriptor::new(Object::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Kind::CUDNN_TYPE_DATA_TYPE, &[data_type(element)?])?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, Kind::CUDNN_TYPE_INT64, &longs(dims)?)?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_STRIDES, Kind::CUDNN_TYPE_INT64, &longs(strides)?)?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, Kind::CUDNN_TYPE_INT64, &[id(name)])?;
    tensor.set(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, Kind::CUDNN_TYPE_INT64, &[ALIGNMENT])?;
    tensor.finalize()?;
    Ok(tensor)
}

fn data_type(element: Element) -> Result<sys::cudnnDataType_t> {
    match element {
        Element::F32 => Ok(sys::cudnnDataType_t::CUDNN_DATA_FLOAT),
        Element::F16 => Ok(sys::cudnnDataType_t::CUDNN_DATA_HALF),
        Element::Bf16 => Ok(sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16),
        Element::U8 | Element::U32 => {
            Err(CudaError::Unsupported { what: format!("convolutions of {element:?}") })
        }
    }
}

fn window(p: &Problem) -> Result<Descriptor> {
    let window = Descriptor::new(Object::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    let float = [sys::cudnnDataType_t::CUDNN_DATA_FLOAT];
    window.set(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Kind::CUDNN_TYPE_DATA_TYPE, &float)?;
    let mode = [sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION];
    window.set(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Kind::CUDNN_TYPE_CONVOLUTION_MODE, &mode)?;
    window.set(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, Kind::CUDNN_TYPE_INT64, &[2_i64])?;
    for (name, [rows, columns]) in [
        (Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, p.before),
        (Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, p.after),
        (Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, [p.dilation; 2]),
        (Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, [p.stride; 2]),
    ] {
        window.set(name, Kind::CUDNN_TYPE_INT64, &[long(rows)?, long(columns)?])?;
    }
    window.finalize()?;
    Ok(window)
}

/// One of cuDNN's descriptors, destroyed with its owner.
struct Descriptor {
    raw: sys::cudnnBackendDescriptor_t,
}

impl Descriptor {
    fn new(object: Object) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer to the new descriptor is valid.
        check("descriptor", unsafe { sys::cudnnBackendCreateDescriptor(object, &raw mut raw) })?;
        Ok(Self { raw })
    }

    /// Sets an attribute to values of the type that `kind` names.
    fn set<T>(&self, name: Name, kind: Kind, values: &[T]) -> Result<()> {
        let data: *const c_void = values.as_ptr().cast();
        // SAFETY: `values` holds that many values, of the type that belongs to `kind` (see the callers); they are
        // copied.
        check("attribute", unsafe {
            sys::cudnnBackendSetAttribute(self.raw, name, kind, long(values.len())?, data)
        })
    }

    fn set_object(&self, name: Name, object: &Self) -> Result<()> {
        self.set(name, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, &[object.raw])
    }

    fn finalize(&self) -> Result<()> {
        // SAFETY: the descriptor is alive.
        check("description", unsafe { sys::cudnnBackendFinalize(self.raw) })
    }

    /// Reads an attribute into `values`; returns the number of values, or the number available if `values` is empty.
    fn get<T>(&self, name: Name, kind: Kind, values: &mut [T]) -> Result<usize> {
        let mut count = 0;
        let data: *mut c_void =
            if values.is_empty() { std::ptr::null_mut() } else { values.as_mut_ptr().cast() };
        // SAFETY: `values` has room for that many values, of the type that belongs to `kind` (see the callers).
        let status = unsafe {
            sys::cudnnBackendGetAttribute(self.raw, name, kind, long(values.len())?, &raw mut count, data)
        };
        check("answer", status)?;
        let count = usize::try_from(count).unwrap_or(0);
        Ok(if values.is_empty() { count } else { count.min(values.len()) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and destroyed only here. A failure would leak a few bytes.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.raw) };
    }
}

fn check(what: &'static str, status: sys::cudnnStatus_t) -> Result<()> {
    status.result().map_err(|status: CudnnError| CudaError::Dnn { what, status })
}
