//! Axes: the range of values, its ticks, and where a value stands in the drawing.

use super::number::{labels, number};
use super::{at, short_text, CHARACTER, WIDTH};
use maud::{html, Markup};

/// Largest magnitude that is drawn, so that differences of values stay finite.
const LARGEST: f64 = 1e300;
/// Smallest magnitude that is told from zero, so that steps between ticks stay exact.
const SMALLEST: f64 = 1e-290;
/// Values closer than this, relative to their magnitude, count as equal: their labels would be too long.
const EQUAL: f64 = 1e-7;
/// Longest label of an axis, in characters.
const LABEL: usize = 50;
/// Space between the edge of a plot and the first value, so that a marker does not lie on the axis.
const INSET: f64 = 4.0;

/// Whether an axis has a place for `value`.
pub(super) fn drawable(value: f64, log: bool) -> bool {
    value.abs() <= LARGEST && (!log || value >= SMALLEST)
}

/// The values between which an axis runs; `low` is less than `high`, and on a logarithmic axis both are positive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    low: f64,
    high: f64,
    log: bool,
}

impl Range {
    /// The smallest range that holds all of `values` that can be drawn, wider if they are equal; none if there are no
    /// such values.
    pub fn of(values: impl IntoIterator<Item = f64>, log: bool) -> Option<Self> {
        let extremes = |range: Option<(f64, f64)>, v: f64| match range {
            Some((low, high)) => Some((low.min(v), high.max(v))),
            None => Some((v, v)),
        };
        let (low, high) = values.into_iter().filter(|v| drawable(*v, log)).fold(None, extremes)?;
        let size = low.abs().max(high.abs());
        let (low, high) = match () {
            () if high - low > EQUAL * size && size > SMALLEST => (low, high),
            () if log => (low / 2.0, high * 2.0),
            () if size > SMALLEST => (low - size / 2.0, high + size / 2.0),
            () => (-1.0, 1.0),
        };
        Some(Self { low, high, log })
    }

    /// Wider, to the next value that may be a tick, of about `count`.
    pub fn rounded(self, count: usize) -> Self {
        if self.log {
            return Self { low: one_two_five(self.low, false), high: one_two_five(self.high, true), log: true };
        }
        let step = Step::new(self.high - self.low, count);
        let (first, last) = (step.index(self.low).floor(), step.index(self.high).ceil());
        Self { low: step.at(first), high: step.at(last), log: false }
    }

    /// Round values within the range: about `count` multiples of 1, 2 or 5 times a power of ten. On a logarithmic axis
    /// at most `count` powers of ten, or all such multiples if it has few powers.
    pub fn ticks(self, count: usize) -> Vec<f64> {
        if !self.log {
            let step = Step::new(self.high - self.low, count);
            let (first, last) = (step.index(self.low).ceil() as i64, step.index(self.high).floor() as i64);
            return (first..=last).map(|i| step.at(i as f64)).collect();
        }
        let within = |v: &f64| *v >= self.low * (1.0 - EQUAL) && *v <= self.high * (1.0 + EQUAL);
        let exponents = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
        let powers: Vec<i32> = exponents.clone().filter(|e| within(&times_power(1.0, *e))).collect();
        if powers.len() < 3 {
            let all = exponents.flat_map(|e| [1.0, 2.0, 5.0].map(|m| times_power(m, e)));
            return all.filter(within).collect();
        }
        let stride = powers.len().div_ceil(count.max(1)) as i32;
        powers.into_iter().filter(|e| e % stride == 0).map(|e| times_power(1.0, e)).collect()
    }

    /// Ticks and their labels.
    fn labelled(self, count: usize) -> Vec<(f64, String)> {
        let ticks = self.ticks(count);
        let texts = if self.log { ticks.iter().map(|v| number(*v, 4)).collect() } else { labels(&ticks) };
        ticks.into_iter().zip(texts).collect()
    }
}

/// The distance between the ticks of a linear axis: `multiple` (1, 2 or 5) times a power of ten.
struct Step {
    multiple: f64,
    exponent: i32,
}

impl Step {
    /// The smallest that divides `span` (positive) into at most `count` parts.
    fn new(span: f64, count: usize) -> Self {
        let raw = span / count.max(1) as f64;
        let exponent = raw.log10().floor() as i32;
        let multiple = raw / times_power(1.0, exponent);
        match [1.0, 2.0, 5.0].into_iter().find(|m| multiple <= m * (1.0 + 1e-9)) {
            Some(multiple) => Self { multiple, exponent },
            None => Self { multiple: 1.0, exponent: exponent + 1 },
        }
    }

    /// Multiple number `index`.
    fn at(&self, index: f64) -> f64 {
        times_power(index * self.multiple, self.exponent) + 0.0
    }

    /// The number of the multiple at `value`, with a fraction.
    fn index(&self, value: f64) -> f64 {
        let index = value / self.at(1.0);
        // A value that is a tick up to a rounding error is that tick.
        match (index - index.round()).abs() < 1e-6 {
            true => index.round(),
            false => index,
        }
    }
}

/// `value * 10^exponent`, rounded once: a product of floating-point numbers would not print as a round number.
fn times_power(value: f64, exponent: i32) -> f64 {
    format!("{value}e{exponent}").parse().unwrap_or(value)
}

/// The nearest 1, 2 or 5 times a power of ten that is not above `value` (positive), or not below it if `up`.
fn one_two_five(value: f64, up: bool) -> f64 {
    let exponent = value.log10().floor() as i32;
    let steps = (exponent - 1..=exponent + 1).flat_map(|e| [1.0, 2.0, 5.0].map(|m| times_power(m, e)));
    let mut within = steps.filter(|v| if up { *v >= value * (1.0 - EQUAL) } else { *v <= value * (1.0 + EQUAL) });
    let found = if up { within.next() } else { within.next_back() };
    found.unwrap_or(value)
}

/// Maps the values of a range to coordinates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    range: Range,
    from: f64,
    to: f64,
}

impl Scale {
    /// The coordinate of `value`: `from` at the low end of the range, `to` at its high end. A value beyond an end, or one
    /// that a logarithmic axis cannot show, is at that end.
    pub fn at(&self, value: f64) -> f64 {
        let Range { low, high, log } = self.range;
        let value = value.clamp(low, high);
        let share = match log {
            true => (value.log10() - low.log10()) / (high.log10() - low.log10()),
            false => (value - low) / (high - low),
        };
        self.from + share * (self.to - self.from)
    }
}

/// A horizontal axis between two coordinates, at height `y`: its scale, and ticks with labels below it. `strip` is free
/// space between the axis and its labels.
pub(super) fn horizontal(range: Range, label: &str, ends: [f64; 2], y: f64, strip: f64) -> (Scale, Markup) {
    let [left, right] = ends;
    let scale = Scale { range, from: left + INSET, to: right - INSET };
    let width = |text: &str| text.chars().count() as f64 * CHARACTER;
    // A label at the edge of the drawing is moved inwards.
    let middle = |v: f64, text: &str| {
        let half = width(text) / 2.0;
        scale.at(v).max(half).min(WIDTH - half)
    };
    let fits = |ticks: &[(f64, String)]| {
        ticks.windows(2).all(|pair| match pair {
            [(a, text), (b, next)] => middle(*b, next) - middle(*a, text) >= (width(text) + width(next)) / 2.0 + 8.0,
            _ => true,
        })
    };
    // The most ticks whose labels stand apart.
    let counts = (1..=7).rev().map(|count| range.labelled(count));
    let ticks = counts.fold(None, |found, ticks| found.or_else(|| fits(&ticks).then_some(ticks))).unwrap_or_default();
    let markup = html! {
        line class="axis" x1=(at(left)) x2=(at(right)) y1=(at(y)) y2=(at(y)) {}
        @for (v, text) in &ticks {
            line class="axis" x1=(at(scale.at(*v))) x2=(at(scale.at(*v))) y1=(at(y)) y2=(at(y + 4.0)) {}
            text class="middle" x=(at(middle(*v, text))) y=(at(y + strip + 16.0)) { (text) }
        }
        text class="end label" x=(at(right)) y=(at(y + strip + 33.0)) { (short_text(label, LABEL)) }
    };
    (scale, markup)
}

/// The vertical lines of a grid behind a plot, at the ticks of a horizontal axis.
pub(super) fn rules(range: Range, scale: Scale, top: f64, bottom: f64) -> Markup {
    html! {
        @for v in range.ticks(5) {
            line class="rule" x1=(at(scale.at(v))) x2=(at(scale.at(v))) y1=(at(top)) y2=(at(bottom)) {}
        }
    }
}

/// The area between two axes, with them.
pub(super) struct Plot {
    /// Horizontal coordinates.
    pub x: Scale,
    /// Vertical coordinates.
    pub y: Scale,
    /// Upper edge.
    pub top: f64,
    /// Lower edge, where the horizontal axis is.
    pub bottom: f64,
    /// Height of the drawing.
    pub height: f64,
    /// Lines and labels, to be drawn first.
    pub axes: Markup,
}

impl Plot {
    /// `labels` are those of the horizontal and the vertical axis. `strip` is free space below the horizontal one.
    pub fn new(x: Range, y: Range, labels: [&str; 2], strip: f64) -> Self {
        let [x_label, y_label] = labels;
        let (top, bottom, right) = (24.0, 196.0, WIDTH - 6.0);
        let ticks = y.labelled(5);
        let widest = ticks.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
        let left = widest as f64 * CHARACTER + 10.0;
        let vertical = Scale { range: y, from: bottom, to: top };
        let (scale, axis) = horizontal(x, x_label, [left, right], bottom, strip);
        let axes = html! {
            @for (v, text) in &ticks {
                line class="rule" x1=(at(left)) x2=(at(right)) y1=(at(vertical.at(*v))) y2=(at(vertical.at(*v))) {}
                text class="end" x=(at(left - 6.0)) y=(at(vertical.at(*v) + 4.0)) { (text) }
            }
            (axis)
            text class="label" x="0" y="11" { (short_text(y_label, LABEL)) }
        };
        Self { x: scale, y: vertical, top, bottom, height: bottom + strip + 40.0, axes }
    }
}

#[cfg(test)]
mod tests;
