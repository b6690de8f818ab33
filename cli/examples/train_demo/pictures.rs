//! Pictures with items of Fashion-MNIST: in random colours, sizes and places, on a background of waves and shapes.

use crate::items::{Items, SIDE};
use crate::SEED;
use qdrop_core::kernels::boxes::{area, BBox};
use qdrop_core::kernels::random::Stream;
use qdrop_core::random::{stream, Purpose};

/// The longer side of an item in pixels.
const SIZES: [f64; 2] = [28.0, 124.0];
/// Most items of a picture.
const MOST: usize = 8;
/// Pixels of an item that are not darker belong to it.
const VISIBLE: u8 = 24;

/// A picture in RGB.
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<u8>,
    pub objects: Vec<Object>,
}

/// An item in a picture. The box encloses what is visible of it where nothing is in front.
pub struct Object {
    pub label: usize,
    pub bbox: BBox,
}

/// Random numbers, one after the other.
struct Draw {
    stream: Stream,
    next: usize,
}

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.next += 1;
        self.stream.below(self.next - 1, bound)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.next += 1;
        low + (high - low) * self.stream.uniform(self.next - 1)
    }

    fn colour(&mut self, low: f64, high: f64) -> [f64; 3] {
        [(); 3].map(|()| self.between(low, high))
    }
}

/// The picture `index` of a `part`; other parts have other pictures. It is `width` x `height` pixels large.
pub fn picture(items: &Items, (part, index): (u32, u32), [width, height]: [usize; 2]) -> Picture {
    let mut draw = Draw { stream: stream(SEED, Purpose::Augmentation, part, index), next: 0 };
    let mut canvas = Canvas { width, height, values: background(&mut draw, width, height) };
    for _ in 0..2 + draw.below(4) {
        canvas.shape(&mut draw);
    }
    let mut objects: Vec<Object> = Vec::new();
    for _ in 0..1 + draw.below(MOST) {
        let index = draw.below(items.len());
        let item = Item::new(items.image(index));
        let longest = draw.between(SIZES[0], SIZES[1].min(width.min(height) as f64));
        let scale = longest / item.width.max(item.height);
        let [w, h] = [item.width * scale, item.height * scale];
        let (x, y) = (draw.between(0.0, width as f64 - w), draw.between(0.0, height as f64 - h));
        let look =
            Look { mirrored: draw.below(2) == 1, colour: draw.colour(0.35, 1.0), contrast: draw.between(0.5, 1.0) };
        let bbox = [x, y, x + w, y + h].map(|edge| edge as f32);
        // Where another item would be hidden too much, this one is left out.
        if objects.iter().all(|other| hidden(other.bbox, bbox) < 0.4 && hidden(bbox, other.bbox) < 0.6) {
            canvas.item(&item, bbox, &look);
            objects.push(Object { label: items.label(index).into(), bbox });
        }
    }
    let pixels = canvas.values.iter().map(|value| (value + 0.5).clamp(0.0, 255.0) as u8).collect();
    Picture { width, height, pixels, objects }
}

/// The share of `a` that `b` covers.
fn hidden(a: BBox, b: BBox) -> f32 {
    let common = [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])];
    match common[2] > common[0] && common[3] > common[1] {
        true => area(common) / area(a),
        false => 0.0,
    }
}

/// Two colours that waves mix.
fn background(draw: &mut Draw, width: usize, height: usize) -> Vec<f64> {
    let colours = [draw.colour(20.0, 235.0), draw.colour(20.0, 235.0)];
    let waves = [(); 2].map(|()| {
        let (angle, frequency) = (draw.between(0.0, std::f64::consts::TAU), draw.between(0.02, 0.3));
        (frequency * angle.cos(), frequency * angle.sin(), draw.between(0.0, std::f64::consts::TAU))
    });
    let mut values = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let wave = |(fx, fy, phase): (f64, f64, f64)| (fx * x as f64 + fy * y as f64 + phase).sin();
            let share = 0.5 + 0.25 * (wave(waves[0]) + wave(waves[1]));
            values.extend((0..3).map(|c| colours[0][c] * share + colours[1][c] * (1.0 - share)));
        }
    }
    values
}

/// A picture that is drawn: R, G and B from 0 to 255 of each pixel.
struct Canvas {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl Canvas {
    /// Mixes a pixel with a colour.
    fn mix(&mut self, x: usize, y: usize, colour: [f64; 3], share: f64) {
        let at = (y * self.width + x) * 3;
        for (value, new) in self.values[at..at + 3].iter_mut().zip(colour) {
            *value += (new - *value) * share;
        }
    }

    /// Draws a rectangle or an ellipse, which is no object.
    fn shape(&mut self, draw: &mut Draw) {
        let (colour, share) = (draw.colour(0.0, 255.0), draw.between(0.4, 1.0));
        let (x, y) = (draw.between(0.0, self.width as f64), draw.between(0.0, self.height as f64));
        let (a, b) = (draw.between(2.0, 30.0), draw.between(2.0, 30.0));
        let angle = draw.between(0.0, std::f64::consts::PI);
        let round = draw.below(2) == 1;
        for py in 0..self.height {
            for px in 0..self.width {
                let (dx, dy) = (px as f64 - x, py as f64 - y);
                let (u, v) = (dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin());
                let (u, v) = ((u / a).abs(), (v / b).abs());
                if if round { u * u + v * v <= 1.0 } else { u.max(v) <= 1.0 } {
                    self.mix(px, py, colour, share);
                }
            }
        }
    }

    /// Draws an item so that it fills a box.
    fn item(&mut self, item: &Item<'_>, bbox: BBox, look: &Look) {
        let [x1, y1, x2, y2] = bbox.map(f64::from);
        for y in y1 as usize..self.height.min(y2.ceil() as usize) {
            for x in x1 as usize..self.width.min(x2.ceil() as usize) {
                let (u, v) = ((x as f64 + 0.5 - x1) / (x2 - x1), (y as f64 + 0.5 - y1) / (y2 - y1));
                if !(0.0..1.0).contains(&u) || !(0.0..1.0).contains(&v) {
                    continue;
                }
                let value = item.at(if look.mirrored { 1.0 - u } else { u }, v);
                let share = (value / f64::from(2 * VISIBLE)).min(1.0);
                let shade = 255.0 * (1.0 - look.contrast + look.contrast * value / 255.0);
                self.mix(x, y, look.colour.map(|c| c * shade), share);
            }
        }
    }
}

/// How an item is drawn.
struct Look {
    mirrored: bool,
    /// Factors of R, G and B.
    colour: [f64; 3],
    /// 1 leaves the item's brightness as it is, 0 makes it all equally bright.
    contrast: f64,
}

/// The part of an image that is not background.
struct Item<'a> {
    pixels: &'a [u8],
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl<'a> Item<'a> {
    fn new(pixels: &'a [u8]) -> Self {
        let seen = |row: usize, column: usize| pixels[row * SIDE + column] >= VISIBLE;
        let rows: Vec<usize> = (0..SIDE).filter(|r| (0..SIDE).any(|c| seen(*r, c))).collect();
        let columns: Vec<usize> = (0..SIDE).filter(|c| (0..SIDE).any(|r| seen(r, *c))).collect();
        let ends = |found: &[usize]| match found {
            [first, .., last] => (*first as f64, (last - first + 1) as f64),
            _ => (0.0, SIDE as f64),
        };
        let ((top, height), (left, width)) = (ends(&rows), ends(&columns));
        Self { pixels, left, top, width, height }
    }

    /// The brightness at a place between 0 and 1, bilinearly.
    fn at(&self, u: f64, v: f64) -> f64 {
        let (x, y) = (self.left + u * self.width - 0.5, self.top + v * self.height - 0.5);
        let (fx, fy) = (x - x.floor(), y - y.floor());
        let pixel = |x: f64, y: f64| {
            let inside = (0.0..SIDE as f64).contains(&x) && (0.0..SIDE as f64).contains(&y);
            if inside {
                f64::from(self.pixels[y as usize * SIDE + x as usize])
            } else {
                0.0
            }
        };
        let row = |y: f64| pixel(x.floor(), y) * (1.0 - fx) + pixel(x.floor() + 1.0, y) * fx;
        row(y.floor()) * (1.0 - fy) + row(y.floor() + 1.0) * fy
    }
}
