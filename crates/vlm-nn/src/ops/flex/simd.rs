//! Loops compiled for the widest vectors of the running processor, and the functions that
//! such loops need in a form without branches.

/// Defines functions whose loops are compiled three times (baseline, AVX2, AVX-512) and
/// chosen at run time. Other architectures get the baseline, which has NEON on arm64.
macro_rules! simd {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the processor has just been seen to have these features.
                    return unsafe { avx512($($arg),*) };
                }
                if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )*};
}
pub(crate) use simd;

/// eˣ to about 2 ulp for x in −87…88, clamped outside; a polynomial after range reduction.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5·2²³: adding it leaves the rounded integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4;
    let r = r - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_66;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// 1 / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// tanh to about 1e-7 absolute.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

/// The error function to 1.5e-7 absolute (Abramowitz and Stegun 7.1.26); `exp_of` is e^(−x²).
#[inline(always)]
pub(crate) fn erf(x: f32, exp_of: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_7;
    p = p * t - 0.284_496_72;
    p = p * t + 0.254_829_6;
    (1.0 - p * t * exp_of).copysign(x)
}

/// Sums in 16 lanes, so that the loop vectorises and rounding errors stay small.
#[inline(always)]
pub(crate) fn sum_map(len: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = len / 16 * 16;
    let mut i = 0;
    while i < whole {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += f(i + j);
        }
        i += 16;
    }
    let mut sum: f32 = lanes.iter().sum();
    for i in whole..len {
        sum += f(i);
    }
    sum
}

/// The largest value, in lanes.
#[inline(always)]
pub(crate) fn max_of(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = x.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    let rest = chunks.remainder();
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_follow_double_precision() {
        for i in -8800..8800 {
            let x = i as f32 / 100.0;
            if (-87.0..88.0).contains(&x) {
                let want = f64::from(x).exp();
                let got = f64::from(exp(x));
                assert!((got / want - 1.0).abs() < 4e-7, "exp({x}): {got} against {want}");
            }
            let want = f64::from(x).tanh();
            assert!((f64::from(tanh(x)) - want).abs() < 3e-7, "tanh({x})");
        }
        // Values of erf from its table, to ten places.
        for (x, want) in
            [(0.0, 0.0), (0.5, 0.520_499_877_8), (1.0, 0.842_700_792_9), (2.0, 0.995_322_265_0)]
        {
            let got = f64::from(erf(x, exp(-x * x)));
            assert!((got - want).abs() < 4e-7, "erf({x}) = {got}");
            assert!((f64::from(erf(-x, exp(-x * x))) + want).abs() < 4e-7);
        }
    }

    #[test]
    fn lanes_agree_with_a_plain_loop() {
        let x: Vec<f32> = (0..53).map(|i| ((i * 37) % 17) as f32 - 8.0).collect();
        assert_eq!(sum_map(x.len(), |i| x[i]), x.iter().sum::<f32>());
        assert_eq!(max_of(&x), 8.0);
        assert_eq!(max_of(&x[..3]), x[..3].iter().copied().fold(f32::MIN, f32::max));
    }
}
