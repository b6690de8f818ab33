//! Tasks: the purposes of networks.

mod classification;
