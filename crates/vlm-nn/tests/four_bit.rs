//! Weights of four bits against bitsandbytes.

use vlm_nn::four_bit::{Code, FourBit, Largest, dynamic_map};

/// 96 rows of 192 values, exact in f32.
fn weights() -> Vec<f32> {
    (0..18_432u64)
        .map(|i| {
            let u = (i * 7919 + 104_729) % 65_521;
            let k = 1 + (i / 64) % 7;
            ((u as f64 - 32_760.0) * k as f64 / f64::from(1 << 18)) as f32
        })
        .collect()
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte)).sum()
}

fn error(weights: &[f32], quantised: &FourBit) -> f64 {
    let square = |(a, b): (&f32, f32)| f64::from(a - b).powi(2);
    weights.iter().zip(quantised.values()).map(square).sum::<f64>() / weights.len() as f64
}

#[test]
fn bytes_and_values_are_those_of_bitsandbytes() {
    // Of bitsandbytes 0.50.2 on a CPU.
    let weights = weights();
    let plain = FourBit::of(&weights, Code::Nf4, 64, false);
    let first = [156, 239, 18, 54, 155, 223, 1, 53, 139, 222, 1, 36, 122, 206, 241, 36];
    assert_eq!(plain.packed[..16], first);
    assert_eq!(sum(&plain.packed), 1_146_712);
    let largest = [0.123_947_14, 0.246_215_82, 0.373_008_73, 0.498_901_37, 0.611_648_56];
    assert_eq!(plain.largest()[..5], largest);
    let values = [0.019_946_84, 0.054_624_725, 0.089_608_44, 0.123_947_14, -0.086_291_11];
    assert_eq!(plain.values()[..5], values);
    assert!((error(&weights, &plain) - 8.816_104e-4).abs() < 1e-9);

    let nested = FourBit::of(&weights, Code::Nf4, 64, true);
    assert_eq!(nested.packed, plain.packed);
    let Largest::Nested { codes, scales, map, offset } = &nested.largest else {
        panic!("not nested")
    };
    assert_eq!(codes[..7], [1, 24, 48, 159, 205, 231, 254]);
    assert_eq!(sum(codes), 36_903);
    // PyTorch's sum depends on the processor in its last bit.
    assert!((offset - 0.494_245_8).abs() <= f32::EPSILON / 2.0, "{offset}");
    for (ours, theirs) in scales.iter().zip([0.380_273_55, 0.379_018_5]) {
        assert!((ours - theirs).abs() <= f32::EPSILON / 2.0, "{ours}");
    }
    assert_eq!(map[..4], [-0.992_968_74, -0.978_906_3, -0.964_843_75, -0.950_781_2]);
    let values = nested.values();
    for (ours, theirs) in values.iter().zip([0.019_632_46, 0.053_763_79, 0.088_196_13]) {
        assert!((ours - theirs).abs() < 1e-7, "{ours} {theirs}");
    }
    assert!((error(&weights, &nested) - 8.829_651e-4).abs() < 1e-9);
}

#[test]
fn floats_of_four_bits_too() {
    let weights = weights();
    let plain = FourBit::of(&weights, Code::Fp4, 64, false);
    let first = [101, 35, 186, 206, 100, 35, 186, 222, 20, 82, 186, 223, 7, 82, 58, 220];
    assert_eq!(plain.packed[..16], first);
    assert_eq!(sum(&plain.packed), 1_211_808);
    assert!((error(&weights, &plain) - 1.304_42e-3).abs() < 1e-8);
    let nested = FourBit::of(&weights, Code::Fp4, 64, true);
    assert!((error(&weights, &nested) - 1.305_968e-3).abs() < 1e-8);
}

#[test]
fn an_empty_block_and_an_odd_end_are_kept() {
    assert_eq!(FourBit::of(&[0.0; 64], Code::Nf4, 64, false).packed, [0; 32]);
    let three = FourBit::of(&[1.0, -1.0, 0.5], Code::Nf4, 64, false);
    assert_eq!((&three.packed[..], three.largest()), (&[240, 192][..], vec![1.0]));
    assert_eq!(three.values(), [1.0, -1.0, Code::Nf4.values()[12]]);
}

#[test]
fn a_value_takes_little_more_than_four_bits() {
    let many = vec![0.5; 1 << 20];
    let bits = |nested: bool| {
        8.0 * FourBit::of(&many, Code::Nf4, 64, nested).bytes() as f64 / many.len() as f64
    };
    assert_eq!(bits(false), 4.5);
    // The map of eight bits is there once.
    assert!((bits(true) - 4.127).abs() < 0.01, "{}", bits(true));
}

#[test]
fn the_code_for_normal_values_loses_least_of_them() {
    // Box and Muller.
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    };
    let normal: Vec<f32> = (0..1 << 18)
        .map(|_| {
            let (a, b) = (uniform(), uniform());
            ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
        })
        .collect();
    let lost = |code, nested| error(&normal, &FourBit::of(&normal, code, 64, nested));
    let (nf4, nested, fp4) =
        (lost(Code::Nf4, false), lost(Code::Nf4, true), lost(Code::Fp4, false));
    // 0.00846, 0.00847 and 0.01493 with bitsandbytes.
    assert!((nf4 - 0.00846).abs() < 1e-4, "{nf4}");
    assert!(nested > nf4 && nested < 1.002 * nf4, "{nested}");
    assert!((fp4 - 0.01493).abs() < 2e-4, "{fp4}");
}

#[test]
fn the_map_is_that_of_bitsandbytes() {
    let map = dynamic_map();
    assert_eq!(map.len(), 256);
    let near_zero = [-7.75e-6, -3.25e-6, -5.5e-7, 0.0, 5.5e-7, 3.25e-6, 7.75e-6, 2.125e-5];
    for (ours, theirs) in map[124..].iter().zip(near_zero) {
        assert!((ours - theirs).abs() < 1e-11, "{ours} {theirs}");
    }
    assert_eq!(map[254..], [0.992_968_74, 1.0]);
    assert!((map.iter().map(|x| f64::from(*x)).sum::<f64>() - 1.0).abs() < 1e-6);
}
