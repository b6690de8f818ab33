//! The last stage: the whole network learns as one unit to predict what the float network predicts. Layers make up for
//! errors that no unit alone can see, after EPTQ (arXiv 2309.11531) and AE-QDrop (Electronics 2024, 13, 644), which also
//! end with a stage for the whole network.

use super::grid::Grid;
use qdrop_core::prelude::*;

/// Opens the hard roundings of a network again: each weight moves from its integer towards the float weight, by `open`
/// steps of the grid. Learning can then still choose the other neighbour of the float weight.
pub fn open_roundings(network: &mut UnitTask<'_>, open: f32) -> Result<()> {
    let layers: Vec<NodeId> =
        network.nodes().iter().copied().filter(|id| network.model().weight_site(*id).is_some()).collect();
    for node in layers {
        let model = network.model();
        let (hard, Some(site)) = (model.weight(node)?, model.weight_site(node)) else { continue };
        let grid = Grid::of(&*site.quantizer, hard.dims())?;
        let float = ops::host_values(network.float_weight(node)?, <[f32]>::to_vec)?;
        let opened = ops::host_values(hard, |hard| opened(hard, &float, &grid, open))?;
        let opened = Tensor::from_vec(opened, hard.dims(), hard.device())?;
        network.set_weight(node, opened)?;
    }
    Ok(())
}

/// The opened roundings of one weight. Learned scales and matched statistics change the size of a channel, so the float weight
/// is compared at the size of the hard one: times the factor of the least squares.
fn opened(hard: &[f32], float: &[f32], grid: &Grid, open: f32) -> Vec<f32> {
    let mut products = vec![[0.0_f64; 2]; grid.channels()];
    for (i, (hard, float)) in hard.iter().zip(float).enumerate() {
        let [both, own] = &mut products[grid.channel(i)];
        *both += f64::from(hard * float);
        *own += f64::from(float * float);
    }
    let factors: Vec<f32> =
        products.iter().map(|[both, own]| if *both > 0.0 { (both / own) as f32 } else { 1.0 }).collect();
    let opened = |(i, (hard, float)): (usize, (&f32, &f32))| {
        let point = grid.nearest(i, *hard);
        let away = if float * factors[grid.channel(i)] < point { -open } else { open };
        point + away * grid.step(i)
    };
    hard.iter().zip(float).enumerate().map(opened).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_open_towards_the_float_weight_at_the_size_of_their_channel() {
        let spec = QuantSpec { bits: 4, symmetric: true, granularity: Granularity::PerAxis(0) };
        // The steps of the second channel have become three times as large since the float weight was rounded with 0.1.
        let params = QParams { scale: vec![0.1, 0.3], zero_point: vec![0.0; 2] };
        let grid = Grid::new(&spec, params, &[2, 4]).unwrap();
        let channel = [0.34, -0.36, 0.52, -0.17_f32];
        let steps = [3.0, -4.0, 5.0, -2.0_f32];
        let hard: Vec<f32> = [0.1, 0.3].iter().flat_map(|scale| steps.map(|q| q * scale)).collect();
        let got = opened(&hard, &[channel, channel].concat(), &grid, 0.2);
        let want = [3.2, -3.8, 5.2, -1.8_f32];
        for (i, got) in got.iter().enumerate() {
            let want = want[i % 4] * [0.1, 0.3][i / 4];
            assert!((got - want).abs() < 1e-6, "element {i}: {got} instead of {want}");
        }
    }
}
