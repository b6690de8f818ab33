//! A plugin whose operator computes `(2 w)^2`. The program uses the result in a larger function.

use qdrop_core::prelude::*;

struct TwiceSquared;

impl Operator for TwiceSquared {
    fn name(&self) -> &'static str {
        "twice_squared"
    }

    fn shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        Ok(inputs.first().map(|shape| shape.to_vec()).unwrap_or_default())
    }

    fn forward(&self, inputs: &[&Tensor], _: &[&Tensor]) -> Result<Tensor> {
        let [w] = inputs else { return Err(Error::message("takes one input")) };
        Ok((*w * 2.0)?.sqr()?)
    }
}

struct Network;

impl Architecture for Network {
    fn graph(&self, params: &Params) -> Result<Graph> {
        params.expect_none()?;
        let mut b = GraphBuilder::new([3, 1, 1]);
        let x = b.input();
        let x = b.unit("conv", |b| b.conv2d("conv", x, Conv2d::new(3, 1)))?;
        let x = b.operator("twice", TwiceSquared, &[x])?;
        let x = b.flatten("flatten", x)?;
        b.finish(x)
    }
}

register_architecture! { name: "twice", aliases: [], summary: "an operator of its own", build: || Box::new(Network) }
