//! The built-in architectures: for each one a graph and the tensor names of its checkpoints.

mod detection;
mod mnasnet;
mod mobilenet_v2;
mod regnet;
mod resnet;
mod rounding;
