//! Vectorizable `exp` and `ln`.
//!
//! The C library's functions are opaque calls and stop vectorization. These are the single
//! precision polynomials of the Cephes library (S. L. Moshier, `expf.c` and `logf.c`), summed pair by
//! pair (Estrin's scheme: the chain of operations that wait for each other is half as long); relative
//! error below 2e-7 on the ranges used here.

/// `e^x`; saturates outside [-87, 88].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let r2 = r * r;
    let p01 = 1.666_666_5e-1_f32.mul_add(r, 0.5);
    let p23 = 8.333_452e-3_f32.mul_add(r, 4.166_579_6e-2);
    let p45 = 1.987_569_1e-4_f32.mul_add(r, 1.398_199_9e-3);
    let p = p45.mul_add(r2, p23).mul_add(r2, p01);
    let y = p.mul_add(r2, r) + 1.0;
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
    let z2 = z * z;
    let p01 = (-2.499_999_4e-1_f32).mul_add(m, 3.333_333e-1);
    let p23 = (-1.666_805_7e-1_f32).mul_add(m, 2.000_071_5e-1);
    let p45 = (-1.242_014_1e-1_f32).mul_add(m, 1.424_932_3e-1);
    let p67 = (-1.151_461e-1_f32).mul_add(m, 1.167_699_9e-1);
    let high = 7.037_683_6e-2_f32.mul_add(z2, p67.mul_add(z, p45));
    let p = high.mul_add(z2, p23.mul_add(z, p01));
    let y = p * m * z;
    let y = e.mul_add(-2.121_944_4e-4, y) - 0.5 * z;
    m + y + e * 0.693_359_4
}

/// `x^2.4` for a non-negative number: the error measure of the range search. Relative error below
/// 1e-5; results below 2^-126 come out as 2^-126.
///
/// `2^(2.4 log2(x))` with near-minimax polynomials (fitted by reweighted least squares): `log2(1 + u) / u`
/// for u between `sqrt(1/2) - 1` and `sqrt(2) - 1`, error of the logarithm 3e-7; `2^r` for r in
/// [-1/2, 1/2], error 8e-8.
#[inline(always)]
pub fn power_2_4(x: f32) -> f32 {
    let bits = x.to_bits();
    // The exponent that leaves a mantissa between sqrt(1/2) and sqrt(2).
    let shifted = bits.wrapping_sub(std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = (shifted as i32 >> 23) as f32;
    let u = f32::from_bits((shifted & 0x007f_ffff) + std::f32::consts::FRAC_1_SQRT_2.to_bits()) - 1.0;
    let mut p = 0.170_656_82_f32;
    p = p.mul_add(u, -0.272_686_2);
    p = p.mul_add(u, 0.297_250_78);
    p = p.mul_add(u, -0.358_963_25);
    p = p.mul_add(u, 0.480_466_22);
    p = p.mul_add(u, -0.721_375_8);
    p = p.mul_add(u, 1.442_699_7);
    let y = 2.4 * p.mul_add(u, exponent);
    let y = if y < -126.0 { -126.0 } else { y };
    let y = if y > 127.0 { 127.0 } else { y };
    // Adding 1.5 * 2^23 rounds to an integer, which the low mantissa bits then hold.
    const MAGIC: f32 = 12_582_912.0;
    let n = y + MAGIC;
    let r = y - (n - MAGIC);
    let mut p = 1.341e-3_f32;
    p = p.mul_add(r, 9.676_036e-3);
    p = p.mul_add(r, 0.055_502_973);
    p = p.mul_add(r, 0.240_221_07);
    p = p.mul_add(r, 0.693_147_24);
    p = p.mul_add(r, 1.000_000_1);
    f32::from_bits(p.to_bits().wrapping_add(n.to_bits() << 23))
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

    #[test]
    fn the_power_agrees_with_f64() {
        for i in 0..200_000 {
            let x = 1e-12 * 1.000_3_f64.powi(i % 130_000) * (1.0 + i as f64 * 1e-9);
            let (x, want) = (x as f32, f64::from(x as f32).powf(2.4));
            assert!((f64::from(power_2_4(x)) - want).abs() <= 1e-5 * want, "{x}: {} {want}", power_2_4(x));
        }
        assert!(power_2_4(0.0) < 1.2e-38);
    }
}
