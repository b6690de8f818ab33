use super::*;
use crate::testing;
use proptest::prelude::*;

fn noise(len: usize, seed: u64) -> Vec<f32> {
    testing::uniform(len, -1.0..1.0, seed)
}

fn close(got: &[f32], want: &[f64]) -> Result<(), TestCaseError> {
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        prop_assert!((f64::from(*g) - w).abs() <= 1e-5 * w.abs().max(4.0), "{i}: {g} {w}");
    }
    Ok(())
}

prop_compose! {
    fn shapes()(
        batch in 1_usize..4, groups in 1_usize..5, icg in 1_usize..5, ocg in 1_usize..5,
        depthwise in any::<bool>(),
        size in [3_usize..14, 3_usize..14], kernel in [1_usize..4, 1_usize..4],
        stride in [1_usize..4, 1_usize..4], dilation in [1_usize..3, 1_usize..3],
        pad in [0_usize..4, 0_usize..4, 0_usize..4, 0_usize..4],
    ) -> Conv2dShape {
        let icg = if depthwise { 1 } else { icg };
        Conv2dShape {
            batch, in_channels: groups * icg, in_height: size[0], in_width: size[1],
            out_channels: groups * ocg, kernel, stride, dilation, groups,
            padding: Padding { top: pad[0], bottom: pad[1], left: pad[2], right: pad[3] },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn agrees_with_the_reference(s in shapes()) {
        prop_assume!(s.validate().is_ok());
        let (x, w, g) = (noise(s.input_len(), 1), noise(s.weight_len(), 2), noise(s.output_len(), 3));
        let mut out = vec![7.0; s.output_len()];
        forward(&s, &x, &w, None, &mut out);
        close(&out, &reference::forward(&s, &x, &w))?;
        let bias = noise(s.out_channels, 4);
        let mut biased = vec![7.0; s.output_len()];
        forward(&s, &x, &w, Some(&bias), &mut biased);
        let plane = s.out_height() * s.out_width();
        for (i, (a, b)) in out.iter().zip(&biased).enumerate() {
            prop_assert!((a + bias[i / plane % s.out_channels] - b).abs() < 1e-4);
        }
        let mut dx = vec![7.0; s.input_len()];
        backward_input(&s, &w, &g, &mut dx);
        close(&dx, &reference::backward_input(&s, &w, &g))?;
        let mut dw = vec![7.0; s.weight_len()];
        backward_weight(&s, &x, &g, &mut dw);
        close(&dw, &reference::backward_weight(&s, &x, &g))?;
    }
}

#[test]
fn impossible_geometries_are_named() {
    let shape = Conv2dShape {
        batch: 1,
        in_channels: 4,
        in_height: 2,
        in_width: 2,
        out_channels: 6,
        kernel: [3, 3],
        stride: [1, 1],
        padding: Padding::default(),
        dilation: [1, 1],
        groups: 1,
    };
    assert!(matches!(shape.validate(), Err(ShapeError::Window { .. })));
    assert!(matches!(Conv2dShape { groups: 4, ..shape }.validate(), Err(ShapeError::Groups { .. })));
    assert_eq!(Conv2dShape { stride: [0, 1], ..shape }.validate(), Err(ShapeError::Zero("stride")));
}
