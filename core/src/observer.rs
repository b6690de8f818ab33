//! Observers: the statistics that give a quantizer its range.

use crate::error::Result;
use crate::grid::{QuantSpec, Range};
use crate::guard::Origin;
use crate::params::Params;
use crate::registry::{define_kind, Entry};
use candle_core::Tensor;

/// Collects the range of the tensors that it is shown.
pub trait Observer: Send {
    /// Takes one more tensor into account. Channels lie along the axis of the observer's
    /// [`QuantSpec`].
    ///
    /// # Errors
    /// The tensor does not fit what was seen before.
    fn observe(&mut self, x: &Tensor) -> Result<()>;

    /// The range of all that was observed.
    ///
    /// # Errors
    /// Nothing was observed yet.
    fn range(&self) -> Result<Range>;

    /// What the range depends on beside the values; the conformance suite holds the observer to it.
    ///
    /// # Errors
    /// None of its own.
    fn consistency(&self) -> Result<Consistency> {
        Ok(Consistency::Calls)
    }
}

/// What the range of an observer depends on beside the values that it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing: any order, and any division into calls, gives the same range.
    Values,
    /// How the values were divided into calls, but not the order of the calls.
    Calls,
    /// The order of the calls too.
    Order,
}

/// An observer of a registry entry.
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
    /// A new observer.
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
