//! How each group of a row is mixed: drawn, or as it was drawn before.

use super::group::{Chosen, Mix, Weighted};
use crate::drop::{weights, Choices, Keep, GROUP};
use crate::random::Stream;
use std::ops::Range;

/// The values of group `group` in a row of `len` values.
#[inline(always)]
pub fn values_of(group: usize, len: usize) -> Range<usize> {
    group * GROUP..len.min((group + 1) * GROUP)
}

/// Tells how the groups of one row are mixed.
pub trait Draw {
    type Mix: Mix;

    /// The mix of group `group` of the row.
    fn draw(&mut self, group: usize) -> Self::Mix;
}

/// A row with its number among the rows of all images, and its number of values.
#[derive(Clone, Copy)]
pub struct Row {
    pub number: usize,
    pub len: usize,
}

impl Row {
    /// Number of group `group` of this row among the groups of all rows.
    #[inline(always)]
    fn group(self, group: usize) -> usize {
        self.number * self.len.div_ceil(GROUP) + group
    }
}

/// Draws choices.
pub struct Choose<'a>(pub Keep<'a>, pub Row);

impl Choose<'_> {
    #[inline(always)]
    fn choices(&self, group: usize) -> Choices {
        let (Self(keep, row), values) = (self, values_of(group, self.1.len));
        keep.group(row.group(group), row.number * row.len + values.start, values.len())
    }
}

impl Draw for Choose<'_> {
    type Mix = Chosen;

    #[inline(always)]
    fn draw(&mut self, group: usize) -> Chosen {
        Chosen(self.choices(group).lanes())
    }
}

/// Draws choices and writes them down for [`Recall`].
pub struct Record<'a>(pub Choose<'a>, pub &'a mut [Choices]);

impl Draw for Record<'_> {
    type Mix = Chosen;

    #[inline(always)]
    fn draw(&mut self, group: usize) -> Chosen {
        let choices = self.0.choices(group);
        self.1[group] = choices;
        Chosen(choices.lanes())
    }
}

/// Choices of the groups of a row that were drawn before.
pub struct Recall<'a>(pub &'a [Choices]);

impl Draw for Recall<'_> {
    type Mix = Chosen;

    #[inline(always)]
    fn draw(&mut self, group: usize) -> Chosen {
        Chosen(self.0[group].lanes())
    }
}

/// Draws weights. They are drawn again for a backward pass: keeping them would take as much memory as the values.
pub struct Weigh(pub Stream, pub Row);

impl Draw for Weigh {
    type Mix = Weighted;

    #[inline(always)]
    fn draw(&mut self, group: usize) -> Weighted {
        Weighted(weights(&self.0, self.1.group(group)))
    }
}
