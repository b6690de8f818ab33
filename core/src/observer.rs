//! Observers: the statistics from which a quantizer gets its range.

use crate::error::Result;
use crate::grid::{QuantSpec, Range};
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use candle_core::Tensor;

/// Computes a range from the tensors that it observes.
pub trait Observer: Send {
    /// Observes one more tensor. Its channels lie along the axis of the observer's
    /// [`QuantSpec`].
    ///
    /// # Errors
    /// The tensor's shape does not match those observed before.
    fn observe(&mut self, x: &Tensor) -> Result<()>;

    /// The range of all values observed so far.
    ///
    /// # Errors
    /// Nothing was observed yet.
    fn range(&self) -> Result<Range>;

    /// What the range depends on besides the values. The conformance suite checks it.
    ///
    /// # Errors
    /// Never fails itself; the framework reports a panic as an error.
    fn consistency(&self) -> Result<Consistency> {
        Ok(Consistency::Calls)
    }
}

/// What the range of an observer depends on besides the observed values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Only on the values: any order, and any division into calls, gives the same range.
    Values,
    /// Also on the division of the values into calls, but not on the order of the calls.
    Calls,
    /// Also on the order of the calls.
    Order,
}

/// Wraps the observer of a registry entry, so that its panics become errors.
struct GuardedObserver {
    origin: Origin,
    inner: Box<dyn Observer>,
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

define_kind!(
    /// Constructor of an observer.
    ObserverKind,
    "observer",
    fn(&QuantSpec, &Params) -> Result<Box<dyn Observer>>
);

impl Entry<ObserverKind> {
    /// Builds an observer.
    ///
    /// # Errors
    /// A parameter is wrong.
    pub fn build(&self, spec: &QuantSpec, params: &Params) -> Result<Box<dyn Observer>> {
        let origin = Origin::of(self);
        let inner = origin.call("build", || (self.constructor.0)(spec, params))?;
        Ok(Box::new(GuardedObserver { origin, inner }))
    }
}

/// Registers an observer.
///
/// ```
/// # use qdrop_core::prelude::*;
/// # struct Never;
/// # impl Observer for Never {
/// #     fn observe(&mut self, _: &Tensor) -> Result<()> { Ok(()) }
/// #     fn range(&self) -> Result<Range> { Err(Error::message("none")) }
/// # }
/// register_observer! {
///     name: "never", aliases: [], summary: "sees nothing",
///     build: |_spec, params| { params.expect_none()?; Ok(Box::new(Never)) }
/// }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! register_observer {
    (name: $name:expr, aliases: [$($alias:expr),*], summary: $summary:expr, build: $build:expr) => {
        $crate::__register!($crate::observer::ObserverKind, $name, [$($alias),*], $summary, $build);
    };
}
