//! Forward passes on the kernels compute the same values as candle computes node by node.

use crate::fused::{model, NETWORKS};
use crate::fused_graphs::{kind, KINDS};
use crate::onnx_case::{on_grids, quantized, random, Scales};
use crate::support::*;
use qdrop_core::inference::Inference;
use qdrop_core::model::{Precision, QuantModel, QuantSite};
use qdrop_core::prelude::*;

/// At this bit width a difference of one integer hardly matters. Sums in another order may round differently.
const FINE: u32 = 12;
/// At this one, layers are sums of integers, which have no order.
const COARSE: u32 = 4;

fn with_bits(model: &mut QuantModel, bits: u32) {
    let sites: Vec<_> = model.activation_sites().map(|(id, site)| (id, site.name.clone())).collect();
    for (id, name) in sites {
        let mut quantizer = quantizer("lsq", &spec(bits, false, Granularity::PerTensor));
        quantizer.set_range(&Range { min: vec![-4.0], max: vec![12.0] }, &Device::Cpu).unwrap();
        model.set_activation_quantizer(id, QuantSite { name, quantizer });
    }
}

fn check(name: &str, model: &QuantModel) {
    check_within(name, model, 5e-3);
}

fn check_within(name: &str, model: &QuantModel, tolerance: f32) {
    let dims = |n: usize| [&[n], model.graph().input_shape()].concat();
    // More images than one chunk, with a remainder.
    let images = noise(&dims(11), 77);
    for (precision, tolerance) in [(Precision::Float, 2e-5), (Precision::Quantized, tolerance)] {
        let mut inference = Inference::of_network(model, precision).unwrap();
        let got = inference.forward(&images).unwrap().remove(0);
        let want = model.forward(&images, precision).unwrap().remove(0);
        assert_eq!(got.dims(), want.dims(), "{name}");
        let (all, want) = (vec(&got), vec(&want));
        let size = want.iter().map(|v| v.abs()).fold(0.0, f32::max);
        let error = all.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
        assert!(error <= tolerance, "{name}, {precision:?}: {error}");
        for device in cuda_devices() {
            let mut inference = Inference::on(device, model, precision, model.graph().whole()).unwrap();
            let got = inference.forward(&images.narrow(0, 0, 3).unwrap()).unwrap().remove(0);
            let error = vec(&got).iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / size;
            assert!(error <= tolerance, "{name}, {precision:?} on a CUDA device: {error}");
        }
        // Neither the number of images nor that of threads changes a bit of the results.
        let classes = all.len() / 11;
        let one = inference.forward(&images.narrow(0, 9, 1).unwrap()).unwrap().remove(0);
        assert_eq!(vec(&one), all[9 * classes..10 * classes], "{name}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(vec(&pool.install(|| inference.forward(&images)).unwrap()[0]), all, "{name}");
    }
}

/// The rest of a network with several outputs passes those through that were computed before it.
#[test]
fn outputs_pass_through_a_part() {
    let recipe = qdrop::recipes::load("demo/detection").unwrap();
    let session = qdrop_core::pipeline::Session::new(recipe, registries(), Device::Cpu).unwrap();
    let model = session.float_model().unwrap();
    let graph = model.graph();
    let images = noise(&[&[9], graph.input_shape()].concat(), 5);
    let want = Inference::of_network(&model, Precision::Float).unwrap().forward(&images).unwrap();
    assert!(want.len() > 3);
    for last in &graph.outputs()[..want.len() - 1] {
        let nodes = || graph.nodes().skip(1).map(|(id, _)| id);
        let rest = graph.subgraph_with_outputs(nodes().filter(|id| id > last), graph.outputs().to_vec());
        let front = graph.subgraph_with_outputs(nodes().filter(|id| id <= last), rest.inputs().to_vec());
        assert!(rest.inputs().contains(last));
        let between =
            Inference::new(&model, Precision::Float, front).unwrap().run(std::slice::from_ref(&images)).unwrap();
        let on_devices =
            cuda_devices().into_iter().map(|device| Inference::on(device, &model, Precision::Float, rest.clone()));
        for rest in on_devices.chain([Inference::new(&model, Precision::Float, rest.clone())]) {
            let got = rest.unwrap().run(&between).unwrap();
            for (got, want) in got.iter().zip(&want) {
                let size = vec(want).iter().map(|v| v.abs()).fold(0.0, f32::max);
                let error = vec(got).iter().zip(vec(want)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(size > 0.0 && error <= 2e-5 * size, "{}: {error}, {size}", graph.node(*last).name);
            }
        }
    }
}

#[test]
fn networks_have_the_same_outputs_on_the_kernels() {
    for (name, params) in NETWORKS.into_iter().chain([("regnety_400m", "{image_size: 32}")]) {
        let mut model = model(name, params, "lsq");
        with_bits(&mut model, FINE);
        check(name, &model);
    }
    // Gates, branches, pools, slices and shuffles of channels, normalization that is not folded.
    for name in KINDS {
        let mut model = model("kinds_of_blocks", &kind(name), "lsq");
        with_bits(&mut model, FINE);
        check(name, &model);
    }
}

/// A value that falls on the next point of a coarse grid would be seen.
#[test]
fn coarse_networks_are_the_same_networks_on_the_kernels() {
    for (name, params) in NETWORKS.into_iter().chain([("regnety_400m", "{image_size: 32}")]) {
        let mut model = model(name, params, "lsq");
        with_bits(&mut model, COARSE);
        check_within(name, &model, 1e-5);
    }
}

#[test]
fn layers_on_grids_are_the_same_layers_on_the_kernels() {
    let float = random(on_grids());
    let images = noise(&[16, 4, 12, 12], 6);
    // Eight bits have the largest sums.
    for bits in [[2, 4], [8, 8]] {
        let mut model = quantized(float.float_copy(), bits, &images, Scales::Any);
        let whole = model.graph().whole();
        let layers: Vec<NodeId> =
            model.graph().nodes().filter(|(_, node)| node.op.has_weight()).map(|(id, _)| id).collect();
        let sums = |model: &QuantModel, part: &qdrop_core::graph::Subgraph| {
            let is_sums = |id: &&NodeId| part.contains(**id) && model.integer_sums(**id, part).unwrap().is_some();
            layers.iter().filter(is_sums).map(|id| model.graph().node(*id).name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(sums(&model, &whole).len(), 7);
        check_within("on grids", &model, 1e-5);
        // A layer that reads a value from outside of a part does not know where it lies.
        let from = model.graph().find("upsample").unwrap();
        let part = model.graph().subgraph(whole.nodes().iter().copied().filter(|id| *id >= from));
        assert_eq!(sums(&model, &part), ["large", "hidden", "no_bias"]);
        // Nor does one behind a quantizer that does not say that it rounds to its grid.
        let relu = model.graph().find("large.relu").unwrap();
        let spec = *model.activation_site(relu).unwrap().quantizer.spec();
        let quantizer = Box::new(Powers(spec, QParams { scale: vec![0.5], zero_point: vec![0.0] }));
        model.set_activation_quantizer(relu, QuantSite { name: "large.relu".into(), quantizer });
        assert!(!sums(&model, &whole).contains(&"hidden".to_string()));
        check_within("powers", &model, 1e-5);
    }
}

/// Operations, shapes and readers that the published networks do not have.
#[test]
fn odd_graphs_have_the_same_outputs_on_the_kernels() {
    let mut b = GraphBuilder::new([5, 13, 11]);
    let x = b.input();
    let y = b
        .unit("block", |b| {
            let a = b.conv2d("a", x, Conv2d::new(7, 3).padding(1).bias())?;
            // This value has three readers, so nothing may be computed in place of it.
            let relu = b.relu("relu", a)?;
            let twice = b.add("twice", relu, a)?;
            let more = b.add("more", twice, a)?;
            let wide = b.conv2d("wide", more, Conv2d::new(33, 3).stride(2).padding(2).bias())?;
            let silu = b.activation("silu", wide, ops::Activation::Silu)?;
            let pooled = b.max_pool("pooled", silu, Pool2d::new(3).stride(2).padding(1))?;
            b.conv2d("last", pooled, Conv2d::new(9, 1).bias())
        })
        .unwrap();
    let mean = b.global_average_pool("mean", y).unwrap();
    let flat = b.flatten("flat", mean).unwrap();
    let out = b.linear("fc", flat, 4).unwrap();
    let graph = b.finish(out).unwrap();
    let parameters = noise_parameters(&graph);
    let mut model = QuantModel::new(graph, parameters, Device::Cpu);
    for (node, quantizer_name, granularity) in [
        ("more", "lsq", Granularity::PerTensor),
        // A quantizer that the kernels do not support: it is per channel.
        ("silu", "lsq", Granularity::PerAxis(1)),
    ] {
        let id = model.graph().find(node).unwrap();
        let mut quantizer = quantizer(quantizer_name, &spec(FINE, false, granularity));
        let channels = if granularity == Granularity::PerTensor { 1 } else { 33 };
        let range = Range { min: vec![-4.0; channels], max: vec![12.0; channels] };
        quantizer.set_range(&range, &Device::Cpu).unwrap();
        model.set_activation_quantizer(id, QuantSite { name: node.into(), quantizer });
    }
    check("odd", &model);
    let wrong = Inference::of_network(&model, Precision::Float).unwrap().forward(&noise(&[2, 5, 13, 12], 1));
    let message = wrong.unwrap_err().to_string();
    assert!(message.contains("[5, 13, 11]"), "{message}");
}

#[test]
fn clips_have_the_same_outputs_on_the_kernels() {
    let mut b = GraphBuilder::new([5, 13, 11]);
    let x = b.input();
    let image = b.clip("image", x).unwrap();
    let y = b
        .unit("block", |b| {
            let a = b.conv2d("a", image, Conv2d::new(17, 3).padding(1).bias())?;
            let a = b.clip("a.clip", a)?;
            // This value has two readers, so it is not clipped in place.
            let again = b.clip("again", a)?;
            let sum = b.add("sum", a, again)?;
            let sum = b.clip("sum.clip", sum)?;
            let last = b.conv2d("last", sum, Conv2d::new(40, 3).stride(2).padding(1).bias())?;
            b.clip("last.clip", last)
        })
        .unwrap();
    let mean = b.global_average_pool("mean", y).unwrap();
    let flat = b.flatten("flat", mean).unwrap();
    let features = b.clip("features", flat).unwrap();
    let out = b.linear("fc", features, 4).unwrap();
    let graph = b.finish(out).unwrap();
    let parameters = noise_parameters(&graph);
    let mut model = QuantModel::new(graph, parameters, Device::Cpu);
    for node in ["a.clip", "sum.clip", "features"] {
        let id = model.graph().find(node).unwrap();
        let mut quantizer = quantizer("lsq", &spec(FINE, false, Granularity::PerTensor));
        quantizer.set_range(&Range { min: vec![0.0], max: vec![0.9] }, &Device::Cpu).unwrap();
        model.set_activation_quantizer(id, QuantSite { name: node.into(), quantizer });
    }
    check("clips", &model);
    model.set_parameter("sum.clip.bound", Tensor::zeros(17, DType::F32, &Device::Cpu).unwrap()).unwrap();
    let error = Inference::of_network(&model, Precision::Float).err().unwrap();
    assert!(error.to_string().contains("reading 'sum.clip.bound'"), "{error}");
}
