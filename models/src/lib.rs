//! The built-in architectures, each a page of graph-builder calls and its checkpoints' names.

mod mnasnet;
mod mobilenet_v2;
mod regnet;
mod resnet;
mod rounding;
