//! Comparisons with torchvision and with mmdetection's rules (`golden.py` beside this file).

mod heads;
mod inputs;
mod pooling;
mod suppression;
