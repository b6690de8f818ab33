//! Helpers of the tests.

use qdrop_core::cuda;
use qdrop_core::pipeline::Registries;
use qdrop_core::prelude::*;
use qdrop_core::progress::{Event, Progress};
use qdrop_emulation::Emulation;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file of this crate.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").join(name)
}

/// Records warnings.
#[derive(Default)]
pub struct Warnings(pub Mutex<Vec<String>>);

impl Progress for Warnings {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// Requests to stop after so many steps.
pub struct StopAfter(pub AtomicUsize);

impl Progress for StopAfter {
    fn event(&self, event: Event<'_>) {
        if let Event::Step { .. } = event {
            let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        }
    }

    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// The tensors of a golden file.
pub fn golden(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(fixture("golden").join(name), &Device::Cpu).unwrap()
}

/// Everything that the linked crates register.
pub fn registries() -> &'static Registries {
    static REGISTRIES: OnceLock<Registries> = OnceLock::new();
    REGISTRIES.get_or_init(|| Registries::collect().unwrap())
}

/// The devices to run numeric tests on.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    if candle_core::utils::cuda_is_available() {
        match qdrop_core::device::open("cuda") {
            Ok(device) => devices.push(device),
            #[allow(clippy::print_stderr, reason = "a skipped test says so")]
            Err(error) => eprintln!("SKIPPED on CUDA: {error}"),
        }
    }
    devices
}

/// The devices of the CUDA engine: the emulation of its kernels, and a GPU if there is one; with QDROP_ONLY_GPU, for tools that
/// watch a GPU, that one alone.
pub fn cuda_devices() -> Vec<Arc<dyn cuda::Device>> {
    let emulation: Arc<dyn cuda::Device> = Arc::new(Emulation::default());
    Some(emulation).filter(|_| !only_gpu()).into_iter().chain(gpu()).collect()
}

pub fn only_gpu() -> bool {
    std::env::var_os("QDROP_ONLY_GPU").is_some()
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> Option<Arc<dyn cuda::Device>> {
    None
}

#[cfg(feature = "cuda")]
fn gpu() -> Option<Arc<dyn cuda::Device>> {
    devices().into_iter().find_map(|device| match device {
        Device::Cuda(device) => Some(cuda::Gpu::of(&device).unwrap() as Arc<dyn cuda::Device>),
        _ => None,
    })
}

/// How a unit's steps are computed: by an engine of a recipe, or by the CUDA engine on a device.
#[derive(Clone)]
pub enum Runs {
    Engine(Engine),
    Cuda(Arc<dyn cuda::Device>),
}

impl std::fmt::Debug for Runs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(engine) => engine.fmt(f),
            Self::Cuda(_) => "Cuda".fmt(f),
        }
    }
}

impl Runs {
    pub const GENERIC: Self = Self::Engine(Engine::Generic);
    pub const FUSED: Self = Self::Engine(Engine::Fused);

    /// All engines; the generic one, which the others are compared with, comes first.
    pub fn all() -> Vec<Self> {
        [Self::GENERIC, Self::FUSED].into_iter().chain(cuda_devices().into_iter().map(Self::Cuda)).collect()
    }

    pub fn engine(&self) -> Engine {
        match self {
            Self::Engine(engine) => *engine,
            Self::Cuda(_) => Engine::Fused,
        }
    }

    pub fn place<'a>(&self, task: UnitTask<'a>) -> UnitTask<'a> {
        match self {
            Self::Engine(_) => task,
            Self::Cuda(device) => task.on(device.clone()),
        }
    }
}

pub fn vec(x: &Tensor) -> Vec<f32> {
    let x = x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest relative difference. It is relative to the wanted value's magnitude, or to `floor` if that is larger.
pub fn worst(got: &[f32], want: &[f32], floor: f32) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| if g == w { 0.0 } else { (g - w).abs() / w.abs().max(floor) }).fold(0.0, f32::max)
}

/// Reproducible noise in [-1, 1].
pub fn noise(dims: &[usize], salt: u32) -> Tensor {
    let values = qdrop_kernels::testing::uniform(dims.iter().product(), -1.0..1.0, salt.into());
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
}

/// Noise for every parameter of a graph; bounds of clips are positive.
pub fn noise_parameters(graph: &qdrop_core::graph::Graph) -> std::collections::HashMap<String, Tensor> {
    let parameter = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let middle = if name.ends_with(".bound") { 0.5 } else { 0.0 };
        (name, noise(&shape, i as u32).affine(0.3, middle).unwrap())
    };
    graph.parameter_shapes().into_iter().enumerate().map(parameter).collect()
}

/// A quantizer's grid.
pub fn spec(bits: u32, symmetric: bool, granularity: Granularity) -> QuantSpec {
    QuantSpec::new(bits, symmetric, granularity, "bits").unwrap()
}

/// A quantizer from its name, or from its name and parameters: `adaround {learn_scale: true}`.
pub fn quantizer(name: &str, spec: &QuantSpec) -> Box<dyn Quantizer> {
    let (name, params) = name.split_once(' ').unwrap_or((name, "{}"));
    let params = Params::new("test", serde_yaml::from_str(params).unwrap());
    registries().quantizers.get(name, "test").unwrap().build(spec, &params).unwrap()
}

/// A file of the data folder that is next to the repository on some machines. Where it is missing,
/// the test prints a message and passes. Such a test must never be the only one of its kind.
#[expect(clippy::print_stderr, reason = "who runs the tests should see what was skipped")]
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    if !path.exists() {
        eprintln!("SKIPPED: {} is not on this machine", path.display());
        return None;
    }
    Some(path)
}

/// What a run of the binary printed.
pub struct Run {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The JSON line on stdout.
    pub fn json(&self) -> serde_json::Value {
        assert!(self.ok, "{}", self.stderr);
        assert_eq!(self.stdout.lines().count(), 1, "only JSON on stdout: {}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The message of a failed run.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert!(!self.ok, "the command succeeded: {}", self.stdout);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        &self.stderr
    }
}

/// A command whose signals do what they do by default: what started the tests, `nohup` for one, may ignore some.
pub fn with_default_signals(program: &str) -> std::process::Command {
    let mut command = std::process::Command::new("env");
    command.args(["--default-signal=HUP,INT,TERM", program]);
    command
}

/// Runs the binary.
pub fn qdrop(arguments: &[&str]) -> Run {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_qdrop")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { ok: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A Python interpreter that has these packages, without threads. `None`, and a line that says so, if there is none; the
/// variable PYTHON can name the interpreter.
#[expect(clippy::print_stderr, reason = "who runs the tests should see what was skipped")]
pub fn python(packages: &[&str]) -> Option<std::process::Command> {
    let program = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let command = || {
        let mut command = std::process::Command::new(&program);
        command.env("OMP_NUM_THREADS", "1");
        command
    };
    let there = command().args(["-c", &format!("import {}", packages.join(", "))]).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Some(command());
    }
    eprintln!("SKIPPED: {} has not all of {} (PYTHON names another one)", program.display(), packages.join(", "));
    None
}

/// A quantizer whose points are powers of two, whatever it says of its scales and zero points.
pub struct Powers(pub QuantSpec, pub QParams);

impl Quantizer for Powers {
    fn spec(&self) -> &QuantSpec {
        &self.0
    }

    fn set_qparams(&mut self, _: &QParams, _: &Device) -> Result<()> {
        Ok(())
    }

    fn qparams(&self) -> Result<QParams> {
        Ok(self.1.clone())
    }

    fn fake_quantize(&self, x: &Tensor) -> Result<Tensor> {
        let values: Vec<f32> = vec(x).into_iter().map(|v| v.signum() * v.abs().log2().round().exp2()).collect();
        Ok(Tensor::from_vec(values, x.dims(), x.device())?)
    }
}
