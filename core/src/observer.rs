//! Observers: the statistics that give a quantizer its range.

use crate::error::Result;
use crate::grid::{QuantSpec, Range};
use crate::params::Params;
use crate::registry::define_kind;
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
}

define_kind!(
    /// Constructor of an observer.
    ObserverKind,
    "observer",
    fn(&QuantSpec, &Params) -> Result<Box<dyn Observer>>
);

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
