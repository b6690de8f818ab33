//! Vectorizable `exp` and `ln`.
//!
//! The C library's functions are opaque calls and stop vectorization. These are the single
//! precision polynomials of the Cephes library (S. L. Moshier, `expf.c` and `logf.c`); relative
//! error below 2e-7 on the ranges used here.

/// `e^x`; saturates outside [-87, 88].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // n + 1.5 * 2^23 holds the integer n in its low mantissa bits; a saturating `as i32` would
    // stop vectorization.
    const MAGIC: f32 = 12_582_912.0;
    let bits = (n + MAGIC).to_bits().wrapping_sub(MAGIC.to_bits());
    y * f32::from_bits(bits.wrapping_add(127) << 23)
}

/// Natural logarithm of a positive number; values below 1e-30 are taken as 1e-30.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    let x = if x < 1e-30 { 1e-30 } else { x };
    let bits = x.to_bits();
    let exponent = ((bits >> 23) as i32 - 126) as f32;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f00_0000);
    let small = mantissa < std::f32::consts::FRAC_1_SQRT_2;
    let e = if small { exponent - 1.0 } else { exponent };
    let m = if small { mantissa + mantissa - 1.0 } else { mantissa - 1.0 };
    let z = m * m;
    let mut p = 7.037_683_6e-2_f32;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p.mul_add(m, c);
    }
    let y = p * m * z;
    let y = e.mul_add(-2.121_944_4e-4, y) - 0.5 * z;
    m + y + e * 0.693_359_4
}

/// Logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_agree_with_f64() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let want = (x as f64).exp();
            assert!((exp(x) as f64 - want).abs() <= 3e-7 * want, "exp({x})");
            let y = (x * 0.4).exp();
            let want = (y as f64).ln();
            assert!((ln(y) as f64 - want).abs() <= 3e-7 * want.abs().max(1.0), "ln({y})");
        }
        assert!(ln(0.0) < -69.0);
    }
}
