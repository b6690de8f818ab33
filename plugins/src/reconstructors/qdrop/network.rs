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
        let opened: Vec<f32> = ops::host_values(hard, |hard| {
            let opened = |(i, (hard, float)): (usize, (&f32, &f32))| {
                let point = grid.nearest(i, *hard);
                let away = if *float < point { -open } else { open };
                point + away * grid.step(i)
            };
            hard.iter().zip(&float).enumerate().map(opened).collect()
        })?;
        let opened = Tensor::from_vec(opened, hard.dims(), hard.device())?;
        network.set_weight(node, opened)?;
    }
    Ok(())
}
