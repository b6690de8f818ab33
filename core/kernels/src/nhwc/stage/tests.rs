//! Every kernel of a stage against its definition, value by value.

use super::*;
use crate::drop::{weights, Keep};
use crate::nhwc::Buffer;
use crate::random::Stream;
use crate::rounding::round_half_even;
use crate::testing;
use proptest::prelude::*;

const ACTIVATIONS: [Option<Function<()>>; 9] = [
    None,
    Some(Function::Activation(Activation::Relu)),
    Some(Function::Activation(Activation::Relu6)),
    Some(Function::Activation(Activation::Silu)),
    Some(Function::Activation(Activation::HardSwish)),
    Some(Function::Activation(Activation::HardSigmoid)),
    Some(Function::Activation(Activation::Sigmoid)),
    Some(Function::Activation(Activation::Gelu)),
    Some(Function::Clip(())),
];

/// A stage whose clip has one bound for each channel.
struct Definition {
    activation: Option<Function<Vec<f32>>>,
    grid: Option<TensorGrid>,
}

impl Definition {
    /// Value of the activation function at `z`, and its derivative.
    fn activated(&self, z: f32, channel: usize) -> (f32, f32) {
        match &self.activation {
            None => (z, 1.0),
            Some(Function::Activation(a)) => (a.value(z), a.derivative(z)),
            Some(Function::Clip(bounds)) => {
                let inside = z > 0.0 && z < bounds[channel];
                (z.clamp(0.0, bounds[channel]), if inside { 1.0 } else { 0.0 })
            }
        }
    }

    /// Value at `z`; the quantized value is that of LSQ's equations 1 and 2.
    fn value(&self, z: f32, channel: usize, share: Share) -> f32 {
        let (x, _) = self.activated(z, channel);
        let Some(s) = self.grid else { return x };
        let q = round_half_even(x / s.scale) + s.zero_point;
        share.of((q.clamp(s.qmin, s.qmax) - s.zero_point) * s.scale, x)
    }

    /// Derivatives of the value with respect to z, scale and zero point (LSQ, equation 3; LSQ+, equations 4
    /// and 5). What lies on a bound counts as inside.
    fn derivatives(&self, z: f32, channel: usize, share: Share) -> [f32; 3] {
        let (x, slope) = self.activated(z, channel);
        let Some(s) = self.grid else { return [slope, 0.0, 0.0] };
        let q = round_half_even(x / s.scale) + s.zero_point;
        let of_quantized = if q < s.qmin {
            [0.0, s.qmin - s.zero_point, -s.scale]
        } else if q > s.qmax {
            [0.0, s.qmax - s.zero_point, -s.scale]
        } else {
            [slope, q - s.zero_point - x / s.scale, 0.0]
        };
        let of_full = [slope, 0.0, 0.0];
        std::array::from_fn(|i| share.of(of_quantized[i], of_full[i]))
    }
}

/// How much of a value is quantized.
#[derive(Clone, Copy)]
enum Share {
    Chosen(bool),
    Weight(f32),
}

impl Share {
    /// That of value `index` of row `row`, counted over all images.
    fn at(mixing: Mixing<'_>, row: usize, index: usize, len: usize) -> Self {
        let (group, groups) = (index / GROUP, len.div_ceil(GROUP));
        let (number, count) = (row * groups + group, GROUP.min(len - group * GROUP));
        match mixing {
            Mixing::Chosen(keep) => {
                Self::Chosen(keep.group(number, row * len + group * GROUP, count).keeps(index % GROUP))
            }
            Mixing::Weighted(stream) => Self::Weight(weights(&stream, number)[index % GROUP]),
        }
    }

    fn of(self, quantized: f32, full: f32) -> f32 {
        match self {
            Self::Chosen(true) => quantized,
            Self::Chosen(false) => full,
            Self::Weight(weight) => full + (quantized - full) * weight,
        }
    }
}

/// Gradients are exact where values are chosen; where they are mixed, sums of two roundings differ. `size` bounds
/// the gradient of each value.
fn check_gradients(got: &[f32], want: &[f32], mixing: Mixing<'_>, size: f32) -> Result<(), TestCaseError> {
    if let Mixing::Chosen(_) = mixing {
        prop_assert_eq!(got, want);
    }
    for (got, want) in got.iter().zip(want) {
        prop_assert!((got - want).abs() <= 4.0 * f32::EPSILON * size, "{got} {want}, gradients up to {size}");
    }
    Ok(())
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Values of which many lie on the grid or halfway between two of its values.
fn values(layout: Layout, scale: f32, seed: u64) -> Buffer {
    let (noise, coarse) =
        (testing::uniform(layout.len(), -12.0..12.0, seed), testing::uniform(layout.len(), 0.0..1.0, seed + 100));
    let mut out = Buffer::zeros(layout.len());
    for_values(layout, |at, _, _| {
        out[at] = if coarse[at] < 0.5 { (2.0 * noise[at]).round() * 0.5 } else { noise[at] } * scale;
    });
    out
}

/// Calls `body` with the index of each value, its row among the rows of all images and its number in the row.
fn for_values(layout: Layout, mut body: impl FnMut(usize, usize, usize)) {
    for row in 0..layout.batch * layout.height {
        for i in 0..layout.values() {
            body(layout.offset(row / layout.height, row % layout.height) + i, row, i);
        }
    }
}

/// The index of a value in another layout of the same images.
fn place(layout: Layout, row: usize, index: usize) -> usize {
    layout.offset(row / layout.height, row % layout.height) + index
}

/// The sums that are expected, and the sums of absolute values, which bound the rounding errors.
#[derive(Default)]
struct Wanted {
    sums: [f64; 3],
    sizes: [f64; 3],
}

impl Wanted {
    fn add(&mut self, terms: [f32; 3]) {
        for ((sum, size), term) in self.sums.iter_mut().zip(&mut self.sizes).zip(terms) {
            *sum += f64::from(term);
            *size += f64::from(term.abs());
        }
    }

    fn check(&self, rows: &[Sums]) -> Result<(), TestCaseError> {
        let all = rows.iter().fold(Sums::default(), |a, b| a + *b);
        for (i, got) in [all.scale, all.zero_point, all.loss].into_iter().enumerate() {
            prop_assert!((got - self.sums[i]).abs() <= 1e-5 * self.sizes[i], "sum {i}: {got} {}", self.sums[i]);
        }
        Ok(())
    }
}

/// Nothing was written into the border.
fn check_border(buffer: &[f32], layout: Layout) -> Result<(), TestCaseError> {
    let mut rest = buffer.to_vec();
    for_values(layout, |at, _, _| rest[at] = 0.0);
    prop_assert!(rest.iter().all(|v| *v == 0.0));
    Ok(())
}

fn check(
    definition: &Definition,
    (mixing, first_row): (Mixing<'_>, usize),
    z: Layout,
    a: Layout,
) -> Result<(), TestCaseError> {
    let activation = definition.activation.as_ref().map(|f| f.as_ref().map(|bounds| Bounds::new(bounds)));
    let stage = Stage { activation: activation.as_ref().map(Function::as_ref), grid: definition.grid };
    let scale = stage.grid.map_or(0.3, |s| s.scale);
    let zs = values(z, scale, 1);
    let (row, rows) = (z.values(), z.batch * z.height);
    let share = |r: usize, i: usize| Share::at(mixing, first_row + r, i, row);

    let mut choices = vec![Choices::default(); rows * groups_of_row(z)];
    let mut sums = vec![Sums::default(); rows];
    // With and without a shortcut.
    let (shortcut, target) = (values(a, scale, 3), values(a, scale, 4));
    let targets = |i: usize| &target[i * a.image()..][..a.image()];
    for added in [None, Some((&shortcut[..], a))] {
        let sum = |at: usize, at_a: usize| zs[at] + added.map_or(0.0, |_| shortcut[at_a]);
        let mut out = Buffer::zeros(a.len());
        choices.fill(Choices::default());
        forward(stage, (&zs, z), added, (mixing, first_row), (&mut out, a), &mut choices);
        let mut want = Buffer::zeros(a.len());
        for_values(z, |at, r, i| {
            want[place(a, r, i)] = definition.value(sum(at, place(a, r, i)), i % z.channels, share(r, i))
        });
        prop_assert_eq!(&out[..], &want[..]);

        let mut gradient = values(a, 1.0, 2);
        let (mut want, mut wanted) = (Buffer::zeros(a.len()), Wanted::default());
        for_values(z, |at, r, i| {
            let at_a = place(a, r, i);
            let [dz, ds, dzp] = definition.derivatives(sum(at, at_a), i % z.channels, share(r, i));
            want[at_a] = gradient[at_a] * dz;
            wanted.add([gradient[at_a] * ds, gradient[at_a] * dzp, 0.0]);
        });
        let size = 2.0 * largest(&gradient);
        backward(stage, (&zs, z), added, (mixing, first_row), &choices, (&mut gradient, a), &mut sums);
        check_gradients(&gradient, &want, mixing, size)?;
        wanted.check(&sums)?;

        let factor = 0.125;
        for range in [[f32::NEG_INFINITY, f32::INFINITY], [-0.7 * scale, 1.6 * scale]] {
            let mut out = Buffer::zeros(a.len());
            let rows = (mixing, first_row);
            end(stage, (&zs, z), added, (&targets, a), (factor, range), rows, (&mut out, a), &mut sums);
            let (mut want, mut wanted, mut size) = (Buffer::zeros(a.len()), Wanted::default(), 0.0_f32);
            for_values(z, |at, r, i| {
                let at_a = place(a, r, i);
                let (z, channel) = (sum(at, at_a), i % z.channels);
                let clip = |value: f32| value.clamp(range[0], range[1]);
                let error = clip(definition.value(z, channel, share(r, i))) - clip(target[at_a]);
                let g = 2.0 * factor * error;
                let [dz, ds, dzp] = definition.derivatives(z, channel, share(r, i));
                want[at_a] = g * dz;
                size = size.max(2.0 * g.abs());
                wanted.add([g * ds, g * dzp, error * error]);
            });
            check_gradients(&out, &want, mixing, size)?;
            check_border(&out, a)?;
            wanted.check(&sums)?;
        }

        let mut out = zs.clone();
        apply(stage, added, (&mut out, z));
        let mut want = Buffer::zeros(z.len());
        for_values(z, |at, r, i| {
            want[at] = definition.value(sum(at, place(a, r, i)), i % z.channels, Share::Chosen(true));
        });
        prop_assert_eq!(&out[..], &want[..]);
    }

    let pair = |i: usize| [&shortcut[..], &target].map(|v| &v[i * a.image()..][..a.image()]);
    let mut out = Buffer::zeros(z.len());
    mix(&pair, a, (mixing, first_row), (&mut out, z));
    let mut want = Buffer::zeros(z.len());
    for_values(z, |at, r, i| want[at] = share(r, i).of(shortcut[place(a, r, i)], target[place(a, r, i)]));
    prop_assert_eq!(&out[..], &want[..]);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn agree_with_the_definition(
        activation in prop::sample::select(ACTIVATIONS.to_vec()),
        grid in prop::option::of((0.01_f32..2.0, 0_u8..16, 2_i32..5)),
        batch in 1_usize..4, height in 1_usize..5, width in 1_usize..9,
        channels in prop::sample::select(vec![1_usize, 3, 5, 16, 17, 40, 130]),
        borders in [0_usize..3, 0_usize..3], first_row in 0_usize..3, way in 0_u8..5,
    ) {
        let grid = grid.map(|(scale, zero_point, bits)| {
            let qmax = 2.0_f32.powi(bits) - 1.0;
            TensorGrid { scale, zero_point: f32::from(zero_point).min(qmax), qmin: 0.0, qmax }
        });
        let layout = |border| Layout { batch, height, width, channels, border };
        let mask: Vec<u8> = (0..(first_row + batch * height) * width * channels).map(|i| u8::from(i * i % 7 < 3)).collect();
        let stream = Stream { seed: 9, id: [1, 2, 3] };
        let mixing = match way {
            0 => Mixing::Chosen(Keep::All),
            1 => Mixing::Chosen(Keep::Mask(&mask)),
            2 => Mixing::Chosen(Keep::Random { stream, probability: 0.5 }),
            3 => Mixing::Chosen(Keep::Random { stream, probability: 0.3 }),
            _ => Mixing::Weighted(stream),
        };
        // Bounds of which some are values that z takes too: there the derivative is 0.
        let bounds = (0..channels).map(|c| 0.5 * (1 + c % 9) as f32 * grid.map_or(0.3, |s| s.scale)).collect();
        let definition = Definition { activation: activation.map(|f| f.map(|()| bounds)), grid };
        check(&definition, (mixing, first_row), layout(borders[0]), layout(borders[1]))?;
    }
}
