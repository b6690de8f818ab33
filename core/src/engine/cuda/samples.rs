//! Where a step reads its images from.

use crate::cache::{CachedValues, Reservation};
use crate::cuda::device::{Buffer, Device, HostMemory};
use crate::cuda::kernels::{transpose, Chosen};
use crate::engine::samples::UnitSamples;
use crate::error::{Error, Result};
use candle_core::Tensor;
use std::sync::Arc;

/// Cached values of all samples.
enum Source {
    /// On the device, channels-last, one image after the other.
    Device(Buffer<f32>, #[allow(dead_code, reason = "held for its drop")] Option<Reservation>),
    /// On the host where the device copies fast, channels-last; every step copies what it reads.
    Host(Box<dyn HostMemory>, Room),
    /// As they are cached; every step copies what it reads to the device and rearranges it there.
    Cached(Arc<CachedValues>, Room),
}

/// Room for a batch as it is cached, and channels-last.
struct Room {
    planes: Buffer<f32>,
    values: Buffer<f32>,
}

impl Room {
    fn new(device: &dyn Device, len: usize) -> Result<Self> {
        Ok(Self { planes: Buffer::zeros(device, len)?, values: Buffer::zeros(device, len)? })
    }

    /// Takes samples (N, ...) as they are cached. `size` is channels and pixels of an image.
    fn fill(
        &self,
        device: &dyn Device,
        samples: &Tensor,
        size: [usize; 2],
        (out, first): (&Buffer<f32>, usize),
    ) -> Result<()> {
        self.planes.copy(device, &samples.contiguous()?)?;
        transpose(device, &self.planes, out, [samples.dim(0)?, size[0], size[1]], first)
    }
}

impl Source {
    /// Brings all samples to the device if they take at most half of its free memory, else to memory of the host that it
    /// copies fast; where the device leaves that to the cache's budget, to the device if there is room for a second copy. `size`
    /// is channels and pixels of an image.
    fn new(device: &dyn Device, cached: &Arc<CachedValues>, size: [usize; 2], batch: usize) -> Result<Self> {
        let (each, count) = (size[0] * size[1], cached.samples());
        if cached.largest() != each {
            let message = format!("cached values of {} elements for images of {size:?}", cached.largest());
            return Err(Error::message(message));
        }
        let room = Room::new(device, batch * each)?;
        let bytes = (count * each * size_of::<f32>()) as u64;
        let reservation = match device.free_memory()? {
            Some(free) if bytes <= free / 2 => None,
            Some(_) => {
                let Some(mut host) = device.host_memory(count * each)? else {
                    return Ok(Self::Cached(cached.clone(), room));
                };
                for (i, values) in host.values_mut().chunks_mut(batch * each).enumerate() {
                    let samples = cached.range(i * batch, values.len() / each)?;
                    room.fill(device, &samples, size, (&room.values, 0))?;
                    room.values.read_first(device, values)?;
                }
                return Ok(Self::Host(host, room));
            }
            None => match cached.reserve(bytes) {
                None => return Ok(Self::Cached(cached.clone(), room)),
                reservation => reservation,
            },
        };
        let all = Buffer::zeros(device, count * each)?;
        for first in (0..count).step_by(batch) {
            let samples = cached.range(first, batch.min(count - first))?;
            room.fill(device, &samples, size, (&all, first * each))?;
        }
        Ok(Self::Device(all, reservation))
    }

    /// Makes the given samples available on the device.
    fn load(&self, device: &dyn Device, samples: &[usize], size: [usize; 2]) -> Result<()> {
        match self {
            Self::Device(..) => Ok(()),
            Self::Host(host, room) => {
                let each = size[0] * size[1];
                let images = samples.iter().map(|sample| &host.values()[sample * each..][..each]);
                images.enumerate().try_for_each(|(i, image)| room.values.write(device, i * each, image))
            }
            Self::Cached(cached, room) => room.fill(device, &cached.gather(samples)?, size, (&room.values, 0)),
        }
    }

    fn chosen<'a>(&'a self, numbers: &'a Numbers) -> Chosen<'a> {
        match self {
            Self::Device(values, _) => Chosen { values, numbers: &numbers.samples },
            Self::Host(_, room) | Self::Cached(_, room) => Chosen { values: &room.values, numbers: &numbers.in_order },
        }
    }
}

/// The numbers of a batch's samples, and the numbers from 0 on.
struct Numbers {
    samples: Buffer<u32>,
    in_order: Buffer<u32>,
}

/// The cached inputs and outputs of a unit.
pub struct Samples {
    quantized_input: Source,
    float_input: Source,
    float_output: Source,
    numbers: Numbers,
    count: usize,
    input: [usize; 2],
    output: [usize; 2],
    /// The range to which the loss clips the output and its target.
    pub range: [f32; 2],
}

impl Samples {
    /// Prepares the samples for inputs and outputs of these sizes (C, H, W).
    pub fn new(
        device: &dyn Device,
        samples: &UnitSamples,
        input: [usize; 3],
        output: [usize; 3],
        batch: usize,
    ) -> Result<Self> {
        let [input, output] = [input, output].map(|[channels, height, width]| [channels, height * width]);
        // A chain has one input and one output.
        let source = |values: &[Arc<CachedValues>], size| match values {
            [one] => Source::new(device, one, size, batch),
            _ => Err(Error::message(format!("cached values of {} values for a chain, which has one", values.len()))),
        };
        let in_order: Vec<u32> = (0..batch as u32).collect();
        Ok(Self {
            quantized_input: source(&samples.quantized_inputs, input)?,
            float_input: source(&samples.float_inputs, input)?,
            float_output: source(&samples.float_outputs, output)?,
            numbers: Numbers { samples: Buffer::zeros(device, batch)?, in_order: Buffer::new(device, &in_order)? },
            count: samples.count(),
            input,
            output,
            range: samples.range(0),
        })
    }

    /// Brings the inputs of a step's samples to the device.
    pub fn begin(&self, device: &dyn Device, samples: &[usize]) -> Result<()> {
        if let Some(missing) = samples.iter().find(|s| **s >= self.count) {
            return Err(Error::message(format!("sample {missing} of {} cached ones does not exist", self.count)));
        }
        let numbers: Vec<u32> = samples.iter().map(|s| *s as u32).collect();
        self.numbers.samples.write(device, 0, &numbers)?;
        self.quantized_input.load(device, samples, self.input)?;
        self.float_input.load(device, samples, self.input)
    }

    /// The quantized and the full-precision inputs of the step's samples.
    pub fn inputs(&self) -> [Chosen<'_>; 2] {
        [&self.quantized_input, &self.float_input].map(|source| source.chosen(&self.numbers))
    }

    /// Brings the targets of the step's samples to the device.
    pub fn load_targets(&self, device: &dyn Device, samples: &[usize]) -> Result<()> {
        self.float_output.load(device, samples, self.output)
    }

    /// The target outputs of the step's samples.
    pub fn targets(&self) -> Chosen<'_> {
        self.float_output.chosen(&self.numbers)
    }
}
