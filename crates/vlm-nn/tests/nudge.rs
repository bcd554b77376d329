//! Random directions that nobody keeps.

use burn::tensor::{Device, Tensor, TensorData};
use vlm_nn::ops::{LARGEST_COORDINATE, Nudge, nudge};

const GRID: f32 = 1.0 / 16_777_216.0;

fn still(key: u64) -> Nudge {
    Nudge { key, grid: GRID, eps: 0.0, times: 0, keep: 1.0, length: 0.0 }
}

fn flat(values: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex())
}

fn host(x: Tensor<1>) -> Vec<f32> {
    x.into_data().iter().collect()
}

/// A direction, scaled so that the grid does not show.
fn direction(key: u64, len: usize) -> Vec<f64> {
    let by = Nudge { eps: 1.0 / 16.0, times: 1, ..still(key) };
    host(nudge(flat(&vec![0.0; len]), by)).iter().map(|x| f64::from(*x) * 16.0).collect()
}

fn mean(x: impl Iterator<Item = f64>, len: usize) -> f64 {
    x.sum::<f64>() / len as f64
}

/// The moments of a normal distribution, each within five standard errors.
#[test]
fn directions_are_normal() {
    const LEN: usize = 1 << 20;
    let z = direction(7, LEN);
    let moment = |power: i32| mean(z.iter().map(|x| x.powi(power)), LEN);
    let error = |variance: f64| 5.0 * (variance / LEN as f64).sqrt();
    for (power, want, variance) in
        [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0), (6, 15.0, 10_170.0)]
    {
        let got = moment(power);
        assert!((got - want).abs() < error(variance), "moment {power}: {got}");
    }
    let largest = z.iter().fold(0f64, |most, x| most.max(x.abs()));
    assert!(largest > 4.5 && largest < f64::from(LARGEST_COORDINATE), "{largest}");
    // The share within one standard deviation, and within two.
    for (bound, want) in [(1.0, 0.682_689), (2.0, 0.954_500)] {
        let share = mean(z.iter().map(|x| f64::from(u8::from(x.abs() < bound))), LEN);
        assert!((share - want).abs() < error(want * (1.0 - want)), "within {bound}: {share}");
    }
}

/// Neither neighbours nor other keys have to do with a number.
#[test]
fn numbers_do_not_depend_on_each_other() {
    const LEN: usize = 1 << 18;
    let z = direction(0, LEN + 64);
    let error = 5.0 / (LEN as f64).sqrt();
    for shift in [1, 2, 8, 15, 16, 17, 31, 32, 64] {
        let product = mean((0..LEN).map(|i| z[i] * z[i + shift]), LEN);
        assert!(product.abs() < error, "shifted by {shift}: {product}");
        let squares =
            mean((0..LEN).map(|i| (z[i].powi(2) - 1.0) * (z[i + shift].powi(2) - 1.0)), LEN);
        assert!(squares.abs() < 2.0 * error, "squares shifted by {shift}: {squares}");
    }
    for key in [1, 2, 1 << 31, 1 << 32, u64::MAX] {
        let other = direction(key, LEN);
        let product = mean(z.iter().zip(&other).map(|(a, b)| a * b), LEN);
        assert!(product.abs() < error, "key {key}: {product}");
    }
}

/// Where a tensor ends does not matter, nor how often it is asked for.
#[test]
fn a_place_has_its_number() {
    let long = direction(3, 100_000);
    for len in [1, 15, 16, 31, 32, 33, 16_384, 16_385, 99_999] {
        assert_eq!(direction(3, len), long[..len], "{len}");
    }
}

/// There and back, a thousand times, and nothing has changed.
#[test]
fn moves_are_taken_back_exactly() {
    let begin: Vec<f32> =
        (0..5000).map(|i| ((i * 37 % 1009) as f32 / 1009.0 - 0.5) * 0.9).collect();
    let begin = host(nudge(flat(&begin), still(0)));
    let mut x = flat(&begin);
    for key in 0..1000 {
        for times in [1, -2, 1] {
            x = nudge(x, Nudge { eps: 1e-3, times, ..still(key) });
        }
    }
    assert_eq!(host(x), begin);
    let moved = host(nudge(flat(&begin), Nudge { eps: 1e-3, times: 1, ..still(1) }));
    assert!(moved.iter().zip(&begin).filter(|(a, b)| a != b).count() > 4990);
}

/// Moves that are a thousandth of the grid add up to what they should.
#[test]
fn small_moves_are_not_lost() {
    const STEPS: u32 = 4000;
    let z = direction(5, 4096);
    let step = f64::from(GRID) / 100.0;
    let mut x = flat(&[0.5; 4096]);
    for _ in 0..STEPS {
        x = nudge(x, Nudge { length: step, ..still(5) });
    }
    // The same direction is dithered in the same way, so that others have to be compared in the sum.
    let moved: Vec<f64> = host(x).iter().map(|x| f64::from(*x) - 0.5).collect();
    let along = mean(moved.iter().zip(&z).map(|(a, b)| -a * b), 4096);
    let want = step * f64::from(STEPS);
    assert!((along / want - 1.0).abs() < 0.2, "{along} of {want}");
    // Weight decay by itself.
    let x = nudge(flat(&[0.5; 4096]), Nudge { keep: 0.9, ..still(9) });
    for x in host(x) {
        assert!((x - 0.45).abs() <= GRID, "{x}");
    }
}
