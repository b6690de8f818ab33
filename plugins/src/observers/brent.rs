//! Minimizes a function of one variable between bounds.

use qdrop_core::prelude::Result;

/// Brent's method with bounds (R. Brent, "Algorithms for Minimization without Derivatives", 1973,
/// chapter 5), with the tolerances of SciPy's `minimize_scalar(method="bounded")`: 1e-5 absolute,
/// at most 500 evaluations. Returns the position and the value of the minimum found.
///
/// # Errors
/// Those of `f`.
pub fn minimize(lower: f64, upper: f64, mut f: impl FnMut(f64) -> Result<f64>) -> Result<(f64, f64)> {
    const TOLERANCE: f64 = 1e-5;
    const MAX_EVALUATIONS: usize = 500;
    let relative = f64::EPSILON.sqrt();
    let golden = 0.5 * (3.0 - 5.0_f64.sqrt());
    let (mut a, mut b) = (lower, upper);
    // x is the best point, w the second best, v the previous value of w.
    let mut x = a + golden * (b - a);
    let (mut v, mut w) = (x, x);
    let mut fx = f(x)?;
    let (mut fv, mut fw) = (fx, fx);
    let (mut step, mut previous): (f64, f64) = (0.0, 0.0);
    let mut evaluations = 1;
    loop {
        let middle = 0.5 * (a + b);
        let tolerance = relative * x.abs() + TOLERANCE / 3.0;
        if (x - middle).abs() <= 2.0 * tolerance - 0.5 * (b - a) || evaluations >= MAX_EVALUATIONS {
            return Ok((x, fx));
        }
        let mut golden_step = true;
        if previous.abs() > tolerance {
            // Fit a parabola through x, w and v.
            let r = (x - w) * (fx - fv);
            let mut q = (x - v) * (fx - fw);
            let mut p = (x - v) * q - (x - w) * r;
            q = 2.0 * (q - r);
            if q > 0.0 {
                p = -p;
            }
            q = q.abs();
            let before = previous;
            previous = step;
            if p.abs() < (0.5 * q * before).abs() && p > q * (a - x) && p < q * (b - x) {
                step = p / q;
                let at = x + step;
                if at - a < 2.0 * tolerance || b - at < 2.0 * tolerance {
                    step = if middle >= x { tolerance } else { -tolerance };
                }
                golden_step = false;
            }
        }
        if golden_step {
            previous = if x >= middle { a - x } else { b - x };
            step = golden * previous;
        }
        let sign = if step >= 0.0 { 1.0 } else { -1.0 };
        let at = x + sign * step.abs().max(tolerance);
        let value = f(at)?;
        evaluations += 1;
        if value <= fx {
            if at >= x {
                a = x;
            } else {
                b = x;
            }
            (v, fv) = (w, fw);
            (w, fw) = (x, fx);
            (x, fx) = (at, value);
        } else {
            if at < x {
                a = at;
            } else {
                b = at;
            }
            if value <= fw || w == x {
                (v, fv) = (w, fw);
                (w, fw) = (at, value);
            } else if value <= fv || v == x || v == w {
                (v, fv) = (at, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::minimize;

    #[test]
    fn finds_known_minima() {
        let (x, value) = minimize(0.0, 4.0, |x| Ok((x - 1.3).powi(2) + 2.0)).unwrap();
        assert!((x - 1.3).abs() < 1e-4 && (value - 2.0).abs() < 1e-8);
        let (x, _) = minimize(1.0, 4.0, Ok).unwrap();
        assert!((x - 1.0).abs() < 1e-4);
        assert_eq!(minimize(0.0, 0.0, Ok).unwrap().0, 0.0);
    }
}
