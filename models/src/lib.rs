//! The built-in architectures, each a page of graph-builder calls and its checkpoints' names.

mod mobilenet_v2;
mod resnet;
