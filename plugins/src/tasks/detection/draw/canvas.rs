//! A picture to draw on.

use embedded_graphics::mono_font::iso_8859_1::FONT_7X13_BOLD;
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyleBuilder, Rectangle, StrokeAlignment, StyledDrawable};
use embedded_graphics::text::{Baseline, Text};
use std::convert::Infallible;

/// The font of all texts. It has the letters of Western European languages; others become a question mark.
const FONT: MonoFont<'_> = FONT_7X13_BOLD;
/// Width of lines in pixels.
const LINE: u32 = 2;
/// Pixels around a text.
const MARGIN: i32 = 2;

/// Height of a line of text with its margins, in pixels.
pub const TEXT_HEIGHT: usize = FONT.character_size.height as usize + 2 * MARGIN as usize;

/// Red, green and blue of each pixel, row by row.
pub struct Canvas {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            let place = usize::try_from(x).ok().zip(usize::try_from(y).ok());
            let Some((x, y)) = place.filter(|(x, y)| *x < self.width && *y < self.height) else { continue };
            let at = 3 * (y * self.width + x);
            self.pixels[at..at + 3].copy_from_slice(&[color.r(), color.g(), color.b()]);
        }
        Ok(())
    }
}

impl Canvas {
    /// A white one.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![255; 3 * width * height] }
    }

    /// Copies another one so that its left upper corner is at (`left`, `top`), where there is room for it.
    pub fn paste(&mut self, other: &Self, left: usize, top: usize) {
        for (row, pixels) in other.pixels.chunks_exact(3 * other.width.max(1)).enumerate() {
            let at = 3 * ((top + row) * self.width + left);
            if let Some(target) = self.pixels.get_mut(at..at + pixels.len()) {
                target.copy_from_slice(pixels);
            }
        }
    }

    /// Draws the outline of a box, given by its left, upper, right and lower edge in pixels.
    pub fn outline(&mut self, corners: [f32; 4], color: Rgb888) {
        // Edges far outside are as good as just outside.
        let far = (self.width.max(self.height) + 16) as f32;
        let [left, top, right, bottom] = corners.map(|edge| edge.clamp(-16.0, far).round() as i32);
        let style = PrimitiveStyleBuilder::new()
            .stroke_color(color)
            .stroke_width(LINE)
            .stroke_alignment(StrokeAlignment::Inside)
            .build();
        let size = Size::new((right - left).max(LINE as i32) as u32, (bottom - top).max(LINE as i32) as u32);
        let Ok(()) = Rectangle::new(Point::new(left, top), size).draw_styled(&style, self);
    }

    /// Writes a text on a coloured ground: just above the point (`left`, `top`), and moved into the canvas where it would stand out.
    pub fn label(&mut self, text: &str, [left, top]: [f32; 2], ground: Rgb888) {
        let size = [text.chars().count() as i32 * FONT.character_size.width as i32 + 2 * MARGIN, TEXT_HEIGHT as i32];
        let most = [self.width as i32 - size[0], self.height as i32 - size[1]].map(|most| most.max(0));
        let [x, y] = [(left.round() as i32).clamp(0, most[0]), (top.round() as i32 - size[1]).clamp(0, most[1])];
        let area = Rectangle::new(Point::new(x, y), Size::new(size[0] as u32, size[1] as u32));
        let Ok(()) = self.fill_solid(&area, ground);
        self.text(text, [x + MARGIN, y + MARGIN], readable_on(ground));
    }

    /// Writes a text with its left upper corner at a point.
    pub fn text(&mut self, text: &str, [left, top]: [i32; 2], color: Rgb888) {
        let style = MonoTextStyle::new(&FONT, color);
        let Ok(_) = Text::with_baseline(text, Point::new(left, top), style, Baseline::Top).draw(self);
    }
}

/// Black or white, whichever is better to read on the colour (its luma of BT.601).
fn readable_on(ground: Rgb888) -> Rgb888 {
    let luma = 299 * u32::from(ground.r()) + 587 * u32::from(ground.g()) + 114 * u32::from(ground.b());
    if luma > 127_000 {
        Rgb888::BLACK
    } else {
        Rgb888::WHITE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixel(canvas: &Canvas, x: usize, y: usize) -> [u8; 3] {
        let at = 3 * (y * canvas.width + x);
        [canvas.pixels[at], canvas.pixels[at + 1], canvas.pixels[at + 2]]
    }

    #[test]
    fn outlines_are_where_the_box_is() {
        let mut canvas = Canvas::new(20, 10);
        canvas.outline([3.0, 2.0, 13.0, 8.0], Rgb888::new(1, 2, 3));
        let drawn = |x: usize, y: usize| pixel(&canvas, x, y) == [1, 2, 3];
        // Two pixels of each edge, inside of the box.
        let expected = |x: usize, y: usize| {
            let inside = (3..13).contains(&x) && (2..8).contains(&y);
            inside && !((5..11).contains(&x) && (4..6).contains(&y))
        };
        for (x, y) in (0..20).flat_map(|x| (0..10).map(move |y| (x, y))) {
            assert_eq!(drawn(x, y), expected(x, y), "{x} {y}");
        }
        // Whatever a network says, the rest of the canvas stays.
        canvas.outline([f32::NAN, -1e30, f32::INFINITY, 4.0], Rgb888::new(9, 9, 9));
        assert_eq!(pixel(&canvas, 19, 9), [255; 3]);
    }

    #[test]
    fn labels_stay_inside() {
        for place in [[0.0, 0.0], [1e9, 1e9], [-1e9, -1e9], [15.0, 30.0]] {
            let mut canvas = Canvas::new(60, 40);
            canvas.label("cat é", place, Rgb888::new(0, 0, 200));
            let ground = (0..60 * 40).filter(|i| canvas.pixels[3 * i..3 * i + 3] == [0, 0, 200]).count();
            let letters =
                (0..60 * 40).filter(|i| canvas.pixels[3 * i..3 * i + 3] == [255; 3]).count() - (60 * 40 - 39 * 17);
            assert_eq!(ground + letters, (5 * 7 + 4) * TEXT_HEIGHT, "{place:?}");
            assert!(letters > 20);
        }
        assert_eq!([readable_on(Rgb888::YELLOW), readable_on(Rgb888::BLUE)], [Rgb888::BLACK, Rgb888::WHITE]);
    }

    #[test]
    fn pictures_are_copied() {
        let (mut canvas, mut other) = (Canvas::new(5, 4), Canvas::new(2, 2));
        other.pixels = (1..13).collect();
        canvas.paste(&other, 3, 1);
        assert_eq!(
            [pixel(&canvas, 3, 1), pixel(&canvas, 4, 2), pixel(&canvas, 2, 1)],
            [[1, 2, 3], [10, 11, 12], [255; 3]]
        );
    }
}
