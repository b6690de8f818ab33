//! Detectors: a ResNet with a feature pyramid (FPN, arXiv 1612.03144), and a head that finds objects in it.
//!
//! The ResNet and the pyramid are the network's graph. Its outputs, the pyramid's levels, are read by the head, which stays in full
//! precision. There are two families: mmdetection's and torchvision's, whose rules and names of tensors differ.

mod faster_rcnn;
mod fpn;
mod layers;
mod names;
mod retinanet;
mod settings;
