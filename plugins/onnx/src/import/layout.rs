//! What the axes of a value in the file are to a value of the graph, which is always (C, H, W) or flat. Transposing and most
//! reshaping changes only this.

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Images.
    Batch,
    /// Channels, or the features of a flat value.
    Channels,
    /// Rows.
    Height,
    /// Columns.
    Width,
    /// Groups of so many channels each, where the channels are two axes.
    Groups(usize),
    /// The channels in each of so many groups.
    Within(usize),
    /// Channels, rows and columns of an image, as one axis.
    Flat,
    /// Nothing: an axis of length 1.
    One,
}

/// What a reshaping does to the value besides its axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The channels are shuffled with so many groups.
    Shuffle(usize),
}

/// Length of an axis of a value with this shape (C, H, W) or (features); 0 for the number of images.
pub fn length(axis: Axis, shape: &[usize]) -> usize {
    let side = |i: usize| shape.get(i).copied().unwrap_or(1);
    match axis {
        Axis::Batch => 0,
        Axis::Channels => side(0),
        Axis::Height => side(1),
        Axis::Width => side(2),
        Axis::Groups(each) => side(0) / each.max(1),
        Axis::Within(groups) => side(0) / groups.max(1),
        Axis::Flat => shape.iter().product(),
        Axis::One => 1,
    }
}

/// The axes of an image as convolutions need it.
pub const IMAGE: [Axis; 4] = [Axis::Batch, Axis::Channels, Axis::Height, Axis::Width];
/// The axes of a flat value.
pub const FLAT: [Axis; 2] = [Axis::Batch, Axis::Channels];

/// The axes after a value of `shape` is given the sides `sides` (both without the batch, which stays the first axis).
///
/// # Errors
/// The new axes are neither the old ones nor parts of the channels nor all of an image.
pub fn reshaped(axes: &[Axis], shape: &[usize], sides: &[usize]) -> Result<(Vec<Axis>, Change), String> {
    let refused = || {
        let old: Vec<usize> = axes.iter().map(|a| length(*a, shape)).collect();
        format!("cannot give a value of the sides {old:?} the sides {sides:?}: only channels can be split and joined, and whole images flattened")
    };
    let mut change = Change::None;
    let mut new = Vec::new();
    // Axes of length 1 come and go.
    let old: Vec<Axis> = axes.iter().copied().filter(|a| length(*a, shape) != 1).collect();
    let mut rest = &old[..];
    let mut wanted = sides.iter().copied().peekable();
    while let Some(side) = wanted.next() {
        if side == 1 {
            new.push(Axis::One);
            continue;
        }
        let Some((first, after)) = rest.split_first() else { return Err(refused()) };
        let have = length(*first, shape);
        if have == side {
            new.push(*first);
            rest = after;
            continue;
        }
        if have > side {
            rest = after;
            let mut parts = vec![side];
            let mut product = side;
            while product < have {
                let Some(next) = wanted.next() else { return Err(refused()) };
                product = product.checked_mul(next).ok_or_else(refused)?;
                parts.push(next);
            }
            match (*first, &parts[..]) {
                (Axis::Channels, [groups, each]) if product == have => {
                    new.extend([Axis::Groups(*each), Axis::Within(*groups)]);
                }
                (Axis::Flat, parts) if product == have => new.extend(image_axes(parts, shape).ok_or_else(refused)?),
                _ => return Err(refused()),
            }
            continue;
        }
        // Joins axes.
        let mut joined = Vec::new();
        let mut product = 1;
        while product < side {
            let Some((axis, after)) = rest.split_first() else { return Err(refused()) };
            product *= length(*axis, shape);
            joined.push(*axis);
            rest = after;
        }
        let channels = match joined[..] {
            _ if product != side => return Err(refused()),
            [Axis::Groups(_), Axis::Within(_), ..] => 2,
            [Axis::Within(groups), Axis::Groups(_), ..] => {
                change = Change::Shuffle(groups);
                2
            }
            [Axis::Channels, ..] => 1,
            _ => return Err(refused()),
        };
        // What follows the channels: nothing, or all pixels.
        let pixels: Vec<Axis> = [Axis::Height, Axis::Width].into_iter().filter(|a| length(*a, shape) != 1).collect();
        match &joined[channels..] {
            [] => new.push(Axis::Channels),
            after if after == pixels => new.push(Axis::Flat),
            _ => return Err(refused()),
        }
    }
    if !rest.is_empty() {
        return Err(refused());
    }
    Ok((named(new, shape), change))
}

/// The sides of a whole image again, without those that are 1.
fn image_axes(parts: &[usize], shape: &[usize]) -> Option<Vec<Axis>> {
    let all = [Axis::Channels, Axis::Height, Axis::Width];
    let axes: Vec<Axis> = all.into_iter().filter(|a| length(*a, shape) != 1).collect();
    let parts: Vec<usize> = parts.iter().copied().filter(|side| *side != 1).collect();
    let fits = axes.len() == parts.len() && axes.iter().zip(&parts).all(|(a, side)| length(*a, shape) == *side);
    fits.then_some(axes)
}

/// Calls axes of length 1 by the names that they have in an image, where the order is that of an image; a single pixel's
/// flat value is its channels.
fn named(mut axes: Vec<Axis>, shape: &[usize]) -> Vec<Axis> {
    if shape.len() == 3 && axes.len() == 3 {
        let names = [Axis::Channels, Axis::Height, Axis::Width];
        let fits = axes.iter().zip(names).all(|(a, name)| *a == name || (*a == Axis::One && length(name, shape) == 1));
        if fits {
            return names.into();
        }
    }
    if let [only] = &mut axes[..] {
        if *only == Axis::One && shape.iter().product::<usize>() == 1 {
            *only = Axis::Channels;
        }
    }
    axes
}

#[cfg(test)]
mod tests {
    use super::*;
    use Axis::*;

    #[test]
    fn images_are_flattened_and_restored() {
        let image = [Channels, Height, Width];
        assert_eq!(reshaped(&image, &[3, 4, 5], &[60]), Ok((vec![Flat], Change::None)));
        assert_eq!(reshaped(&[Flat], &[3, 4, 5], &[3, 4, 5]), Ok((image.into(), Change::None)));
        // One pixel.
        assert_eq!(reshaped(&image, &[3, 1, 1], &[3]), Ok((vec![Channels], Change::None)));
        assert_eq!(reshaped(&[Channels], &[3, 1, 1], &[3, 1, 1]), Ok((image.into(), Change::None)));
        assert_eq!(reshaped(&[Channels], &[3], &[3, 1, 1]), Ok((vec![Channels, One, One], Change::None)));
        assert!(reshaped(&[Height, Width, Channels], &[3, 4, 5], &[60]).is_err());
        assert!(reshaped(&image, &[3, 4, 5], &[3, 20]).is_err());
        assert!(reshaped(&image, &[3, 4, 5], &[4, 15]).is_err());
    }

    #[test]
    fn channels_are_split_swapped_and_joined() {
        let (split, change) = reshaped(&[Channels, Height, Width], &[6, 4, 5], &[2, 3, 4, 5]).unwrap();
        assert_eq!((split.as_slice(), change), (&[Groups(3), Within(2), Height, Width][..], Change::None));
        let joined = reshaped(&split, &[6, 4, 5], &[6, 4, 5]);
        assert_eq!(joined, Ok((vec![Channels, Height, Width], Change::None)));
        let swapped = [Within(2), Groups(3), Height, Width];
        let joined = reshaped(&swapped, &[6, 4, 5], &[6, 4, 5]);
        assert_eq!(joined, Ok((vec![Channels, Height, Width], Change::Shuffle(2))));
        assert_eq!(reshaped(&swapped, &[6, 4, 5], &[120]), Ok((vec![Flat], Change::Shuffle(2))));
    }
}
