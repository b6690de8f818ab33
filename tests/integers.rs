//! Layers in integers: the factor of weights, and biases on the grid that runtimes have for them.

use crate::support::*;
use qdrop_core::model::{NotInteger, Precision, QuantModel, QuantSite};
use qdrop_core::prelude::*;
use std::collections::HashMap;

/// Bits and symmetry of a quantizer.
#[derive(Clone, Copy)]
struct Grid {
    bits: u32,
    symmetric: bool,
}

const fn grid(bits: u32) -> Grid {
    Grid { bits, symmetric: false }
}

/// Two convolutions; the first one's value, after ReLU and max pooling, is what the second reads.
fn model(weight: Grid, value: Grid, scale_of_weight: f64, bias: &[f32]) -> QuantModel {
    let mut b = GraphBuilder::new([3, 6, 6]);
    let image = b.input();
    let out = b
        .unit("unit", |b| {
            let x = b.conv2d("first", image, Conv2d::new(4, 1).bias())?;
            let x = b.relu("relu", x)?;
            let x = b.max_pool("pool", x, Pool2d::new(2))?;
            b.conv2d("second", x, Conv2d::new(bias.len(), 3).padding(1).bias())
        })
        .unwrap();
    let graph = b.finish(out).unwrap();
    let parameters: HashMap<String, Tensor> = HashMap::from([
        ("first.weight".into(), noise(&[4, 3, 1, 1], 1)),
        ("first.bias".into(), noise(&[4], 2)),
        ("second.weight".into(), noise(&[bias.len(), 4, 3, 3], 3).affine(scale_of_weight, 0.0).unwrap()),
        ("second.bias".into(), Tensor::new(bias, &Device::Cpu).unwrap()),
    ]);
    let (relu, second) = (graph.find("relu").unwrap(), graph.find("second").unwrap());
    let mut model = QuantModel::new(graph, parameters, Device::Cpu);
    let site = |name: &str, grid: Grid, granularity, range: [f32; 2], channels| {
        let mut quantizer = quantizer("fixed", &spec(grid.bits, grid.symmetric, granularity));
        let [min, max] = range.map(|v| vec![v; channels]);
        quantizer.set_range(&Range { min, max }, &Device::Cpu).unwrap();
        QuantSite { name: name.into(), quantizer }
    };
    model.set_activation_quantizer(relu, site("first", value, Granularity::PerTensor, [0.0, 1.5], 1));
    // Some weights lie beyond, so that all codes occur.
    let range = 0.8 * scale_of_weight as f32;
    let weights = site("second", weight, Granularity::PerAxis(0), [-range, range], bias.len());
    model.set_weight_quantizer(second, weights);
    model
}

#[test]
fn weights_are_multiplied_as_far_as_bytes_and_pairs_of_products_allow() {
    for (weight, value, factor) in [
        // The integers are -8 to 7, and 8 * 8 = 64, 8 * 16 = 128.
        (grid(4), grid(4), 8),
        (grid(3), grid(4), 16),
        (grid(2), grid(4), 32),
        (Grid { bits: 8, symmetric: true }, grid(8), 1),
        // 2 * 255 * 8 * 8 is below 2^15, 2 * 255 * 8 * 16 is not.
        (grid(4), grid(8), 8),
        (grid(2), grid(8), 32),
    ] {
        let model = model(weight, value, 0.5, &[0.1, 0.2]);
        let second = model.graph().find("second").unwrap();
        let layer = model.integer_layer(second).unwrap().unwrap();
        assert_eq!(layer.factor, factor, "{} bits, {} bits", weight.bits, value.bits);
        assert_eq!(layer.source, model.graph().find("relu").unwrap());
        let codes = model.weight_codes(second).unwrap().unwrap();
        for (c, scale) in layer.weight_scale.iter().enumerate() {
            assert_eq!(scale * factor as f32, codes.scale[c]);
            let largest = codes.integers(c).map(i32::abs).max().unwrap() as u32;
            assert!(largest * factor <= 128);
            assert!(factor == 1 || 2 * largest * factor * ((1 << value.bits) - 1) < 1 << 15);
        }
    }
}

#[test]
fn biases_are_rounded_to_the_grid_once() {
    let bias = [0.123_456, -3.2, 0.0, 1e-6];
    let mut model = model(grid(4), grid(4), 0.5, &bias);
    let second = model.graph().find("second").unwrap();
    let layer = model.integer_layer(second).unwrap().unwrap();
    model.round_biases().unwrap();
    let rounded = vec(model.bias(second).unwrap());
    for (c, (rounded, bias)) in rounded.iter().zip(&bias).enumerate() {
        let scale = layer.bias_scale[c];
        // By hand: 1.5 / 15 times 0.8 / 15 / 8.
        assert!((scale / (0.1 * (0.8 / 15.0) / 8.0) - 1.0).abs() < 1e-6, "{scale}");
        assert!((rounded - bias).abs() <= 0.5001 * scale, "{rounded} {bias}");
        assert_eq!(*rounded, layer.bias.as_ref().unwrap()[c] as f32 * scale);
    }
    model.round_biases().unwrap();
    assert_eq!(vec(model.bias(second).unwrap()), rounded);
    // The first layer reads the image, which lies on no grid.
    let first = model.graph().find("first").unwrap();
    assert_eq!(vec(model.bias(first).unwrap()), vec(&noise(&[4], 2)));
    assert_eq!(model.integer_layer(first).unwrap().unwrap_err(), NotInteger::FloatWeight);
}

/// Codes times integers, summed in 64 bits, are what the network computes in floating point.
#[test]
fn the_layer_in_integers_computes_what_the_network_computes() {
    let mut model = model(grid(3), grid(4), 0.5, &[0.3, -0.4, 0.05]);
    model.round_biases().unwrap();
    let graph = model.graph().clone();
    let (pool, second) = (graph.find("pool").unwrap(), graph.find("second").unwrap());
    let image = noise(&[1, 3, 6, 6], 9);
    let part = graph.subgraph_with_outputs(graph.whole().nodes().to_vec(), vec![pool, second]);
    let values = model.run(&part, std::slice::from_ref(&image), Precision::Quantized).unwrap();
    let layer = model.integer_layer(second).unwrap().unwrap();
    let weight = model.weight_codes(second).unwrap().unwrap();
    let site = model.activation_site(layer.source).unwrap().quantizer.qparams().unwrap();
    let codes: Vec<i64> = vec(&values[0]).iter().map(|v| (v / site.scale[0]).round() as i64).collect();
    let want = vec(&values[1]);
    for (o, want) in want.iter().enumerate() {
        let (c, y, x) = (o / 9, o / 3 % 3, o % 3);
        let mut sum = i64::from(layer.bias.as_ref().unwrap()[c]);
        for (i, w) in weight.integers(c).enumerate() {
            let (channel, dy, dx) = (i / 9, i / 3 % 3, i % 3);
            if (1..4).contains(&(y + dy)) && (1..4).contains(&(x + dx)) {
                let code = codes[channel * 9 + (y + dy - 1) * 3 + x + dx - 1];
                sum += code * i64::from(w) * i64::from(layer.factor);
            }
        }
        let got = sum as f32 * layer.bias_scale[c];
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
}

#[test]
fn a_channel_without_weights_keeps_a_large_bias() {
    let mut model = model(grid(4), grid(4), 0.5, &[0.5, 1234.567]);
    let second = model.graph().find("second").unwrap();
    let weight = noise(&[2, 4, 3, 3], 3);
    let dead = weight.narrow(0, 1, 1).unwrap().zeros_like().unwrap();
    let weight = Tensor::cat(&[&weight.narrow(0, 0, 1).unwrap(), &dead], 0).unwrap();
    model.set_weight(second, weight).unwrap();
    // The smallest scale that there is.
    let site = model.weight_site(second).unwrap();
    let mut quantizer = quantizer("fixed", site.quantizer.spec());
    let params = QParams { scale: vec![1.0 / 15.0, qdrop_core::grid::MIN_SCALE], zero_point: vec![8.0, 0.0] };
    quantizer.set_qparams(&params, &Device::Cpu).unwrap();
    model.set_weight_quantizer(second, QuantSite { name: "second".into(), quantizer });
    model.round_biases().unwrap();
    let rounded = vec(model.bias(second).unwrap());
    assert!((rounded[1] - 1234.567).abs() < 3e-4, "{rounded:?}");
    let layer = model.integer_layer(second).unwrap().unwrap();
    assert_eq!(layer.factor, 8);
    model.round_biases().unwrap();
    assert_eq!(vec(model.bias(second).unwrap()), rounded);
}

#[test]
fn what_does_not_fit_says_why_and_keeps_its_bias() {
    let why = |model: &QuantModel| model.integer_layer(model.graph().find("second").unwrap()).unwrap().unwrap_err();
    let asymmetric = {
        let mut model = model(grid(8), grid(8), 0.5, &[0.3]);
        let second = model.graph().find("second").unwrap();
        let mut quantizer = quantizer("fixed", &spec(8, false, Granularity::PerAxis(0)));
        quantizer.set_range(&Range { min: vec![-0.1], max: vec![0.5] }, &Device::Cpu).unwrap();
        model.set_weight_quantizer(second, QuantSite { name: "second".into(), quantizer });
        model
    };
    assert_eq!(why(&asymmetric), NotInteger::Weight);
    assert!(why(&asymmetric).to_string().contains("`symmetric: true` does"));
    assert_eq!(why(&model(grid(4), grid(9), 0.5, &[0.3])), NotInteger::Input);
    // A smaller factor still holds the first of these biases, and nothing holds the second.
    let grid_of_bias = 0.1 * (0.8 * 2e-6 / 15.0);
    let layer = |bias| {
        let model = model(grid(4), grid(4), 1e-6, &[bias]);
        model.integer_layer(model.graph().find("second").unwrap()).unwrap()
    };
    assert_eq!(layer(grid_of_bias * 3e8).unwrap().factor, 4);
    let mut large = model(grid(4), grid(4), 1e-6, &[grid_of_bias * 3e9]);
    assert_eq!(why(&large), NotInteger::Bias);
    large.round_biases().unwrap();
    assert_eq!(vec(large.bias(large.graph().find("second").unwrap()).unwrap()), [grid_of_bias * 3e9]);
}
