//! Pictures as people look at them.

/// A picture, such as the one from which an image of a dataset was made, or one that shows what a network found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Its name in the dataset, which no other picture there has and a file can have: without folder and extension.
    pub name: String,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row: 3 x width x height values.
    pub pixels: Vec<u8>,
}
