use qdrop_kernels::conv::*;
use qdrop_kernels::nhwc::*;
use std::time::Instant;
fn time(what: &str, gflop: f64, mut f: impl FnMut()) {
    f();
    let mut best = f64::MAX;
    for _ in 0..7 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    println!("  {what:28} {:8.3} ms {:7.1} GFLOP/s", best * 1e3, gflop / best / 1e9);
}
fn main() {
    rayon::ThreadPoolBuilder::new().num_threads(2).build_global().unwrap();
    for (c, s, b) in [(64, 56, 1), (64, 56, 2), (64, 56, 4), (128, 28, 8), (256, 14, 16), (512, 7, 32)] {
        let sh = Conv2dShape {
            batch: b,
            in_channels: c,
            in_height: s,
            in_width: s,
            out_channels: c,
            kernel: [3, 3],
            stride: [1, 1],
            dilation: [1, 1],
            groups: 1,
            padding: Padding::all(1),
        };
        let l = Layout { batch: b, height: s, width: s, channels: c, border: 1 };
        let z = Layout { border: 0, ..l };
        let mut x = Buffer::zeros(l.len());
        for i in 0..b {
            for r in 0..s {
                let o = l.offset(i, r);
                for v in &mut x[o..o + l.values()] {
                    *v = 0.5;
                }
            }
        }
        let p = PackedShape::of(&sh);
        let mut w = Buffer::zeros(p.len());
        w.fill(0.1);
        let mut out = Buffer::zeros(z.len());
        let g = 2.0 * 9.0 * (c * c * s * s * b) as f64;
        println!("{c} {s} {b}");
        let plan = RowPlan::forward(&sh, l, z);
        time("direct fwd", g, || plan.run(&x, &w, None, &mut out));
        let wp = WeightPlan::new(&sh, l, l);
        let mut dw = Buffer::zeros(p.len());
        time("direct bww", g, || wp.run(&x, &x, &mut dw, true));
        let mut u = Buffer::zeros(transformed_shape(&p).len());
        time("transformed", g, || transformed(&p, &w, &mut u));
        let mut ex = Buffer::zeros(p.len());
        time("mirrored", g, || mirrored(&sh, &w, &mut ex, &mut u));
        let plan = WinogradPlan::forward(&sh, l, z);
        time("wino fwd", g, || plan.run(&x, &u, None, &mut out));
        let wp = WinogradWeightPlan::new(&sh, l, l);
        let mut du = Buffer::zeros(u.len());
        time("wino bww", g, || wp.run(&x, &x, &mut du, true));
        time("grad of weight", g, || gradient_of_weight(&p, &du, &mut dw));
    }
}
