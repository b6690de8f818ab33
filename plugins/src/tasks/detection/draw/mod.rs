//! Pictures with the boxes of what is in them, and of what networks found.

mod canvas;

use super::names::category;
use super::objects::{self, FoundObject};
use canvas::{Canvas, TEXT_HEIGHT};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use image::imageops::{resize, FilterType};
use image::RgbImage;
use qdrop_core::prelude::*;

/// The longer side of every panel in pixels.
const SIDE: usize = 640;
/// Pixels between panels.
const GAP: usize = 8;
/// Objects with a lower score are not drawn.
const SURE: f32 = 0.3;

/// Colours that people with colour blindness tell apart (Okabe and Ito, Color Universal Design, 2008), without black.
const COLORS: [Rgb888; 7] = [
    Rgb888::new(230, 159, 0),
    Rgb888::new(86, 180, 233),
    Rgb888::new(0, 158, 115),
    Rgb888::new(240, 228, 66),
    Rgb888::new(0, 114, 178),
    Rgb888::new(213, 94, 0),
    Rgb888::new(204, 121, 167),
];

/// A box with its text.
struct Mark {
    label: usize,
    /// Left, top, right and bottom in pixels of the picture.
    corners: [f32; 4],
    text: String,
}

/// One panel for the annotations and one for each network, from left to right. Of what a network found, objects of a score of
/// at least 0.3 are drawn.
pub fn draw(
    picture: &Picture,
    target: &Target,
    networks: &[Drawn<'_>],
    categories: &[(u64, String)],
) -> Result<Picture> {
    let target = target.objects()?;
    let name =
        |label: usize| category(label, target.labels, categories).map_or_else(|| label.to_string(), |c| c.1.clone());
    let annotated = target.objects.iter().map(|Object { label, bbox, crowd, .. }| {
        let [left, top, width, height] = *bbox;
        let corners = [left, top, left + width, top + height].map(|edge| edge as f32);
        let kind = if *crowd { " (crowd)" } else { "" };
        Mark { label: *label, corners, text: format!("{}{kind}", name(*label)) }
    });
    let mut panels = vec![("annotated".to_string(), annotated.collect::<Vec<_>>())];
    for Drawn { title, outputs } in networks {
        let found = objects::found(outputs, &[Target::Objects(target.clone())])?;
        let sure = found.into_iter().flatten().filter(|object| object.score >= SURE);
        let mark = |FoundObject { label, score, corners }: FoundObject| {
            let text = format!("{} {score:.2}", name(label));
            Mark { label, corners, text }
        };
        let marks: Vec<Mark> = sure.map(mark).collect();
        panels.push((format!("{title}: {}", objects_in_words(marks.len())), marks));
    }
    let base = scaled(picture)?;
    let factors = [base.width as f32 / picture.width as f32, base.height as f32 / picture.height as f32];
    let width = panels.len() * (base.width + GAP) - GAP;
    let mut all = Canvas::new(width, TEXT_HEIGHT + base.height);
    for (i, (title, marks)) in panels.iter().enumerate() {
        let mut panel = Canvas { pixels: base.pixels.clone(), ..base };
        // The best ones, which come first, lie on top; texts on all boxes.
        let placed = |mark: &Mark| {
            let [x1, y1, x2, y2] = mark.corners;
            let [x, y] = factors;
            [x1 * x, y1 * y, x2 * x, y2 * y]
        };
        let color = |mark: &Mark| COLORS[mark.label % COLORS.len()];
        for mark in marks.iter().rev() {
            panel.outline(placed(mark), color(mark));
        }
        for mark in marks.iter().rev() {
            let [left, top, ..] = placed(mark);
            panel.label(&mark.text, [left, top], color(mark));
        }
        let left = i * (base.width + GAP);
        all.paste(&panel, left, TEXT_HEIGHT);
        all.text(title, [left as i32 + 2, 2], Rgb888::BLACK);
    }
    Ok(Picture { name: picture.name.clone(), width: all.width, height: all.height, pixels: all.pixels })
}

fn objects_in_words(count: usize) -> String {
    match count {
        1 => "1 object".into(),
        count => format!("{count} objects"),
    }
}

/// The picture as large as a panel.
fn scaled(picture: &Picture) -> Result<Canvas> {
    let Picture { name, width, height, pixels } = picture;
    let longer = (*width).max(*height).max(1);
    let [to_width, to_height] = [width, height].map(|side| (side * SIDE / longer).max(1));
    let image = RgbImage::from_raw(*width as u32, *height as u32, pixels.clone());
    let image = image.filter(|image| !image.is_empty());
    let image = image.ok_or_else(|| Error::message(format!("the picture {name} is no {width} x {height} pixels")))?;
    let image = match [to_width, to_height] == [*width, *height] {
        true => image,
        false => resize(&image, to_width as u32, to_height as u32, FilterType::Triangle),
    };
    Ok(Canvas { width: to_width, height: to_height, pixels: image.into_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_show_the_boxes_at_their_place() {
        // Twice as large in the panel.
        let (width, height) = (320, 160);
        let picture = Picture { name: "a".into(), width, height, pixels: vec![7; 3 * width * height] };
        let labels = Labels::InOrder { classes: 2 };
        let object = Object { label: 1, bbox: [40.0, 50.0, 100.0, 60.0], area: 6000.0, crowd: false };
        let target = Target::Objects(Objects { picture: 1, labels, objects: vec![object] });
        let rows = [[10.0_f32, 20.0, 110.0, 120.0, 0.9, 0.0], [50.0, 60.0, 70.0, 80.0, 0.2, 1.0]].concat();
        let outputs = vec![Tensor::from_vec(rows, (1, 2, 6), &Device::Cpu).unwrap()];
        let categories = [(3, "car".to_string()), (17, "cat".to_string())];
        let networks = [Drawn { title: "float", outputs }];
        let drawn = draw(&picture, &target, &networks, &categories).unwrap();
        assert_eq!([drawn.width, drawn.height], [2 * 640 + GAP, 320 + TEXT_HEIGHT]);
        let pixel = |panel: usize, x: usize, y: usize| {
            let at = 3 * ((y + TEXT_HEIGHT) * drawn.width + panel * (640 + GAP) + x);
            Rgb888::new(drawn.pixels[at], drawn.pixels[at + 1], drawn.pixels[at + 2])
        };
        let ground = Rgb888::new(7, 7, 7);
        // The annotated box has the colour of label 1, the one that was found that of label 0.
        for (panel, [left, top, right, bottom], color) in
            [(0, [80, 100, 280, 220], COLORS[1]), (1, [20, 40, 220, 240], COLORS[0])]
        {
            assert_eq!([pixel(panel, left, bottom - 5), pixel(panel, right - 1, bottom - 1)], [color; 2]);
            let outside = [pixel(panel, left - 1, bottom - 5), pixel(panel, right, bottom - 1)];
            assert_eq!([outside[0], outside[1], pixel(panel, left + 2, bottom - 3)], [ground; 3]);
            // The text stands on a ground of the same colour, above.
            assert_eq!(pixel(panel, left, top - 1), color);
        }
        // The unsure one is not drawn.
        assert_eq!(pixel(1, 120, 121), ground);
        // The space between the panels.
        let at = 3 * (TEXT_HEIGHT * drawn.width + 640);
        assert_eq!(drawn.pixels[at..at + 3 * GAP], [255; 3 * GAP]);
    }
}
