//! Every quantizer's values and gradients against those of the reference implementation.

use crate::support::*;
use qdrop_core::prelude::*;

const TOLERANCE: f32 = 1e-4;

fn set(q: &mut Box<dyn Quantizer>, scale: &Tensor, zero_point: &Tensor, device: &Device) {
    let params = QParams { scale: vec(scale), zero_point: vec(zero_point) };
    q.set_qparams(&params, device).unwrap();
}

fn var(q: &dyn Quantizer, name: &str) -> Option<Var> {
    q.parameters().unwrap().into_iter().find(|p| p.name == name).map(|p| p.var)
}

/// Compares relative to the largest element, because gradients are sums of thousands of terms.
fn close(label: &str, got: &Tensor, want: &Tensor) {
    let want = vec(want);
    let floor = want.iter().fold(1e-6_f32, |m, v| m.max(v.abs())) * 0.1;
    let error = worst(&vec(got), &want, floor);
    assert!(error <= TOLERANCE, "{label}: relative difference {error}");
}

#[test]
fn values_and_gradients_are_the_reference_ones() {
    let golden = golden("quantizers.safetensors");
    for device in devices() {
        let mut compared = 0;
        for name in ["fixed", "lsq", "lsq_plus"] {
            for bits in [2, 3, 4, 8] {
                for (grid, symmetric) in [("asym", false), ("sym", true)] {
                    for (axis, granularity) in [("tensor", Granularity::PerTensor), ("ch1", Granularity::PerAxis(1))] {
                        let key = |k: &str| format!("{name}.b{bits}.{grid}.{axis}.{k}");
                        let Some(scale) = golden.get(&key("scale")) else { continue };
                        let mut q = quantizer(name, &spec(bits, symmetric, granularity));
                        set(&mut q, scale, &golden[&key("zero_point")], &device);
                        if name != "fixed" {
                            q.begin_reconstruction(None).unwrap();
                        }
                        let x = Var::from_tensor(&golden["x"].to_device(&device).unwrap()).unwrap();
                        let y = q.fake_quantize(x.as_tensor()).unwrap();
                        close(&key("y"), &y, &golden[&key("y")]);
                        let upstream = golden["upstream"].to_device(&device).unwrap();
                        let grads = (y * upstream).unwrap().sum_all().unwrap().backward().unwrap();
                        close(&key("grad_x"), grads.get(x.as_tensor()).unwrap(), &golden[&key("grad_x")]);
                        for parameter in ["scale", "zero_point"] {
                            let Some(want) = golden.get(&key(&format!("grad_{parameter}"))) else { continue };
                            let var = var(&*q, parameter).unwrap();
                            close(&key(parameter), grads.get(var.as_tensor()).unwrap(), want);
                            compared += 1;
                        }
                        compared += 2;
                    }
                }
            }
        }
        let wanted = golden.keys().filter(|k| !k.starts_with("adaround"));
        let wanted = wanted.filter(|k| k.ends_with(".y") || k.contains(".grad_")).count();
        assert_eq!(compared, wanted);
    }
}

#[test]
fn adaround_is_the_reference_one() {
    let golden = golden("quantizers.safetensors");
    for device in devices() {
        let mut compared = 0;
        for bits in [2, 3, 4, 8] {
            for (grid, symmetric) in [("asym", false), ("sym", true)] {
                let key = |k: &str| format!("adaround.b{bits}.{grid}.{k}");
                let Some(scale) = golden.get(&key("scale")) else { continue };
                let w = golden["w"].to_device(&device).unwrap();
                let mut q = quantizer("adaround", &spec(bits, symmetric, Granularity::PerAxis(0)));
                set(&mut q, scale, &golden[&key("zero_point")], &device);
                close(&key("nearest"), &q.fake_quantize(&w).unwrap(), &golden[&key("nearest")]);
                q.begin_reconstruction(Some(&w)).unwrap();
                let alpha = var(&*q, "alpha").unwrap();
                close(&key("alpha_init"), alpha.as_tensor(), &golden[&key("alpha_init")]);
                alpha.set(&golden[&key("alpha")].to_device(&device).unwrap()).unwrap();
                close(&key("h"), &ops::soft_rounding(alpha.as_tensor()).unwrap(), &golden[&key("h")]);
                let soft = q.fake_quantize(&w).unwrap();
                close(&key("soft"), &soft, &golden[&key("soft")]);
                let upstream = golden["w_upstream"].to_device(&device).unwrap();
                let grads = (soft * upstream).unwrap().sum_all().unwrap().backward().unwrap();
                close(&key("grad_alpha"), grads.get(alpha.as_tensor()).unwrap(), &golden[&key("grad_alpha")]);
                for b in [20.0, 11.0, 2.0] {
                    let term = (q.regularizer(b).unwrap().unwrap() * 0.01).unwrap();
                    close(&key("round_loss"), &term.reshape(1).unwrap(), &golden[&key(&format!("round_loss.b{b}"))]);
                    let grads = term.backward().unwrap();
                    let want = &golden[&key(&format!("round_loss_grad.b{b}"))];
                    close(&key("round_loss_grad"), grads.get(alpha.as_tensor()).unwrap(), want);
                }
                // Straight through: the value of the hard rounding, the gradient of the soft one.
                let mut through =
                    quantizer("adaround {straight_through: true}", &spec(bits, symmetric, Granularity::PerAxis(0)));
                set(&mut through, scale, &golden[&key("zero_point")], &device);
                through.begin_reconstruction(Some(&w)).unwrap();
                let own = var(&*through, "alpha").unwrap();
                own.set(&alpha.as_tensor().copy().unwrap()).unwrap();
                let value = through.fake_quantize(&w).unwrap();
                close(&key("hard"), &value, &golden[&key("hard")]);
                let upstream = golden["w_upstream"].to_device(&device).unwrap();
                let grads = (value * upstream).unwrap().sum_all().unwrap().backward().unwrap();
                close(&key("grad_alpha"), grads.get(own.as_tensor()).unwrap(), &golden[&key("grad_alpha")]);
                assert!(through.regularizer(2.0).unwrap().is_none());

                let hard = q.finish_reconstruction(Some(&w)).unwrap().unwrap();
                close(&key("hard"), &hard, &golden[&key("hard")]);
                assert_eq!(vec(&q.fake_quantize(&hard).unwrap()), vec(&hard), "the hard value is exact");
                compared += 1;
            }
        }
        assert_eq!(compared, golden.keys().filter(|k| k.ends_with(".alpha_init")).count());
    }
}
