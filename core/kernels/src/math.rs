//! Vectorizable `exp` and powers.
//!
//! The C library's functions are opaque calls and stop vectorization.

/// `e^x`; saturates outside [-87, 88]. Relative error below 3e-7.
///
/// The polynomial of the Cephes library (S. L. Moshier, `expf.c`), summed pair by pair (Estrin's scheme: the
/// chain of operations that wait for each other is half as long).
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

/// `x^p` for a non-negative number and a positive power up to 20: the error measure of the range search
/// (2.4), and AdaRound's regularizer. Relative error below 1e-5; results below 2^-126 come out as 2^-126.
///
/// `2^(p log2(x))` with near-minimax polynomials (fitted by reweighted least squares): `log2(1 + u) / u`
/// for u between `sqrt(1/2) - 1` and `sqrt(2) - 1`, error of the logarithm 3e-7; `2^r` for r in
/// [-1/2, 1/2], error 2e-7 (its constant is 1, so that `1^p` is 1).
#[inline(always)]
pub fn power(x: f32, power: f32) -> f32 {
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
    let y = power * p.mul_add(u, exponent);
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
    p = p.mul_add(r, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(n.to_bits() << 23))
}

/// Logistic function `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function `2 / sqrt(pi) * integral of e^(-t^2) from 0 to x`. Absolute error below 5e-7.
///
/// `x P(x^2) / Q(x^2)` between -4 and 4, beyond which it is 1 in f32, with the coefficients of Eigen and XLA.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let x = if x < -4.0 { -4.0 } else { x };
    let x = if x > 4.0 { 4.0 } else { x };
    let x2 = x * x;
    let mut p = -2.726_142_3e-10_f32;
    p = p.mul_add(x2, 2.770_681_4e-8);
    p = p.mul_add(x2, -2.101_024e-6);
    p = p.mul_add(x2, -5.692_506_5e-5);
    p = p.mul_add(x2, -7.349_906_3e-4);
    p = p.mul_add(x2, -2.954_6e-3);
    p = p.mul_add(x2, -1.609_603_3e-2);
    let mut q = -1.456_607_2e-5_f32;
    q = q.mul_add(x2, -2.133_740_6e-4);
    q = q.mul_add(x2, -1.682_827e-3);
    q = q.mul_add(x2, -7.373_329e-3);
    q = q.mul_add(x2, -1.426_473_9e-2);
    x * p / q
}

/// Distribution function of the standard normal distribution: the share of its values below `x`.
#[inline(always)]
pub fn normal_below(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// Density of the standard normal distribution at `x`.
#[inline(always)]
pub fn normal_density(x: f32) -> f32 {
    // 1 / sqrt(2 pi).
    0.398_942_3 * exp(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_f64() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let want = (x as f64).exp();
            assert!((exp(x) as f64 - want).abs() <= 3e-7 * want, "exp({x})");
        }
    }

    #[test]
    fn the_error_function_agrees_with_its_series() {
        // Maclaurin's series in f64, which loses no more than 1e-9 to cancellation up to 4.
        let series = |x: f64| {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        for i in -4000..=4000 {
            let x = i as f32 * 0.001;
            let error = (f64::from(erf(x)) - series(f64::from(x))).abs();
            assert!(error < 5e-7, "erf({x}) = {} has the error {error}", erf(x));
        }
        assert!((erf(9.0) - 1.0).abs() < 5e-7 && (erf(-9.0) + 1.0).abs() < 5e-7);
    }

    #[test]
    fn the_power_agrees_with_f64() {
        let check = |x: f64, p: f32| {
            let (x, got) = (x as f32, power(x as f32, p));
            let want = f64::from(x).powf(f64::from(p)).max(f64::from(f32::MIN_POSITIVE));
            assert!((f64::from(got) - want).abs() <= 1e-5 * want, "{x}^{p}: {got} {want}");
        };
        for i in 0..200_000 {
            check(1e-12 * 1.000_3_f64.powi(i % 130_000) * (1.0 + i as f64 * 1e-9), 2.4);
            check(1e-5 * f64::from(i % 100_001), 1.0 + i as f32 * 9.5e-5);
        }
        assert!(power(0.0, 2.4) < 1.2e-38);
        assert_eq!(power(1.0, 19.0), 1.0);
    }
}
