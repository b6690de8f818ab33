//! Checks that steps of the fused engine do not allocate. A test binary of its own, because the counters see the whole
//! process.

use qdrop_core::engine::UnitSamples;
use qdrop_core::kernels::{in_pool, random::Stream, testing};
use qdrop_core::model::{QuantModel, QuantSite};
use qdrop_core::ops::{Activation, Keep};
use qdrop_core::pipeline::Registries;
use qdrop_core::prelude::*;
use qdrop_core::progress::Silent;
use qdrop_core::random::SeededRandom;
use qdrop_core::reconstructor::Forget;
use qdrop_plugins::reconstructors::{optimize, QdropParams};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::Mutex;

/// The system's allocator with counters.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call is forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `GlobalAlloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs one test at a time, because they share the counters.
static ALONE: Mutex<()> = Mutex::new(());

fn noise(dims: &[usize], salt: u32) -> Tensor {
    let values = testing::uniform(dims.iter().product(), -1.0..1.0, salt.into());
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// A block with every kind of convolution: Winograd, depthwise, direct and a projection; and a gate, pools and operations on
/// channels.
fn model() -> QuantModel {
    let mut b = GraphBuilder::new([32, 12, 12]);
    let x = b.input();
    let y = b
        .unit("block", |b| {
            let y = b.conv2d("wide", x, Conv2d::new(32, 3).padding(1).bias())?;
            let y = b.relu("relu", y)?;
            let y = b.conv2d("each", y, Conv2d::new(32, 3).padding(1).groups(32).bias())?;
            let y = b.relu6("relu6", y)?;
            let gate = b.global_average_pool("mean", y)?;
            let gate = b.conv2d("gate", gate, Conv2d::new(32, 1).bias())?;
            let gate = b.activation("sigmoid", gate, Activation::Sigmoid)?;
            let y = b.mul("gated", y, gate)?;
            let most = b.max_pool("most", x, Pool2d::new(3).stride(1).padding(1))?;
            let average = b.average_pool("average", y, Pool2d::new(3).stride(1).padding(1))?;
            let y = b.concat("both", &[y, most, average])?;
            let y = b.shuffle_channels("shuffled", y, 2)?;
            let y = b.slice("some", y, 7, 80)?;
            let y = b.batch_norm("normal", y, 1e-5)?;
            let y = b.conv2d("last", y, Conv2d::new(40, 3).stride(2).padding(1).bias())?;
            let shortcut = b.conv2d("projection", x, Conv2d::new(40, 1).stride(2).bias())?;
            let sum = b.add("sum", y, shortcut)?;
            b.relu("out", sum)
        })
        .unwrap();
    let graph = b.finish(y).unwrap();
    let parameters: HashMap<String, Tensor> = graph
        .parameter_shapes()
        .into_iter()
        .enumerate()
        .map(|(i, (name, shape))| {
            let offset = if name.ends_with("running_var") { 1.0 } else { 0.0 };
            (name, noise(&shape, i as u32).affine(0.1, offset).unwrap())
        })
        .collect();
    let registries = Registries::collect().unwrap();
    let build = |name: &str, granularity| {
        let spec = QuantSpec::new(4, false, granularity, "test").unwrap();
        registries.quantizers.get(name, "test").unwrap().build(&spec, &Params::none("test")).unwrap()
    };
    let mut model = QuantModel::new(graph.clone(), parameters, Device::Cpu);
    for name in ["wide", "each", "gate", "last", "projection"] {
        let node = graph.find(name).unwrap();
        let mut quantizer = build("adaround", Granularity::PerAxis(0));
        let channels = graph.node(node).shape[0];
        quantizer.set_range(&Range { min: vec![-0.08; channels], max: vec![0.08; channels] }, &Device::Cpu).unwrap();
        model.set_weight_quantizer(node, QuantSite { name: name.into(), quantizer });
    }
    for name in ["relu", "relu6", "sigmoid", "gated", "normal", "out"] {
        let mut quantizer = build("lsq", Granularity::PerTensor);
        quantizer.set_range(&Range { min: vec![0.0], max: vec![2.0] }, &Device::Cpu).unwrap();
        model.set_activation_quantizer(graph.find(name).unwrap(), QuantSite { name: name.into(), quantizer });
    }
    model
}

fn with_task(body: impl FnOnce(&UnitTask<'_>)) {
    let mut model = model();
    let unit = model.graph().units()[0].clone();
    let input = noise(&[12, 32, 12, 12], 90);
    let output = noise(&[12, 40, 6, 6], 91);
    let data = UnitData::single(input.clone(), input, output);
    let mut task = UnitTask::new(&mut model, &unit, 0, UnitSamples::in_memory(&data).unwrap()).unwrap();
    task.begin(&[groups::ROUNDING, groups::SCALE]).unwrap();
    body(&task);
}

#[test]
fn a_step_allocates_nothing() {
    let _alone = ALONE.lock().unwrap();
    with_task(|task| {
        let random = SeededRandom { seed: 1 };
        let context = Context { random: &random, progress: &Silent, interruption: &Forget, engine: Engine::Fused };
        let mut unit = task.engine(7, &context).unwrap();
        let indices = [0, 11, 3, 3, 7, 5, 2];
        let mut step = |number: u32| {
            let keep = |site: usize| Keep::Random {
                stream: Stream { seed: 5, id: [number, site as u32, 0] },
                probability: 0.5,
            };
            unit.loss(&indices, &keep).unwrap();
            let rates = [(groups::ROUNDING, 1e-3), (groups::SCALE, 4e-5)];
            unit.update(&rates, Some(Regularizer { weight: 0.01, b: 20.0 })).unwrap();
        };
        // From a thread of the pool, because waking the pool sometimes allocates.
        in_pool(|| {
            // The first steps allocate the buffers of the threads.
            (0..20).for_each(&mut step);
            // The pool itself allocates now and then; an allocation by a step would show in every window.
            let windows = (2..8_u32).map(|window| {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                (0..10).for_each(|i| step(10 * window + i));
                ALLOCATIONS.load(Ordering::Relaxed) - before
            });
            let windows: Vec<usize> = windows.collect();
            assert!(windows.contains(&0), "allocations in 10 steps each: {windows:?}");
        });
    });
}

#[test]
fn memory_does_not_grow_over_iterations() {
    let _alone = ALONE.lock().unwrap();
    // Records the live bytes at the end of every step.
    struct Watch(Mutex<Vec<i64>>);
    impl qdrop_core::progress::Progress for Watch {
        fn event(&self, event: qdrop_core::progress::Event<'_>) {
            if let qdrop_core::progress::Event::Step { .. } = event {
                self.0.lock().unwrap().push(LIVE.load(Ordering::Relaxed));
            }
        }
    }
    for engine in [Engine::Fused, Engine::Generic] {
        let watch = Watch(Mutex::new(Vec::with_capacity(1000)));
        with_task(|task| {
            let random = SeededRandom { seed: 1 };
            let params = QdropParams { iters: 60, batch_size: 7, ..Default::default() };
            let context = Context { random: &random, progress: &watch, interruption: &Forget, engine };
            optimize(task, &params, &context).unwrap();
        });
        let live = watch.0.into_inner().unwrap();
        let (early, late) = (live[live.len() / 2], live[live.len() - 2]);
        // The list of losses and candle's allocations may grow a little.
        assert!(late - early < 16 << 10, "{engine:?}: {early} bytes became {late}");
    }
}
