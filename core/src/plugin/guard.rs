//! Panics of strategies become errors that name the strategy and its crate.
//!
//! Every strategy is built through its registry entry, which wraps it here; built-in ones are no
//! exception.

use crate::architecture::Architecture;
use crate::error::{Error, Result};
use crate::fused::FusedKernel;
use crate::graph::Graph;
use crate::grid::{QParams, QuantSpec, Range};
use crate::observer::{Consistency, Observer};
use crate::params::Params;
use crate::quantizer::{Parameter, Quantizer};
use crate::reconstructor::{Context, Grouping, Reconstructor, UnitReport, UnitTask};
use crate::registry::{Entry, Kind};
use crate::weights::KeyMap;
use candle_core::{Device, Tensor};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Whose code runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The crate.
    pub plugin: &'static str,
    /// What it is, such as "observer".
    pub kind: &'static str,
    /// Its name.
    pub name: &'static str,
}

impl Origin {
    pub(crate) fn of<F: Kind>(entry: &Entry<F>) -> Self {
        Self { plugin: entry.defined_in, kind: F::NAME, name: entry.name }
    }

    /// Runs `body`; its panic becomes an error. What it was working on may be in any state
    /// afterwards, so the error ends the run; files are written as a whole or not at all.
    pub(crate) fn call<R>(self, call: &'static str, body: impl FnOnce() -> Result<R>) -> Result<R> {
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<&str>().map(|s| (*s).to_string());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            let Self { plugin, kind, name } = self;
            let message = text.unwrap_or_else(|| "no message".into());
            Err(Error::Panicked { plugin, kind, name, call, message })
        })
    }

    /// As [`call`](Self::call), for functions that cannot fail otherwise.
    pub(crate) fn ask<R>(self, call: &'static str, body: impl FnOnce() -> R) -> Result<R> {
        self.call(call, || Ok(body()))
    }
}

/// An observer of a registry entry.
pub(crate) struct GuardedObserver {
    pub origin: Origin,
    pub inner: Box<dyn Observer>,
}

impl Observer for GuardedObserver {
    fn observe(&mut self, x: &Tensor) -> Result<()> {
        self.origin.call("observe", || self.inner.observe(x))
    }

    fn range(&self) -> Result<Range> {
        self.origin.call("range", || self.inner.range())
    }

    fn consistency(&self) -> Result<Consistency> {
        self.origin.call("consistency", || self.inner.consistency())
    }
}

/// A quantizer of a registry entry.
pub(crate) struct GuardedQuantizer {
    origin: Origin,
    spec: QuantSpec,
    inner: Box<dyn Quantizer>,
}

impl GuardedQuantizer {
    pub fn new(origin: Origin, inner: Box<dyn Quantizer>) -> Result<Self> {
        // The grid never changes.
        let spec = origin.ask("spec", || *inner.spec())?;
        Ok(Self { origin, spec, inner })
    }
}

impl Quantizer for GuardedQuantizer {
    fn spec(&self) -> &QuantSpec {
        &self.spec
    }

    fn set_range(&mut self, range: &Range, device: &Device) -> Result<()> {
        self.origin.call("set_range", || self.inner.set_range(range, device))
    }

    fn set_qparams(&mut self, params: &QParams, device: &Device) -> Result<()> {
        self.origin.call("set_qparams", || self.inner.set_qparams(params, device))
    }

    fn qparams(&self) -> Result<QParams> {
        self.origin.call("qparams", || self.inner.qparams())
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        self.origin.call("fake_quantize", || self.inner.fake_quantize(x))
    }

    fn begin_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<()> {
        self.origin.call("begin_reconstruction", || self.inner.begin_reconstruction(weight))
    }

    fn parameters(&self) -> Result<Vec<Parameter>> {
        self.origin.call("parameters", || self.inner.parameters())
    }

    fn regularizer(&self, b: f32) -> Result<Option<Tensor>> {
        self.origin.call("regularizer", || self.inner.regularizer(b))
    }

    fn kernel(&self) -> Result<Option<FusedKernel>> {
        self.origin.call("kernel", || self.inner.kernel())
    }

    fn finish_reconstruction(&mut self, weight: Option<&Tensor>) -> Result<Option<Tensor>> {
        self.origin.call("finish_reconstruction", || self.inner.finish_reconstruction(weight))
    }
}

/// A reconstructor of a registry entry. What it says of itself is asked once.
pub(crate) struct GuardedReconstructor {
    origin: Origin,
    grouping: Grouping,
    steps: usize,
    notice: Option<String>,
    inner: Box<dyn Reconstructor>,
}

impl GuardedReconstructor {
    pub fn new(origin: Origin, inner: Box<dyn Reconstructor>) -> Result<Self> {
        let mut guarded = Self { origin, grouping: Grouping::None, steps: 0, notice: None, inner };
        guarded.ask_again()?;
        Ok(guarded)
    }

    fn ask_again(&mut self) -> Result<()> {
        self.grouping = self.origin.ask("grouping", || self.inner.grouping())?;
        self.steps = self.origin.ask("steps", || self.inner.steps())?;
        self.notice = self.origin.ask("notice", || self.inner.notice())?;
        Ok(())
    }
}

impl Reconstructor for GuardedReconstructor {
    fn grouping(&self) -> Grouping {
        self.grouping
    }

    fn check_samples(&self, samples: usize) -> Result<()> {
        self.origin.call("check_samples", || self.inner.check_samples(samples))
    }

    fn shorten(&mut self, iters: usize) -> Result<()> {
        self.origin.call("shorten", || self.inner.shorten(iters))?;
        self.ask_again()
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn notice(&self) -> Option<String> {
        self.notice.clone()
    }

    fn reconstruct(&self, unit: &mut UnitTask<'_>, context: &Context<'_>) -> Result<UnitReport> {
        self.origin.call("reconstruct", || self.inner.reconstruct(unit, context))
    }
}

/// An architecture of a registry entry.
pub(crate) struct GuardedArchitecture {
    pub origin: Origin,
    pub inner: Box<dyn Architecture>,
}

impl Architecture for GuardedArchitecture {
    fn graph(&self, params: &Params) -> Result<Graph> {
        self.origin.call("graph", || self.inner.graph(params))
    }

    fn key_maps(&self, graph: &Graph) -> Result<Vec<KeyMap>> {
        self.origin.call("key_maps", || self.inner.key_maps(graph))
    }
}
