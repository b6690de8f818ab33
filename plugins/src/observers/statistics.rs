//! What the observers share: combining the ranges of several calls.

use qdrop_core::prelude::*;

/// How the ranges of several calls are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// The smallest minimum and the largest maximum.
    Extremes,
    /// The mean of the minima and of the maxima.
    Average,
}

impl Combine {
    /// Returns an error for averages of per-channel ranges, which the reference does not define.
    pub fn check(self, spec: &QuantSpec, params: &Params) -> Result<()> {
        match (self, spec.granularity) {
            (Self::Average, Granularity::PerAxis(_)) => {
                let message = "this observer averages over calls and works per tensor only; use the one without `avg_`";
                Err(Error::setting(params.path().trim_end_matches(".params"), message))
            }
            _ => Ok(()),
        }
    }
}

/// The combined range of the calls so far.
#[derive(Debug, Clone)]
pub struct RunningRange {
    combine: Combine,
    range: Option<Range>,
    calls: usize,
}

impl RunningRange {
    /// The state before the first call.
    pub fn new(combine: Combine) -> Self {
        Self { combine, range: None, calls: 0 }
    }

    /// Adds the ranges (minimum, maximum) of the rows of one call.
    pub fn update(&mut self, rows: Vec<(f32, f32)>) -> Result<()> {
        let (min, max) = rows.into_iter().unzip();
        let new = Range { min, max };
        self.calls += 1;
        let Some(old) = &mut self.range else {
            self.range = Some(new);
            return Ok(());
        };
        if old.min.len() != new.min.len() {
            let message = format!("{} channels observed, {} before", new.min.len(), old.min.len());
            return Err(Error::message(message));
        }
        let calls = self.calls as f32;
        for (old, new, smaller) in [(&mut old.min, new.min, true), (&mut old.max, new.max, false)] {
            for (o, n) in old.iter_mut().zip(new) {
                *o = match self.combine {
                    Combine::Average => (*o * (calls - 1.0) + n) / calls,
                    Combine::Extremes if smaller => o.min(n),
                    Combine::Extremes => o.max(n),
                };
            }
        }
        Ok(())
    }

    /// What the range depends on, if each call's range depends only on the call's values.
    pub fn consistency(&self) -> Consistency {
        match self.combine {
            Combine::Extremes => Consistency::Values,
            Combine::Average => Consistency::Calls,
        }
    }

    /// The range so far.
    pub fn get(&self) -> Result<Range> {
        self.range.clone().ok_or_else(|| Error::message("the observer has seen no tensor"))
    }
}
